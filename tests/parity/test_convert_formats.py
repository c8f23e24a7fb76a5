"""Converters against the published tools and data of each format: equal, or equal but for what is named here."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from panoptic_sets import assert_consistent
from panopticapi.evaluation import pq_compute
from PIL import Image
from pycocotools import mask as rle

from panoptic_plugin.data.convert import masks
from panoptic_plugin.data.convert.cityscapes import convert_cityscapes, convert_train_ids, train_id_table
from panoptic_plugin.data.convert.to_instances import convert_to_instances
from panoptic_plugin.data.convert.two_channel import convert_from_two_channel, convert_to_two_channel
from panoptic_plugin.data.synthesize import SynthesisOptions, synthesize


@pytest.fixture(scope="module")
def gt_fine(tmp_path_factory):
    options = SynthesisOptions(num_train=6, num_val=2, height=64, width=128, seed=4)
    return synthesize(tmp_path_factory.mktemp("data"), options, num_workers=1) / "gtFine"


def pixels(path):
    return np.array(Image.open(path))


def test_cityscapes_equals_cityscapesscripts(gt_fine, tmp_path):
    name = "cityscapes_panoptic_train"
    (tmp_path / "theirs").mkdir()
    convert2panoptic(str(gt_fine), str(tmp_path / "theirs"), False, ["train"])
    convert_cityscapes(gt_fine, "train", tmp_path / "exact", real_image_names=False)
    convert_cityscapes(gt_fine, "train", tmp_path / "ours")
    theirs = (tmp_path / f"theirs/{name}.json").read_text()
    assert (tmp_path / f"exact/{name}.json").read_text() == theirs
    for file in (tmp_path / "theirs" / name).iterdir():
        assert np.array_equal(pixels(tmp_path / "ours" / name / file.name), pixels(file))
    ours = assert_consistent(tmp_path / f"ours/{name}.json", tmp_path / "ours" / name)
    images = gt_fine.parent / "leftImg8bit/train"
    assert all((images / image["file_name"]).is_file() for image in ours["images"])
    assert not any((images / image["file_name"]).is_file() for image in json.loads(theirs)["images"])
    for image, other in zip(ours["images"], json.loads(theirs)["images"], strict=True):
        image["file_name"] = other["file_name"]
    assert ours == json.loads(theirs)


def test_train_ids_equal_cityscapesscripts(gt_fine, tmp_path):
    """Theirs are drawn from polygons, ours mapped from labelIds: the same where labelIds were drawn so."""
    for file in sorted(gt_fine.glob("train/*/*_polygons.json")):
        json2labelImg(str(file), str(file).replace("polygons.json", "labelIds.png"), "ids")
        json2labelImg(str(file), str(tmp_path / file.name.replace("polygons.json", "labelTrainIds.png")), "trainIds")
    convert_train_ids(gt_fine, "train", overwrite=True)
    files = sorted(gt_fine.glob("train/*/*_labelTrainIds.png"))
    assert len(files) == 6
    for file in files:
        assert np.array_equal(pixels(file), pixels(tmp_path / file.name))
    assert sorted(set(train_id_table().tolist())) == [*range(19), 255]


def test_two_channel_equals_the_published_sample(shared_data, tmp_path):
    folder = shared_data / "coco_sample"
    convert_to_two_channel(folder / "panoptic_examples.json", folder / "panoptic_examples", tmp_path / "two")
    published = sorted((folder / "panoptic_examples_2ch_format").iterdir())
    assert len(published) == 2
    for file in published:
        assert np.array_equal(pixels(tmp_path / "two" / file.name), pixels(file))
    categories = folder / "panoptic_coco_categories.json"
    images = folder / "images_info_examples.json"
    convert_from_two_channel(
        folder / "panoptic_examples_2ch_format", images, tmp_path / "back", categories_json=categories
    )
    back = assert_consistent(tmp_path / "back/panoptic.json", tmp_path / "back/panoptic")
    original = json.loads((folder / "panoptic_examples.json").read_text())

    def segments(content):
        return {
            annotation["image_id"]: sorted(
                (s["category_id"], s["iscrowd"], s["area"], s["bbox"]) for s in annotation["segments_info"]
            )
            for annotation in content["annotations"]
        }

    assert segments(back) == segments(original)
    convert_to_two_channel(tmp_path / "back/panoptic.json", tmp_path / "back/panoptic", tmp_path / "again")
    for file in published:
        assert np.array_equal(pixels(tmp_path / "again" / file.name), pixels(file))


def test_a_set_made_from_two_channels_scores_a_perfect_pq_in_panopticapi(shared_data, tmp_path):
    folder = shared_data / "coco_sample"
    convert_from_two_channel(
        folder / "panoptic_examples_2ch_format",
        folder / "images_info_examples.json",
        tmp_path,
        categories_json=folder / "panoptic_coco_categories.json",
    )
    result = pq_compute(
        str(folder / "panoptic_examples.json"),
        str(tmp_path / "panoptic.json"),
        str(folder / "panoptic_examples"),
        str(tmp_path / "panoptic"),
    )
    assert result["All"]["pq"] == pytest.approx(1.0, abs=1e-12)


def test_instances_equal_the_published_detection_format(shared_data, tmp_path):
    folder = shared_data / "coco_sample"
    source = folder / "panoptic_examples.json"
    convert_to_instances(source, folder / "panoptic_examples", tmp_path / "all.json", with_stuff=True)
    ours = json.loads((tmp_path / "all.json").read_text())["annotations"]
    theirs = json.loads((folder / "panoptic_coco_detection_format.json").read_text())["annotations"]

    def facts(annotations):
        return sorted(
            (a["image_id"], a["category_id"], a["iscrowd"], a["area"], a["bbox"], a["segmentation"]["counts"])
            for a in annotations
        )

    assert facts(ours) == facts(theirs)


def test_run_lengths_are_read_as_pycocotools_reads_them():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size = tuple(int(n) for n in rng.integers(1, 40, 2))
        mask = rng.random(size) < rng.random()
        code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        read = masks.from_rle("here", {"size": list(size), "counts": code["counts"].decode()}, size)
        assert np.array_equal(masks.decode(read), mask) and masks.area(read) == mask.sum()
