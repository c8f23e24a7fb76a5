"""Which datasets one call can register, and what it refuses because a class would silently become another one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from panoptic_plugin.data.catalog import register_panoptic_dataset
from panoptic_plugin.data.reading import read_image, read_label
from panoptic_plugin.errors import DatasetError


def records(tiny, **metadata):
    register_panoptic_dataset("tiny", **tiny.paths, **metadata)
    return DatasetCatalog.get("tiny")


@pytest.mark.parametrize("isthing", [0, 1])
def test_stuff_only_and_things_only_sets(tiny, isthing):
    for category in tiny.content["categories"]:
        category["isthing"] = isthing
    tiny.write()
    assert len(records(tiny)) == 3
    metadata = MetadataCatalog.get("tiny")
    full, empty = metadata.stuff_dataset_id_to_contiguous_id, metadata.thing_dataset_id_to_contiguous_id
    assert (empty, full) == (({}, {3: 0, 7: 1, 21: 2}) if not isthing else ({3: 0, 7: 1, 21: 2}, {}))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_images_keep_their_label(tiny, orientation):
    """A label drawn on the stored pixels, and a photo whose EXIF entry turns it."""
    upright = Image.open(tiny.images / "picture_4.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.save(tiny.images / "picture_4.jpg", exif=exif, quality=100)
    (tiny.images / "picture_4.png").unlink()
    record = records(tiny)[0]
    assert record["file_name"].endswith("picture_4.jpg")
    image = read_image(record["file_name"], "RGB")
    label = read_label(record["pan_seg_file_name"], "RGB", record["file_name"], image.shape[:2])
    assert label.shape == image.shape and (image.shape[0] == 20) == (orientation >= 5)


def test_annotation_files_beside_the_images_are_no_images(tiny):
    for image in tiny.content["images"]:
        image["file_name"] = image["file_name"].replace(".png", ".tiff")
        (tiny.images / image["file_name"].replace(".tiff", ".json")).write_text("{}")
    tiny.write()
    assert records(tiny)[0]["file_name"] == str(tiny.images / "picture_4.png")


def test_the_same_stem_in_two_folders(tiny):
    for folder in ("day", "night"):
        (tiny.images / folder).mkdir()
        shutil.copy(tiny.images / "picture_4.png", tiny.images / folder / "picture_4.png")
    (tiny.images / "picture_4.png").unlink()
    tiny.content["images"][0]["file_name"] = "night/picture_4.jpg"
    tiny.write()
    assert records(tiny)[0]["file_name"] == str(tiny.images / "night/picture_4.png")
    tiny.content["images"][0]["file_name"] = "picture_4.jpg"
    tiny.write()
    with pytest.raises(DatasetError, match="day/picture_4.png and night/picture_4.png could both be meant"):
        DatasetCatalog.get("tiny")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": 0}, "has id 0, expected 1 to 16777215"),
        ({"id": 1 << 24}, "has id 16777216"),
        ({"id": "5"}, "has id '5'"),
        ({"id": 70000}, "segment id 70000 stands twice"),
        ({"category_id": True}, "has category_id True"),
        ({"category_id": 7.0}, "has category_id 7.0"),
        ({"category_id": 255}, "has category_id 255"),
        ({"category_id": -1}, "has category_id -1"),
    ],
)
def test_ids_that_would_silently_be_nothing_or_another_class(tiny, change, message):
    tiny.content["annotations"][1]["segments_info"][1].update(change)
    tiny.write()
    with pytest.raises(DatasetError, match=rf"annotations\[1\] \(image_id 5\).*{message}"):
        records(tiny)


def test_more_classes_than_a_label_holds(tiny):
    more = [{"id": 100 + n, "name": f"class {n}", "isthing": 0} for n in range(252)]
    tiny.content["categories"] += more
    tiny.write()
    assert len(records(tiny)) == 3  # 255 classes: 0 to 254
    tiny.content["categories"].append({"id": 999, "name": "one too many", "isthing": 0})
    tiny.write()
    with pytest.raises(DatasetError, match="'other': 256 classes, but the value 255 marks pixels without a class"):
        register_panoptic_dataset("other", **tiny.paths)


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"thing_dataset_id_to_contiguous_id": {7: 3}}, r"contiguous ids \[0, 2, 3\], expected 0 to 2"),
        ({"thing_dataset_id_to_contiguous_id": {7: 0}}, r"contiguous ids \[0, 0, 2\]"),
        ({"thing_dataset_id_to_contiguous_id": {}}, r"categories \[7\] of the JSON have no contiguous id"),
        ({"stuff_classes": ["a", "b"]}, "its 2 classes have the contiguous ids"),
        ({"ignore_label": 1}, "the value 1 marks pixels without a class"),
    ],
)
def test_metadata_that_would_move_a_class(tiny, metadata, message):
    with pytest.raises(DatasetError, match=message):
        records(tiny, **metadata)


def test_given_metadata_hold_for_the_records_too(tiny):
    swapped = {"thing_dataset_id_to_contiguous_id": {7: 0}, "stuff_dataset_id_to_contiguous_id": {3: 1, 21: 2}}
    found = records(tiny, **swapped, stuff_classes=["cell", "ground", "wall"], thing_classes=["cell", "ground", "wall"])
    assert [segment["category_id"] for segment in found[0]["segments_info"]] == [1, 0, 0]
    assert np.array_equal([segment["isthing"] for segment in found[0]["segments_info"]], [False, True, True])
