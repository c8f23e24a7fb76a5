"""Generated gtFine against cityscapesscripts: its converter run on our labels writes what we wrote, file by file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from PIL import Image

from panoptic_plugin.data.synthesize import SynthesisOptions, synthesize


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    options = SynthesisOptions(num_train=9, num_val=4, height=64, width=128, seed=4)
    return synthesize(tmp_path_factory.mktemp("data"), options, num_workers=2)


@pytest.mark.parametrize("split", ["train", "val"])
def test_panoptic_set_equals_cityscapesscripts(dataset, split, tmp_path):
    convert2panoptic(str(dataset / "gtFine"), str(tmp_path), False, [split])
    name = f"cityscapes_panoptic_{split}"
    assert (tmp_path / f"{name}.json").read_text() == (dataset / "gtFine" / f"{name}.json").read_text()
    theirs = sorted((tmp_path / name).iterdir())
    assert [file.name for file in theirs] == sorted(file.name for file in (dataset / "gtFine" / name).iterdir())
    for file in theirs:
        ours = np.array(Image.open(dataset / "gtFine" / name / file.name))
        assert np.array_equal(ours, np.array(Image.open(file)))


def test_the_set_holds_crowds_void_odd_sizes_and_an_image_without_things(dataset):
    content = json.loads((dataset / "gtFine" / "cityscapes_panoptic_train.json").read_text())
    things = {category["id"] for category in content["categories"] if category["isthing"]}
    segments = [annotation["segments_info"] for annotation in content["annotations"]]
    assert any(segment["iscrowd"] for image in segments for segment in image)
    assert any(not any(segment["category_id"] in things for segment in image) for image in segments)
    assert any(image["height"] % 2 and image["width"] % 2 for image in content["images"])
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        assert sum(segment["area"] for segment in annotation["segments_info"]) < image["height"] * image["width"]


def test_label_files_agree_with_each_other(dataset):
    to_train = {label.id: label.trainId % 256 for label in labels}
    for file in sorted((dataset / "gtFine").glob("*/*/*_instanceIds.png")):
        instances = Image.open(file)
        assert instances.mode == "I;16"
        ids = np.array(instances)
        classes = np.array(Image.open(str(file).replace("instanceIds", "labelIds")))
        train = np.array(Image.open(str(file).replace("instanceIds", "labelTrainIds")))
        assert np.array_equal(np.where(ids < 1000, ids, ids // 1000), classes)
        assert all(np.all(train[classes == value] == to_train[int(value)]) for value in np.unique(classes))
        polygons = json.loads(file.with_name(file.name.replace("instanceIds.png", "polygons.json")).read_text())
        assert (polygons["imgHeight"], polygons["imgWidth"]) == ids.shape
        image = str(file).replace("gtFine/", "leftImg8bit/").replace("gtFine_instanceIds", "leftImg8bit")
        assert np.array(Image.open(image)).shape == (*ids.shape, 3)


def test_touching_things_of_one_class(dataset):
    touching = 0
    for file in (dataset / "gtFine").glob("*/*/*_instanceIds.png"):
        ids = np.array(Image.open(file)).astype(int)
        left, right = ids[:, :-1], ids[:, 1:]
        touching += np.count_nonzero((left != right) & (left >= 1000) & (left // 1000 == right // 1000))
    assert touching > 0
