"""COCO instances to panoptic sets and back, and what every converter does about its outputs."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from panoptic_sets import assert_consistent, read_ids, write_set
from PIL import Image
from pycocotools import mask as rle

from panoptic_plugin.cli.data import main
from panoptic_plugin.data.catalog import register_panoptic_dataset
from panoptic_plugin.data.convert.coco_instances import InstanceOptions, convert_coco_instances
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.data.convert.to_instances import convert_to_instances
from panoptic_plugin.data.convert.to_semantic import convert_to_semantic
from panoptic_plugin.errors import DatasetError


def box(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


@pytest.fixture
def instances(tmp_path):
    """A 10x12 image: a large box behind a small one that was annotated first, a crowd over all."""
    crowd = np.zeros((10, 12), np.uint8)
    crowd[:, :11] = 1
    code = rle.encode(np.asfortranarray(crowd))
    annotations = [
        {"image_id": "a", "category_id": 5, "segmentation": box(2, 2, 3, 3), "iscrowd": 0},
        {"image_id": "a", "category_id": 2, "segmentation": box(1, 1, 6, 6), "iscrowd": 0},
        {"image_id": "a", "category_id": 5, "segmentation": {"size": [10, 12], "counts": code["counts"].decode()}},
    ]
    annotations[2]["iscrowd"] = 1
    content = {
        "images": [{"id": "a", "file_name": "deep/a.jpg", "height": 10, "width": 12}],
        "annotations": annotations,
        "categories": [{"id": 2, "name": "box"}, {"id": 5, "name": "nut"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("overlap, owner", [("smaller-first", 1), ("later-first", 2)])
def test_overlap_rules(instances, tmp_path, overlap, owner):
    report = convert_coco_instances(instances, tmp_path / "out", InstanceOptions(overlap=overlap))
    ids = read_ids(tmp_path / "out/panoptic/deep/a.png")
    assert ids[3, 3] == owner
    assert (ids[1, 1], ids[9, 0], ids[9, 11]) == (2, 3, 0)  # the crowd is behind both, the rest is void
    content = assert_consistent(tmp_path / "out/panoptic.json", tmp_path / "out/panoptic")
    assert [segment["iscrowd"] for segment in content["annotations"][0]["segments_info"]][-1] == 1
    assert report.lost["pixels of overlaps, for the masks behind"] == 36
    assert report.lost["annotations hidden by others"] == (overlap == "later-first")


def test_polygons_and_both_run_length_codes_are_pycocotools_masks(instances, tmp_path):
    mask = np.zeros((10, 12), np.uint8)
    mask[7:, 8:] = 1
    runs = [int(n) for n in np.diff(np.flatnonzero(np.diff(np.r_[2, mask.ravel("F"), 2])))]

    def edit(content):
        content["annotations"][2]["iscrowd"] = 0
        content["annotations"][2]["segmentation"] = {"size": [10, 12], "counts": runs}

    change(instances, edit)
    convert_coco_instances(instances, tmp_path / "out", InstanceOptions())
    ids = read_ids(tmp_path / "out/panoptic/deep/a.png")
    assert np.array_equal(ids == 3, mask.astype(bool))
    assert np.array_equal(ids == 1, rle.decode(rle.frPyObjects(box(2, 2, 3, 3), 10, 12))[..., 0].astype(bool))


def test_stuff_from_semantic_pngs_and_a_background(instances, tmp_path):
    semantic = np.full((10, 12), 255, np.uint8)
    semantic[:, 10:], semantic[0, 11], semantic[1, 11] = 9, 77, 0
    (tmp_path / "semantic/deep").mkdir(parents=True)
    Image.fromarray(semantic).save(tmp_path / "semantic/deep/a.png")
    (tmp_path / "stuff.json").write_text(json.dumps([{"id": 9, "name": "sea", "isthing": 0}]))
    arguments = ["convert", "coco-instances", "--json", str(instances), "--output", str(tmp_path / "out")]
    arguments += ["--semantic", str(tmp_path / "semantic"), "--stuff-categories", str(tmp_path / "stuff.json")]
    assert main([*arguments, "--background", "table"]) == 0
    content = assert_consistent(tmp_path / "out/panoptic.json", tmp_path / "out/panoptic")
    ids = read_ids(tmp_path / "out/panoptic/deep/a.png")
    category = {segment["id"]: segment["category_id"] for segment in content["annotations"][0]["segments_info"]}
    assert (category[ids[5, 11]], category[ids[5, 10]], category[ids[0, 11]]) == (9, 5, 10)
    assert [(c["id"], c["name"], c["isthing"]) for c in content["categories"]] == [
        (2, "box", 1),
        (5, "nut", 1),
        (9, "sea", 0),
        (10, "table", 0),
    ]


def test_the_report_tells_what_was_read_written_and_lost(instances, tmp_path, capsys):
    assert main(["convert", "coco-instances", "--json", str(instances), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for text in ("read: ", "1 image, 3 annotations", "smaller mask is in front", "written:", "3 segments", "36 pixels"):
        assert text in said


def test_outputs_are_never_replaced_unasked_and_the_same_input_gives_the_same_bytes(instances, tmp_path, capsys):
    arguments = ["convert", "coco-instances", "--json", str(instances), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    assert main(arguments) == 2
    assert "panoptic.json exists already" in capsys.readouterr().err
    foreign = tmp_path / "out/panoptic/mine.txt"
    foreign.write_text("keep")
    assert main([*arguments, "--overwrite", "--num-workers", "1"]) == 0
    assert [path.read_bytes() for path in files] == before and foreign.read_text() == "keep"
    assert sorted(os.listdir(tmp_path / "out")) == ["panoptic", "panoptic.json"]


def set_mask(value):
    def edit(content):
        content["annotations"][2]["segmentation"] = value

    return edit


def set_key(place, index, key, value):
    def edit(content):
        content[place][index][key] = value

    return edit


@pytest.mark.parametrize(
    "edit, message",
    [
        (set_mask([[1, 2, 3, 4, 5]]), r"annotations\[2\]: polygon 0 is \[1, 2, 3, 4, 5\], expected an even number"),
        (set_mask([[1, 2, 3, 4, 5, "x"]]), r"annotations\[2\]: polygon 0"),
        (set_mask([[1, 2, 3, 4, 5, 1e9]]), r"has y = 1000000000.0, but the image is 12x10"),
        (set_mask([[1, 2, 3, 4, 5, float("nan")]]), r"annotations\[2\]: polygon 0"),
        (set_mask("abc"), r"annotations\[2\]: the polygons are 'abc'"),
        (set_mask({"size": [12, 10], "counts": [120]}), r"size \[12, 10\], but the image \[10, 12\]"),
        (set_mask({"size": [10, 12], "counts": [7, 100]}), "sum to 107 pixels, but the image has 120"),
        (set_mask({"size": [10, 12], "counts": "ooo"}), "damaged"),
        (set_mask({"size": [10, 12], "counts": None}), "'counts' is None"),
        (set_key("annotations", 1, "category_id", 6), r"annotations\[1\]: category_id is 6"),
        (set_key("annotations", 1, "image_id", "b"), r"annotations\[1\]: image_id is 'b'"),
        (set_key("images", 0, "height", 0), "image 'a': height is 0"),
        (set_key("images", 0, "width", 10**8), "more than the limit"),
        (set_key("images", 0, "file_name", "../../x.jpg"), "expected a path inside"),
        (set_key("images", 0, "file_name", "/x.jpg"), "expected a path inside"),
        (set_key("categories", 0, "id", "2"), "'box' has the id '2'"),
        (lambda content: content.pop("images"), "'images' is missing"),
    ],
)
def test_faults_name_the_file_and_leave_nothing(instances, tmp_path, edit, message):
    change(instances, edit)
    with pytest.raises(DatasetError, match=message) as caught:
        convert_coco_instances(instances, tmp_path / "out", InstanceOptions())
    assert str(instances) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_annotations_without_area_are_counted(instances, tmp_path):
    change(instances, set_mask([[1, 2, 3, 4]]))
    report = convert_coco_instances(instances, tmp_path / "out", InstanceOptions())
    assert report.lost["annotations without any area"] == 1


def test_images_whose_names_differ_by_extension_get_two_pngs(instances, tmp_path):
    change(
        instances,
        lambda content: content["images"].append({**content["images"][0], "id": 2, "file_name": "deep/a.png"}),
    )
    convert_coco_instances(instances, tmp_path / "out", InstanceOptions())
    content = json.loads((tmp_path / "out/panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == ["deep/a.jpg.png", "deep/a.png.png"]


def test_staging_is_all_or_nothing(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(RuntimeError), Staging(target, overwrite=False) as stage:
        stage.write_json("a.json", {})
        raise RuntimeError
    assert not target.exists()
    with Staging(target, overwrite=False) as stage:
        stage.write_json("a.json", {})
        assert not (target / "a.json").exists()
        with pytest.raises(DatasetError, match="two outputs"):
            stage.write_json("a.json", {})
        with pytest.raises(DatasetError, match="leaves the output folder"):
            stage.path("../b")
    assert os.listdir(target) == ["a.json"]
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DatasetError, match="file/out cannot be written"),
        Staging(tmp_path / "file/out", overwrite=True),
    ):
        pass


@pytest.fixture
def panoptic(tmp_path):
    ids = np.full((8, 9), 70000, np.int32)
    ids[1:3, 1:4], ids[4:6, 2:8], ids[0], ids[7, 7:] = 5, 6, 0, 99
    return write_set(tmp_path / "set", [(ids, {6: (7, 0), 70000: (3, 0), 5: (7, 1), 99: (21, 0)})])


def test_to_instances(panoptic, tmp_path):
    root = panoptic.parent / "panoptic"
    report = convert_to_instances(panoptic, root, tmp_path / "out/instances.json")
    content = json.loads((tmp_path / "out/instances.json").read_text())
    ids = read_ids(root / "image_1.png")
    assert [(a["id"], a["category_id"], a["iscrowd"], a["bbox"]) for a in content["annotations"]] == [
        (1, 7, 0, [2, 4, 6, 2]),
        (2, 7, 1, [1, 1, 3, 2]),
    ]
    assert np.array_equal(rle.decode(content["annotations"][0]["segmentation"]), ids == 6)
    assert [category["id"] for category in content["categories"]] == [7]
    assert list(report.lost.values()) == [2, 9]  # stuff segments; pixels of void
    with pytest.raises(DatasetError, match="exists already"):
        convert_to_instances(panoptic, root, tmp_path / "out/instances.json")


def test_round_trip_by_instances_keeps_masks_classes_and_crowds(panoptic, tmp_path):
    root = panoptic.parent / "panoptic"
    convert_to_instances(panoptic, root, tmp_path / "all.json", with_stuff=True)
    convert_coco_instances(tmp_path / "all.json", tmp_path / "back", InstanceOptions())
    before, after = read_ids(root / "image_1.png"), read_ids(tmp_path / "back/panoptic/image_1.png")
    pairs = set(zip(before.ravel().tolist(), after.ravel().tolist(), strict=True))
    assert pairs == {(0, 0), (6, 1), (70000, 2), (5, 3), (99, 4)}
    old, new = (json.loads(p.read_text()) for p in (panoptic, tmp_path / "back/panoptic.json"))
    assert new["categories"] == old["categories"]
    for one, other in zip(old["annotations"][0]["segments_info"], new["annotations"][0]["segments_info"], strict=True):
        assert {**one, "id": 0} == {**other, "id": 0}


@pytest.mark.parametrize("rule, expected", [("contiguous", [0, 1, 2]), ("category", [3, 7, 21]), ("stuff", [1, 0, 2])])
def test_to_semantic(panoptic, tmp_path, rule, expected):
    convert_to_semantic(panoptic, panoptic.parent / "panoptic", tmp_path / "out", values=rule)
    ids = read_ids(panoptic.parent / "panoptic/image_1.png")
    values = np.array(Image.open(tmp_path / "out/image_1.png"))
    for id_, value in ((70000, expected[0]), (5, expected[1]), (6, expected[1]), (99, expected[2]), (0, 255)):
        assert set(values[ids == id_]) == {value}


def test_category_ids_that_no_grey_png_holds(panoptic, tmp_path):
    change(panoptic, lambda content: content["categories"].append({"id": 255, "name": "far", "isthing": 0}))
    with pytest.raises(DatasetError, match="category 255 would be the value 255.*--values contiguous"):
        convert_to_semantic(panoptic, panoptic.parent / "panoptic", tmp_path / "out", values="category")


def no_segments(content):
    content["annotations"][0]["segments_info"] = 5


@pytest.mark.parametrize(
    "edit, message",
    [
        (set_key("images", 0, "height", 7), "image_1.png is 8x9 .* the JSON says 7x9"),
        (set_key("annotations", 0, "file_name", "gone.png"), "gone.png does not exist"),
        (set_key("annotations", 0, "image_id", 12), "no entry of 'images'"),
        (no_segments, "segments_info is a int"),
        (lambda content: content["annotations"][0]["segments_info"][0].update(id=0), "id is 0, expected 1 to"),
        (lambda content: content["annotations"][0]["segments_info"][0].update(id=5), "id 5 stands twice"),
        (lambda content: content["annotations"][0]["segments_info"][0].update(category_id=8), "category_id is 8"),
    ],
)
def test_faults_of_a_panoptic_set(panoptic, tmp_path, edit, message):
    change(panoptic, edit)
    with pytest.raises(DatasetError, match=message):
        convert_to_instances(panoptic, panoptic.parent / "panoptic", tmp_path / "out.json")


def test_damaged_and_wrong_pngs(panoptic, tmp_path):
    png = panoptic.parent / "panoptic/image_1.png"
    whole = png.read_bytes()
    for content in (whole[:60], b"", whole[:45] + bytes([whole[45] ^ 1]) + whole[46:]):
        png.write_bytes(content)
        with pytest.raises(DatasetError, match="image_1.png cannot be decoded"):
            convert_to_instances(panoptic, png.parent, tmp_path / "out.json")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(png)
    with pytest.raises(DatasetError, match="image_1.png has pixels of mode L, expected RGB"):
        convert_to_instances(panoptic, png.parent, tmp_path / "out.json")


def test_real_fruit_photos_become_a_valid_set(shared_data, tmp_path):
    from detectron2.data import DatasetCatalog

    source = shared_data / "fruits_nuts"
    report = convert_coco_instances(source / "trainval.json", tmp_path, InstanceOptions(background="table"))
    content = assert_consistent(tmp_path / "panoptic.json", tmp_path / "panoptic")
    assert report.lost["pixels of overlaps, for the masks behind"] > 0
    assert not report.lost["annotations hidden by others"]
    segments = [segment for annotation in content["annotations"] for segment in annotation["segments_info"]]
    assert len(segments) == 165 + 18
    assert sum(segment["area"] for segment in segments) == 18 * 600 * 800
    paths = {"panoptic_json": tmp_path / "panoptic.json", "panoptic_root": tmp_path / "panoptic"}
    register_panoptic_dataset("fruits", image_root=source / "images", **paths)
    assert len(DatasetCatalog.get("fruits")) == 18


def test_real_nuclei_survive_a_round_trip(shared_data, tmp_path):
    source = shared_data / "nuclei"
    convert_to_instances(source / "panoptic_dev.json", source / "panoptic_dev", tmp_path / "all.json", with_stuff=True)
    convert_coco_instances(tmp_path / "all.json", tmp_path / "back", InstanceOptions())
    for png in sorted((source / "panoptic_dev").iterdir())[:10]:
        before, after = read_ids(png), read_ids(tmp_path / "back/panoptic" / png.name)
        pairs = set(zip(before.ravel().tolist(), after.ravel().tolist(), strict=True))
        assert len(pairs) == len(np.unique(before)) == len(np.unique(after))
