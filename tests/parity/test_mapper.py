"""Our mapper against Detectron2's in one interpreter, on the same files and random numbers: equal to the bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from PIL import Image

from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.structures import ids_to_rgb

TENSORS = ("image", "sem_seg", "center", "offset", "sem_seg_weights", "center_weights", "offset_weights")
ORIENTATION = 0x0112
CITYSCAPES_SIZES = (512, 640, 704, 832, 896, 1024, 1152, 1216, 1344, 1408, 1536, 1664, 1728, 1856, 1920, 2048)


@pytest.fixture
def cfg():
    name = "mapper_parity"
    MetadataCatalog.get(name).set(ignore_label=255, thing_dataset_id_to_contiguous_id={24: 11, 25: 12, 26: 13})
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (name,)
    cfg.INPUT.GAUSSIAN_SIGMA = 3
    cfg.INPUT.SMALL_INSTANCE_AREA, cfg.INPUT.SMALL_INSTANCE_WEIGHT = 120, 3
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [32, 64]
    yield cfg
    MetadataCatalog.pop(name)


def make_record(folder, height, width, *, image_file="image.png", largest_id=33999, mode="RGB", exif=None, seed=0):
    """A noisy picture and ellipses with void between them, in which every pixel that is off by one is seen."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ids, segments = np.zeros((height, width), np.int32), []
    for segment_id in rng.choice(np.arange(1, largest_id), 12, replace=False):
        center, radius = rng.uniform(0, (height, width)), rng.uniform(2, max(4, width / 5), 2)
        ids[((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1] = segment_id
        segments.append({"id": int(segment_id), "category_id": int(rng.choice([0, 4, 11, 12, 13])), "iscrowd": 0})
    image, label = str(folder / image_file), str(folder / "label.png")
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    noise.save(image, **({"exif": exif} if exif else {}))
    Image.fromarray(ids_to_rgb(ids)).save(label)
    return {
        "file_name": image, "pan_seg_file_name": label, "segments_info": segments, "image_id": 7,
        "height": height, "width": width,
    }  # fmt: skip


def assert_same(cfg, record, seeds):
    ours, theirs = PanopticMapper(cfg), PanopticDeeplabDatasetMapper(cfg)
    for seed in seeds:
        found, expected = ([], [])
        for mapper, states in ((ours, found), (theirs, expected)):
            np.random.seed(seed)
            random.seed(seed)
            states += [mapper(dict(record)), np.random.random(), random.random()]
        assert found[1:] == expected[1:], "other random numbers were drawn"
        for key in TENSORS:
            one, other = found[0][key], expected[0][key]
            assert one.dtype == other.dtype and one.shape == other.shape, key
            assert torch.equal(one, other) and one.numpy().tobytes() == other.numpy().tobytes(), key
        assert found[0]["center_points"] == expected[0]["center_points"]
        assert (found[0]["height"], found[0]["width"]) == (expected[0]["height"], expected[0]["width"])


@pytest.mark.parametrize("scale", CITYSCAPES_SIZES)
def test_bit_equal_at_all_scales_of_cityscapes(cfg, tmp_path, scale):
    """At an eighth of the size; both flips come up."""
    record = make_record(tmp_path, 128, 256)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (scale // 8,), 512
    cfg.INPUT.CROP.SIZE = [64, 128]
    assert_same(cfg, record, range(4))


@pytest.mark.parametrize("size", [(60, 80), (80, 53), (61, 83), (77, 77), (107, 33), (33, 107), (41, 1), (1, 40)])
def test_bit_equal_on_photos_of_any_shape(cfg, tmp_path, size):
    """As COCO has them: JPEG, colours as ids, sizes without a common divisor, longest edge limited."""
    record = make_record(tmp_path, *size, image_file="image.jpg", largest_id=2**24)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120), 120
    cfg.INPUT.CROP.SIZE = [80, 80]
    assert_same(cfg, record, range(16))


@pytest.mark.parametrize(
    "options",
    [
        ["INPUT.CROP.ENABLED", False],
        ["INPUT.CROP.TYPE", "relative_range", "INPUT.CROP.SIZE", [0.3, 0.3]],
        ["INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [20, 50]],
        ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (20, 130)],
        ["INPUT.MIN_SIZE_TRAIN", (0,)],
        ["INPUT.FORMAT", "RGB", "INPUT.IGNORE_STUFF_IN_OFFSET", True],
    ],
)
def test_bit_equal_for_other_recipes(cfg, tmp_path, options):
    cfg.INPUT.MIN_SIZE_TRAIN = (35, 64, 90)
    cfg.merge_from_list(options)
    assert_same(cfg, make_record(tmp_path, 64, 96), range(8))


@pytest.mark.parametrize(
    "suffix, mode", [("png", "L"), ("png", "RGBA"), ("png", "P"), ("jpg", "L"), ("jpg", "CMYK"), ("tiff", "CMYK")]
)
def test_bit_equal_for_images_stored_otherwise(cfg, tmp_path, suffix, mode):
    image_file = f"image.{suffix}"
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 64, 90)
    assert_same(cfg, make_record(tmp_path, 64, 96, image_file=image_file, mode=mode), range(3))


@pytest.mark.parametrize("image_file", ["image.png", "image.jpg"])
@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_bit_equal_for_turned_images(cfg, tmp_path, image_file, orientation):
    """Detectron2 turns the image alone; a label of the same size is taken as upright by both."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 64, 90)
    assert_same(cfg, make_record(tmp_path, 64, 96, image_file=image_file, exif=exif), range(3))


def test_any_augmentations_do_what_they_do_in_detectron2(cfg, tmp_path):
    """A list that does not begin with our own resizing takes the pixels as they come."""
    from detectron2.data import transforms as T

    record = make_record(tmp_path, 64, 96, largest_id=2**24)
    augmentations = [T.RandomFlip(), T.ResizeScale(0.5, 2.0, 60, 90), T.RandomCrop("absolute", (25, 30))]
    ours, theirs = PanopticMapper(cfg), PanopticDeeplabDatasetMapper(cfg)
    ours.augmentations = theirs.augmentations = T.AugmentationList(augmentations)
    for seed in range(4):
        np.random.seed(seed)
        found = ours(record)
        np.random.seed(seed)
        expected = theirs(dict(record))
        assert all(torch.equal(found[key], expected[key]) for key in TENSORS)
