"""LabelMe's and CVAT's drawings, and 2-channel PNGs, to panoptic sets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from panoptic_sets import assert_consistent, read_ids, write_set
from PIL import Image

from panoptic_plugin.cli.data import main
from panoptic_plugin.data.convert.cvat import convert_cvat
from panoptic_plugin.data.convert.drawings import DrawingOptions
from panoptic_plugin.data.convert.labelme import convert_labelme
from panoptic_plugin.data.convert.two_channel import convert_from_two_channel, convert_to_two_channel
from panoptic_plugin.errors import DatasetError

SQUARE = [[2, 2], [6, 2], [6, 6], [2, 6]]


@pytest.fixture
def labelme(tmp_path):
    shapes = [
        {"label": "road", "points": [[0, 5], [20, 5], [20, 10], [0, 10]], "shape_type": "polygon"},
        {"label": "car", "points": SQUARE, "group_id": 1},
        {"label": "car", "points": [[10, 2], [14, 8]], "shape_type": "rectangle", "group_id": 1},
        {"label": "car", "points": [[17, 4], [17, 6]], "shape_type": "circle"},
        {"label": "car", "points": [[1, 1], [3, 3]], "shape_type": "line"},
        {"label": "road", "points": [[0, 0], [20, 0], [20, 2], [0, 2]]},
    ]
    folder = tmp_path / "drawn"
    (folder / "day").mkdir(parents=True)
    content = {
        "version": "5",
        "imagePath": "C:\\photos\\one.jpg",
        "imageHeight": 10,
        "imageWidth": 20,
        "shapes": shapes,
    }
    (folder / "day/one.json").write_text(json.dumps(content))
    return folder


def test_labelme(labelme, tmp_path, capsys):
    arguments = ["convert", "labelme", "--input", str(labelme), "--output", str(tmp_path / "out"), "--stuff", "road"]
    assert main(arguments) == 0
    assert "1 shapes without an outline" in capsys.readouterr().out
    content = assert_consistent(tmp_path / "out/panoptic.json", tmp_path / "out/panoptic")
    assert content["images"][0] == {"id": "day/one", "file_name": "day/one.jpg", "height": 10, "width": 20}
    assert [(c["id"], c["name"], c["isthing"]) for c in content["categories"]] == [(1, "car", 1), (2, "road", 0)]
    ids = read_ids(tmp_path / "out/panoptic/day/one.png")
    assert ids[4, 4] == ids[7, 12] == 1  # a group is one object
    assert ids[4, 17] == 2 and ids[5, 4] == 1  # things lie in front of stuff
    assert ids[8, 0] == ids[0, 0] == 3  # stuff is one segment a class
    assert [s["category_id"] for s in content["annotations"][0]["segments_info"]] == [1, 1, 2]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("shapes", 3, "'shapes' is a int"),
        ("shapes", [{"label": "x", "points": [[1, 2], [3]]}], r"shapes\[0\]: points is"),
        ("shapes", [{"label": "", "points": SQUARE}], r"shapes\[0\]: label is ''"),
        ("shapes", [{"points": SQUARE}], "'label' is missing"),
        ("shapes", [{"label": "x", "points": SQUARE[:1], "shape_type": "circle"}], "circle with 1 points"),
        ("imageHeight", None, "height is None"),
        ("imagePath", "..", "file_name is '..'"),
    ],
)
def test_labelme_faults(labelme, tmp_path, key, value, message):
    file = labelme / "day/one.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(DatasetError, match=message) as caught:
        convert_labelme(labelme, tmp_path / "out", DrawingOptions())
    assert "one.json" in str(caught.value)


def test_labelme_wrong_names(labelme, tmp_path):
    with pytest.raises(DatasetError, match="--stuff names 'raod', which is no class here; there is car, road"):
        convert_labelme(labelme, tmp_path / "out", DrawingOptions(stuff=["raod"]))
    with pytest.raises(DatasetError, match="holds no LabelMe file"):
        convert_labelme(tmp_path / "nothing", tmp_path / "out", DrawingOptions())


@pytest.fixture
def cvat(tmp_path):
    annotations = [
        {"type": "polygon", "label_id": 1, "points": [2, 2, 6, 2, 6, 6, 2, 6], "z_order": 1, "group": 0},
        {"type": "bbox", "label_id": 1, "bbox": [1, 1, 8, 8], "z_order": 0, "group": 0},
        {"type": "mask", "label_id": 0, "rle": {"size": [10, 20], "counts": [150, 50]}, "group": 4},
        {"type": "polygon", "label_id": 0, "points": [12, 0, 15, 0, 15, 2, 12, 2], "group": 4},
        {"type": "points", "label_id": 1, "points": [2, 2]},
    ]
    content = {
        "categories": {"label": {"labels": [{"name": "grass"}, {"name": "cow"}]}},
        "items": [{"id": "one", "image": {"path": "one.png", "size": [10, 20]}, "annotations": annotations}],
    }
    path = tmp_path / "default.json"
    path.write_text(json.dumps(content))
    return path


def test_cvat(cvat, tmp_path):
    report = convert_cvat(cvat, tmp_path / "out", DrawingOptions(stuff=["grass"], overlap="later-first"))
    content = assert_consistent(tmp_path / "out/panoptic.json", tmp_path / "out/panoptic")
    assert [(c["id"], c["name"], c["isthing"]) for c in content["categories"]] == [(1, "grass", 0), (2, "cow", 1)]
    ids = read_ids(tmp_path / "out/panoptic/one.png")
    assert ids[8, 8] == 1 and ids[3, 3] == 2  # the higher z_order is in front
    assert ids[1, 13] == ids[9, 19] == 3
    assert report.lost["annotations that enclose nothing (points, lines, tags)"] == 1


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda content: content.pop("categories"), "no categories.label.labels"),
        (lambda content: content.update(items=[]), "'items' or the labels"),
        (lambda content: content["items"].append(content["items"][0]), "'one' stands twice"),
        (lambda content: content["items"][0].update(image=3), r"items\[0\]: image"),
        (lambda content: content["items"][0]["image"].update(size=[10]), r"size is \[10\]"),
        (lambda content: content["items"][0]["image"].update(path="/etc/x"), "expected a path inside"),
        (lambda content: content["items"][0]["annotations"][0].update(label_id=7), "label_id is 7, expected 0 to 1"),
        (lambda content: content["items"][0]["annotations"][1].update(bbox=[1, 2]), r"annotations\[1\]: bbox"),
        (lambda content: content["items"][0]["annotations"].append(3), r"annotations\[5\] is no object"),
    ],
)
def test_cvat_faults(cvat, tmp_path, edit, message):
    content = json.loads(cvat.read_text())
    edit(content)
    cvat.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message) as caught:
        convert_cvat(cvat, tmp_path / "out", DrawingOptions())
    assert str(cvat) in str(caught.value)


@pytest.fixture
def panoptic(tmp_path):
    ids = np.full((8, 9), 70000, np.int32)
    ids[1:3, 1:4], ids[4:6, 2:8], ids[0], ids[7, 7:] = 5, 6, 0, 99
    return write_set(tmp_path / "set", [(ids, {6: (7, 0), 70000: (3, 0), 5: (7, 1), 99: (7, 0)})])


def test_two_channel_there_and_back(panoptic, tmp_path):
    convert_to_two_channel(panoptic, panoptic.parent / "panoptic", tmp_path / "first")
    channels = np.array(Image.open(tmp_path / "first/image_1.png"))
    ids = read_ids(panoptic.parent / "panoptic/image_1.png")
    for id_, code in ((6, [7, 0, 0]), (99, [7, 1, 0]), (5, [7, 255, 0]), (70000, [3, 0, 0]), (0, [0, 0, 0])):
        assert np.unique(channels[ids == id_], axis=0).tolist() == [code]
    convert_from_two_channel(tmp_path / "first", panoptic, tmp_path / "back")
    content = assert_consistent(tmp_path / "back/panoptic.json", tmp_path / "back/panoptic")
    found = {(s["id"], s["category_id"], s["iscrowd"]) for s in content["annotations"][0]["segments_info"]}
    assert found == {(7, 7, 0), (7 + 256, 7, 0), (7 + 255 * 256, 7, 1), (3, 3, 0)}
    report = convert_to_two_channel(tmp_path / "back/panoptic.json", tmp_path / "back/panoptic", tmp_path / "second")
    assert (tmp_path / "first/image_1.png").read_bytes() == (tmp_path / "second/image_1.png").read_bytes()
    assert not +report.lost


def test_what_two_channels_cannot_hold(panoptic, tmp_path):
    content = json.loads(panoptic.read_text())
    content["categories"].append({"id": 300, "name": "far", "isthing": 1})
    panoptic.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="category id 300 does not fit"):
        convert_to_two_channel(panoptic, panoptic.parent / "panoptic", tmp_path / "out")
    many = np.arange(1, 257, dtype=np.int32).reshape(16, 16) + 70000
    crowded = write_set(tmp_path / "many", [(many, {int(id_): (7, 0) for id_ in many.ravel()})])
    with pytest.raises(DatasetError, match="more than 255 instances .* of category 7"):
        convert_to_two_channel(crowded, crowded.parent / "panoptic", tmp_path / "out")


def test_other_pngs_are_no_two_channel_pngs(panoptic, tmp_path):
    with pytest.raises(DatasetError, match="image_1.png has values in its blue channel"):
        convert_from_two_channel(panoptic.parent / "panoptic", panoptic, tmp_path / "out")
    png = panoptic.parent / "panoptic/image_1.png"
    Image.fromarray(np.full((8, 9, 3), (8, 0, 0), np.uint8)).save(png)
    with pytest.raises(DatasetError, match="image_1.png holds category 8"):
        convert_from_two_channel(png.parent, panoptic, tmp_path / "out")
