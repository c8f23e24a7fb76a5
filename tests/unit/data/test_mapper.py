from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.catalog import register_panoptic_dataset
from panoptic_plugin.data.loader import build_test_loader, build_train_loader
from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.errors import ConfigError, DatasetError

ORIENTATION = 0x0112


@pytest.fixture
def cfg(tiny):
    register_panoptic_dataset("tiny", **tiny.paths)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("tiny",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (12,), 12
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.CROP.ENABLED = False
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


@pytest.fixture
def record(cfg):
    return DatasetCatalog.get("tiny")[0]


def test_training_sample(cfg, record):
    before = dict(record)
    sample = PanopticMapper(cfg)(record)
    assert record == before
    assert sample["image"].shape == (3, 12, 20) and sample["image"].dtype == torch.uint8
    blue_first = np.array(Image.open(record["file_name"]))[..., ::-1]
    assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), blue_first)
    assert sample["sem_seg"].unique().tolist() == [0, 1, 255]
    assert sample["center_points"] == [[3.5, 5.5], [8.0, 13.5]]
    assert (sample["height"], sample["width"], sample["image_id"]) == (12, 20, 4)


def test_no_label_is_read_at_test_time(cfg, record):
    record["pan_seg_file_name"] = "/nowhere.png"
    cfg.INPUT.MIN_SIZE_TEST = 24
    sample = PanopticMapper(cfg, is_train=False)(record)
    assert set(sample) == {"file_name", "image_id", "height", "width", "image"}
    assert sample["image"].shape == (3, 24, 40)
    assert (sample["height"], sample["width"]) == (12, 20)


def test_semantic_targets(cfg, record, tiny):
    cfg.INPUT.TARGET_GENERATOR = "semantic"
    mapper = PanopticMapper(cfg)
    from_panoptic = mapper(record)["sem_seg"]
    classes = from_panoptic.numpy().astype(np.uint8)
    Image.fromarray(classes).save(tiny.root / "classes.png")
    semantic_only = {"file_name": record["file_name"], "sem_seg_file_name": str(tiny.root / "classes.png")}
    assert torch.equal(mapper(semantic_only)["sem_seg"], from_panoptic)
    cfg.INPUT.TARGET_GENERATOR = "panoptic_deeplab"
    with pytest.raises(ConfigError, match="no panoptic label.*INPUT.TARGET_GENERATOR semantic"):
        PanopticMapper(cfg)(semantic_only)
    cfg.INPUT.TARGET_GENERATOR = "panoptic_deplab"
    with pytest.raises(ConfigError, match="Did you mean 'panoptic_deeplab'"):
        PanopticMapper(cfg)


# Sizes tell a quarter turn, not a half one: such a label is taken as upright, as Detectron2 takes it.
@pytest.mark.parametrize(
    "orientation, label_is_upright",
    [*((orientation, True) for orientation in range(1, 9)), *((orientation, False) for orientation in (1, 5, 6, 7, 8))],
)
def test_label_follows_the_images_exif(cfg, record, tiny, orientation, label_is_upright):
    """The image's pixels are its label's colours, so after reading both must still be equal."""
    stored = Image.open(record["pan_seg_file_name"])
    turned = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[orientation]
    upright = stored if turned is None else stored.transpose(Image.Transpose(turned))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored.save(tiny.root / "photo.png", exif=exif)
    (upright if label_is_upright else stored).save(tiny.root / "label.png")
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (upright.height if upright.height < upright.width else upright.width,)
    photo = {**record, "file_name": str(tiny.root / "photo.png"), "pan_seg_file_name": str(tiny.root / "label.png")}
    sample = PanopticMapper(cfg)(photo)
    assert (sample["height"], sample["width"]) == (upright.height, upright.width)
    assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), np.array(upright))
    is_stuff = torch.from_numpy(np.array(upright)[..., 2] == 1)
    assert torch.equal(sample["sem_seg"] == 0, is_stuff)


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        Image.open(path).resize((9, 9)).save(path)


@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "other size"])
def test_unusable_files_are_named(cfg, record, tiny, folder, how):
    path = getattr(tiny, folder) / "picture_4.png"
    damage(path, how)
    with pytest.raises(DatasetError) as caught:
        PanopticMapper(cfg)(record)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert any(remedy in message for remedy in ("check the dataset's folder", "copy it again", "correct", "make the"))


def test_crop_of_a_small_image_takes_what_there_is(cfg, record):
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [8, 64]
    for area in (1.0, 0.7):
        cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = area
        sample = PanopticMapper(cfg)(record)
        assert sample["image"].shape == (3, 8, 20) and sample["offset"].shape == (2, 8, 20)


def test_crop_by_category_area_counts_classes_not_segments(cfg, record):
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [6, 6]
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.8
    np.random.seed(0)
    mapper = PanopticMapper(cfg)
    mixed = 0
    for _ in range(20):
        counts = torch.bincount(mapper(record)["sem_seg"].flatten(), minlength=256)[:255]
        mixed += int(counts.max() < 0.8 * counts.sum())
    assert mixed >= 18


def test_flip_rotation_and_colours(cfg, record):
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.ROTATE90, cfg.INPUT.COLOR_JITTER = "vertical", True, True
    shapes = set()
    mapper = PanopticMapper(cfg)
    for seed in range(12):
        np.random.seed(seed)
        sample = mapper(record)
        shapes.add(tuple(sample["image"].shape))
        assert sample["sem_seg"].shape == sample["image"].shape[1:]
        assert (sample["sem_seg"] == 1).sum() == 74
    assert shapes == {(3, 12, 20), (3, 20, 12)}
    cfg.INPUT.RANDOM_FLIP = "diagonal"
    with pytest.raises(ConfigError, match="INPUT.RANDOM_FLIP is 'diagonal'"):
        PanopticMapper(cfg)


@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_same_batches(cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.SEED = 3

    def batches():
        from detectron2.utils.env import seed_all_rng

        seed_all_rng(3)
        iterator = iter(build_train_loader(cfg))
        return [next(iterator) for _ in range(3)]

    for one, other in zip(batches(), batches(), strict=True):
        assert [sample["image_id"] for sample in one] == [sample["image_id"] for sample in other]
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(one, other, strict=True))


def test_test_loader_sees_each_image_once(cfg):
    cfg.TEST.BATCH_SIZE = 2
    batches = list(build_test_loader(cfg, "tiny"))
    assert [[sample["image_id"] for sample in batch] for batch in batches] == [[4, 5], [6]]
    cfg.TEST.BATCH_SIZE = 0
    with pytest.raises(ConfigError, match="TEST.BATCH_SIZE is 0"):
        build_test_loader(cfg, "tiny")


def test_train_loader_names_a_wrong_config(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(ConfigError, match="SOLVER.IMS_PER_BATCH is 0"):
        build_train_loader(cfg)
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATASETS.TRAIN = 2, ()
    with pytest.raises(ConfigError, match="DATASETS.TRAIN is empty"):
        build_train_loader(cfg)
