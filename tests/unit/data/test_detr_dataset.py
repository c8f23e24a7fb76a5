"""Everything that goes wrong in panoptic files, through DETR's loader, the check before a training, and the repair."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_faults import HEIGHT, SEGMENTS, WIDTH, PanopticFolder, label_ids
from detr_models import small_cfg
from PIL import Image

from panoptic_plugin.data.catalog import register_panoptic_dataset
from panoptic_plugin.data.loader import build_train_loader
from panoptic_plugin.data.validate.repair import repair
from panoptic_plugin.data.validate.run import validate
from panoptic_plugin.data.validate.source import Settings, Source
from panoptic_plugin.data.validate.training import check_before_training
from panoptic_plugin.errors import ConfigError, DatasetError
from panoptic_plugin.systems.detr.meta_arch import PanopticDETR

NAME = "detr_files"


@pytest.fixture
def data(tmp_path):
    return PanopticFolder(tmp_path / "set")


@pytest.fixture
def make_cfg(data, tmp_path):
    """Registers the dataset as it is by then, and gives a config that trains on it."""

    def make(**changes):
        data.write()
        paths = {"image_root": data.images, "panoptic_json": data.json, "panoptic_root": data.labels}
        register_panoptic_dataset(NAME, **{key: str(path) for key, path in paths.items()})
        keys = {"DATASETS.TRAIN": (NAME,), "DATASETS.TEST": (), "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2}
        keys |= {"INPUT.TARGET_GENERATOR": "detr", "INPUT.AUGMENT": False, "INPUT.MIN_SIZE_TEST": HEIGHT}
        keys |= {"DATALOADER.NUM_WORKERS": 0, "DATALOADER.ASPECT_RATIO_GROUPING": False, "SOLVER.IMS_PER_BATCH": 4}
        keys |= {"OUTPUT_DIR": str(tmp_path / "out"), "MODEL.DETR.NUM_CLASSES": 3, "DATASETS.VALIDATE": "full"}
        return small_cfg(**{**keys, **changes})

    return make


def samples(cfg) -> dict:
    """The first batch by image id, through the loader."""
    return {sample["image_id"]: sample for sample in next(iter(build_train_loader(cfg)))}


def train(cfg, batch) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    losses = PanopticDETR(cfg).train()(list(batch.values()))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    return losses


def labels_of(batch) -> dict[int, list[int]]:
    return {image_id: sorted(sample["labels"].tolist()) for image_id, sample in batch.items()}


def repaired(data, tmp_path, *, labels=False) -> list[int]:
    """Repair the set into new files, look at these again, and return which images are left."""
    source = Source("set", str(data.json), str(data.images), str(data.labels))
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}
    output, folder = str(tmp_path / "fixed.json"), str(tmp_path / "fixed") if labels else None
    repair(validate(source, Settings(num_workers=1), show_progress=False), output, folder)
    again = replace(source, panoptic_json=output, panoptic_root=folder or source.panoptic_root)
    assert validate(again, Settings(num_workers=1), show_progress=False).num_errors == 0
    assert {path: path.read_bytes() for path in before} == before
    return [annotation["image_id"] for annotation in json.loads(Path(output).read_text())["annotations"]]


def refused(cfg, words: str) -> str:
    with pytest.raises(DatasetError, match=words) as caught:
        check_before_training(cfg)
    return str(caught.value)


def test_a_segment_without_pixels_is_dropped_and_named(data, make_cfg, tmp_path):
    data.segments(2).append({**SEGMENTS[1], "id": 44})
    cfg = make_cfg()
    batch = samples(cfg)
    assert labels_of(batch) == {number: [1, 1, 2] for number in (1, 2, 3, 4)}
    train(cfg, batch)
    text = refused(cfg, r"only-in-json in .*panoptic\.json \(record 1, image 2, segment 44\)")
    assert "no pixel in 2.png, expected 1 or more" in text and "'panoptic data validate' lists and repairs" in text
    assert repaired(data, tmp_path) == [1, 2, 3, 4]


@pytest.mark.parametrize("bbox", [None, [], [0, 0, 2, 2]], ids=["missing", "empty", "wrong"])
def test_boxes_come_from_the_pixels(bbox, data, make_cfg, tmp_path):
    plain = samples(make_cfg())
    segment = data.segments(2)[1]
    segment.pop("bbox")
    if bbox is not None:
        segment.update(bbox=bbox, area=4)
    data.write()
    cfg = make_cfg()
    batch = samples(cfg)
    for image_id, sample in plain.items():
        assert torch.equal(batch[image_id]["boxes"], sample["boxes"])
    refused(cfg, r"(bbox|area)-mismatch in .*panoptic\.json \(record 1, image 2, segment 5\)")
    assert repaired(data, tmp_path) == [1, 2, 3, 4]
    mended = json.loads((tmp_path / "fixed.json").read_text())["annotations"][1]["segments_info"][1]
    assert (mended["bbox"], mended["area"]) == ([3, 2, 6, 4], 24)


def test_images_without_segments_train(data, make_cfg):
    for number in (1, 2, 3, 4):
        data.segments(number).clear()
        data.write_label(number, np.zeros((HEIGHT, WIDTH), np.int32))
    cfg = make_cfg()
    batch = samples(cfg)
    assert labels_of(batch) == {1: [], 2: [], 3: [], 4: []}
    losses = train(cfg, batch)
    assert losses["loss_bbox"] == losses["loss_mask"] == 0 and losses["loss_ce"] > 0
    check_before_training(cfg)  # a warning that no class occurs, and no error


def test_pixels_of_no_segment_are_background_and_named(data, make_cfg, tmp_path):
    ids = label_ids()
    ids[0, :5] = 9
    data.write_label(2, ids)
    cfg = make_cfg()
    batch = samples(cfg)
    assert not batch[2]["segment_index"][0].any() and len(batch[2]["labels"]) == 3
    refused(cfg, r"only-in-png in .*labels/2\.png \(record 1, image 2, segment 9\): 5 pixels of id 9")
    assert repaired(data, tmp_path) == [1, 3, 4]
    (tmp_path / "fixed.json").unlink()
    (tmp_path / "fixed.changes.json").unlink()
    assert repaired(data, tmp_path, labels=True) == [1, 2, 3, 4]


def test_categories_that_no_class_has(data, make_cfg):
    data.segments(2)[1]["category_id"] = 9
    cfg = make_cfg()
    with pytest.raises(
        DatasetError, match=r"image_id 2\): segments_info\[1\] has category_id 9.*none of the categories"
    ):
        build_train_loader(cfg)
    refused(cfg, r"unknown-category in .*panoptic\.json \(record 1, image 2, segment 5\)")


@pytest.mark.parametrize(
    ("category_id", "num_classes", "words"),
    [
        (3, 3, r"the category ids \[3\]; set it to at least 4"),  # officially it trains "no object"
        (50, 3, r"the category ids \[50\]; set it to at least 51"),
        (-1, 3, r"the category ids \[-1\]"),
    ],
    ids=["equal to the slots", "beyond them", "negative"],
)
def test_categories_that_no_slot_has(category_id, num_classes, words, data, make_cfg):
    data.content["categories"][0]["id"] = category_id
    for number in (1, 2, 3, 4):
        for segment in data.segments(number)[1:]:
            segment["category_id"] = category_id
    cfg = make_cfg(**{"MODEL.DETR.NUM_CLASSES": num_classes})
    with pytest.raises(ConfigError, match=words):
        PanopticDETR(cfg)
    if category_id > 0:
        assert PanopticDETR(make_cfg(**{"MODEL.DETR.LABEL_SPACE": "contiguous"})).slots == {0: 0, 1: 1}


def test_order_extensions_and_folders_do_not_matter(data, make_cfg):
    """Annotations are joined to images by their id; images are looked for below their folder."""
    for number in (1, 2, 3, 4):  # as many pixels of the first thing as the image's number
        ids = np.full((HEIGHT, WIDTH), 70000, np.int32)
        ids[0, :number] = 5
        data.write_label(number, ids)
        del data.segments(number)[2]
    data.content["annotations"].reverse()
    (data.images / "city").mkdir()
    (data.images / "3.jpg").rename(data.images / "city" / "3.jpg")
    (data.labels / "city").mkdir()
    (data.labels / "2.png").rename(data.labels / "city" / "2.png")
    data.content["annotations"][2]["file_name"] = "city/2.png"
    data.content["images"][0]["file_name"] = "1.png"  # it is a JPEG
    batch = samples(make_cfg())
    for number, sample in batch.items():
        assert sample["file_name"].endswith(f"{number}.{'jpg' if number % 2 else 'png'}")
        assert int((sample["segment_index"] == 1 + sample["labels"].tolist().index(1)).sum()) == number


def test_names_of_cityscapes_images_are_derived(data, make_cfg):
    """Its converter writes names of images that do not exist."""
    image_id = "aachen_000000_000019"
    (data.images / "aachen").mkdir()
    (data.images / "1.jpg").unlink()
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(picture).save(data.images / "aachen" / f"{image_id}_leftImg8bit.png")
    (data.labels / "1.png").rename(data.labels / f"{image_id}_gtFine_panoptic.png")
    data.content["images"][0].update(id=image_id, file_name=f"{image_id}_gtFine_leftImg8bit.png")
    data.content["annotations"][0].update(image_id=image_id, file_name=f"{image_id}_gtFine_panoptic.png")
    cfg = make_cfg()
    assert samples(cfg)[image_id]["file_name"].endswith(f"aachen/{image_id}_leftImg8bit.png")
    check_before_training(cfg)


def resave(path: Path, mode: str) -> None:
    image = Image.open(path)
    converted = image.quantize(16) if mode == "P" else image.convert(mode)
    converted.save(path)


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_labels_with_palette_or_opacity_are_read_by_their_colours(mode, data, make_cfg):
    plain = samples(make_cfg())[2]
    resave(data.labels / "2.png", mode)
    cfg = make_cfg()
    assert torch.equal(samples(cfg)[2]["segment_index"], plain["segment_index"])
    check_before_training(cfg)


@pytest.mark.parametrize("depth", ["fast", "full"])
def test_grey_labels_are_refused(depth, data, make_cfg, tmp_path):
    resave(data.labels / "2.png", "L")
    refused(make_cfg(**{"DATASETS.VALIDATE": depth}), r"wrong-mode in .*labels/2\.png.*mode L, expected mode RGB")
    assert repaired(data, tmp_path) == [1, 3, 4]


def test_labels_of_another_size_are_refused_with_both_files_and_sizes(data, make_cfg, tmp_path):
    Image.open(data.labels / "2.png").resize((10, 9), 0).save(data.labels / "2.png")
    cfg = make_cfg(**{"DATASETS.VALIDATE": "fast"})
    refused(cfg, r"wrong-size in .*labels/2\.png.*: 9x10, expected 12x20 as 2\.png")
    with pytest.raises(DatasetError) as caught:
        samples(cfg)
    for words in ("labels/2.png", "images/2.png", "9x10", "12x20"):
        assert words in str(caught.value)
    assert repaired(data, tmp_path) == [1, 3, 4]


@pytest.mark.parametrize("depth", ["fast", "full"])
def test_labels_saved_as_jpeg_are_refused(depth, data, make_cfg, tmp_path):
    Image.open(data.labels / "2.png").save(data.labels / "2.png", format="JPEG")
    refused(make_cfg(**{"DATASETS.VALIDATE": depth}), r"wrong-format in .*labels/2\.png.*JPEG content, expected PNG")
    assert repaired(data, tmp_path) == [1, 3, 4]


@pytest.mark.parametrize("how", ["saved as JPEG before", "anti-aliased"])
def test_labels_with_ids_that_nobody_wrote_are_refused(how, data, make_cfg, tmp_path):
    rgb = Image.open(data.labels / "2.png")
    if how == "anti-aliased":
        rgb = rgb.resize((40, 24), Image.Resampling.BICUBIC).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    else:
        rgb.save(tmp_path / "lossy.jpg", quality=60)
        rgb = Image.open(tmp_path / "lossy.jpg")
    rgb.save(data.labels / "2.png")
    text = refused(make_cfg(), r"(only-in-png|no-common-id) in .*labels/2\.png \(record 1, image 2\)")
    assert "was the label resized, smoothed or saved as JPEG?" in text or "none of the label's" in text
    assert repaired(data, tmp_path) == [1, 3, 4]


def test_more_segments_than_queries_are_a_warning_before_training(data, make_cfg, caplog):
    cfg = make_cfg(**{"MODEL.DETR.NUM_OBJECT_QUERIES": 2})
    with caplog.at_level(logging.WARNING, "panoptic_plugin"):
        (report,) = check_before_training(cfg)
    assert report.num_errors == 0 and "too-many-segments" in caplog.text and "NUM_OBJECT_QUERIES" in caplog.text
    assert "3 an image and at most 3" in caplog.text
    train(cfg, samples(cfg))
