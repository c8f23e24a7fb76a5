from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from panoptic_plugin.data.segments import measure_segments
from panoptic_plugin.data.synthesize import MANIFEST, SynthesisOptions, synthesize
from panoptic_plugin.data.synthetic import make_scene
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.structures import rgb_to_ids

SMALL = {"num_train": 6, "num_val": 2, "height": 48, "width": 96, "seed": 1}


def digest(folder):
    content = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        content.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return content.hexdigest()


@pytest.mark.parametrize("layout", ["cityscapes", "coco"])
def test_same_bytes_for_any_number_of_workers(tmp_path, layout):
    options = SynthesisOptions(layout=layout, **SMALL)
    first = synthesize(tmp_path / "a", options, num_workers=1)
    second = synthesize(tmp_path / "b", options, num_workers=3)
    assert digest(first) == digest(second)


def test_a_scene_does_not_depend_on_how_many_are_asked_for(tmp_path):
    few = synthesize(tmp_path / "a", SynthesisOptions(**{**SMALL, "num_train": 2}))
    more = synthesize(tmp_path / "b", SynthesisOptions(**SMALL))
    for file in (few / "leftImg8bit" / "train").rglob("*.png"):
        assert file.read_bytes() == (more / file.relative_to(few)).read_bytes()


def test_seed_split_and_index_each_change_the_scene():
    scenes = [
        make_scene(*key, 48, 96).image for key in ((0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 1))
    ]
    for number, scene in enumerate(scenes):
        assert not any(np.array_equal(scene, other) for other in scenes[:number])


def test_scene_is_consistent():
    for index in range(8):
        scene = make_scene(3, "train", index, 64, 128)
        assert scene.image.dtype == np.uint8 and scene.image.shape == (*scene.ids.shape, 3)
        assert set(np.unique(scene.ids)) - {0} == set(range(1, len(scene.segments)))
        assert (scene.ids.shape == (64, 128)) == (index != 5)
        assert any(segment.is_thing for segment in scene.segments) == (index != 3)


def test_coco_layout_agrees_with_its_pngs(tmp_path):
    folder = synthesize(tmp_path, SynthesisOptions(layout="coco", **SMALL))
    content = json.loads((folder / "annotations" / "panoptic_train2017.json").read_text())
    assert len(content["categories"]) == 133
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        ids = rgb_to_ids(np.array(Image.open(folder / "panoptic_train2017" / annotation["file_name"])))
        assert Image.open(folder / "train2017" / image["file_name"]).size == (image["width"], image["height"])
        measured = measure_segments(ids)
        assert set(measured) - {0} == {segment["id"] for segment in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            assert segment["area"] == measured[segment["id"]].area
            assert segment["bbox"] == measured[segment["id"]].bbox


def test_other_content_is_never_overwritten(tmp_path):
    options = SynthesisOptions(**{**SMALL, "num_train": 1, "num_val": 1})
    folder = synthesize(tmp_path, options)
    assert synthesize(tmp_path, options) == folder
    with pytest.raises(DatasetError, match=r"other options \(seed 1\)"):
        synthesize(tmp_path, SynthesisOptions(**{**SMALL, "num_train": 1, "num_val": 1, "seed": 2}))
    (folder / MANIFEST).unlink()
    with pytest.raises(DatasetError, match="other content"):
        synthesize(tmp_path, options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cityscapes"]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_val": 0}, "1 or more"),
        ({"width": 8}, "at least 32"),
        ({"seed": -1}, "0 or more"),
        ({"layout": "ade"}, "ade"),
    ],
)
def test_impossible_options(tmp_path, wrong, message):
    with pytest.raises(DatasetError, match=message):
        synthesize(tmp_path, SynthesisOptions(**{**SMALL, **wrong}))
