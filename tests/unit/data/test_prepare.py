"""Prepared Cityscapes and COCO, subsets and splits."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from panoptic_sets import read_ids, write_set
from PIL import Image

from panoptic_plugin.cli.data import main
from panoptic_plugin.data.datasets.builtin import register_builtin_datasets
from panoptic_plugin.data.prepare.cityscapes import prepare_cityscapes
from panoptic_plugin.data.prepare.coco import prepare_coco
from panoptic_plugin.data.prepare.split import divide, split
from panoptic_plugin.data.prepare.subset import Choice, subset
from panoptic_plugin.data.synthesize import SynthesisOptions, synthesize
from panoptic_plugin.errors import DatasetError


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("generated")
    for layout in ("cityscapes", "coco"):
        synthesize(root, SynthesisOptions(layout=layout, num_train=3, num_val=1, height=48, width=96), num_workers=1)
    return root


@pytest.fixture
def data(generated, tmp_path):
    shutil.copytree(generated, tmp_path / "data")
    register_builtin_datasets(str(tmp_path / "data"))
    yield tmp_path / "data"
    register_builtin_datasets()


def test_cityscapes_as_unpacked_is_made_ready(data, capsys):
    gt = data / "cityscapes/gtFine"
    expected = {file: np.array(Image.open(file)) for file in gt.rglob("*labelTrainIds.png")}
    for file in [*expected, *gt.glob("*.json")]:
        file.unlink()
    shutil.rmtree(gt / "cityscapes_panoptic_train")
    assert main(["prepare", "cityscapes", "--root", str(data)]) == 0
    said = capsys.readouterr().out
    assert "cityscapes_panoptic_train.json" in said and "written" in said
    for file, pixels in expected.items():
        assert np.array_equal(np.array(Image.open(file)), pixels)
    assert len(DatasetCatalog.get("cityscapes_fine_panoptic_train")) == 3
    assert len(DatasetCatalog.get("cityscapes_fine_sem_seg_val")) == 1
    images = json.loads((gt / "cityscapes_panoptic_train.json").read_text())["images"]
    assert all((data / "cityscapes/leftImg8bit/train" / image["file_name"]).is_file() for image in images)
    before = (gt / "cityscapes_panoptic_train.json").stat().st_mtime_ns
    assert all("complete" in report.read[0] for report in prepare_cityscapes(data / "cityscapes"))
    assert (gt / "cityscapes_panoptic_train.json").stat().st_mtime_ns == before


def test_cityscapes_faults_are_all_named_before_anything_is_written(data, tmp_path):
    root = data / "cityscapes"
    next(root.glob("leftImg8bit/train/*/*.png")).unlink()
    next(root.glob("gtFine/val/*/*instanceIds.png")).unlink()
    (root / "gtFine/cityscapes_panoptic_train.json").unlink()
    with pytest.raises(DatasetError, match="train: 1 of .*instanceIds.png have no image.*; val: 1 have no"):
        prepare_cityscapes(root)
    assert not (root / "gtFine/cityscapes_panoptic_train.json").exists()
    with pytest.raises(DatasetError, match="holds no gtFine/train"):
        prepare_cityscapes(tmp_path / "nowhere")


def test_coco_gets_the_semantic_pngs_of_panoptic_fpn(data):
    assert main(["prepare", "coco", "--root", str(data)]) == 0
    content = json.loads((data / "coco/annotations/panoptic_train2017.json").read_text())
    stuff = sorted(c["id"] for c in content["categories"] if not c["isthing"])
    for annotation in content["annotations"]:
        ids = read_ids(data / "coco/panoptic_train2017" / annotation["file_name"])
        values = np.array(Image.open(data / "coco/panoptic_stuff_train2017" / annotation["file_name"]))
        assert set(values[ids == 0]) <= {255}
        for segment in annotation["segments_info"]:
            expected = stuff.index(segment["category_id"]) + 1 if segment["category_id"] in stuff else 0
            assert set(values[ids == segment["id"]]) == {expected}
    assert all("complete" in report.read[0] for report in prepare_coco(data))
    next((data / "coco/train2017").iterdir()).unlink()
    with pytest.raises(DatasetError, match="train2017 lacks 1 of 3 files"):
        prepare_coco(data)
    with pytest.raises(DatasetError, match="holds no annotations/panoptic_train2017.json"):
        prepare_coco(data / "cityscapes")


@pytest.fixture
def twelve(tmp_path):
    """Twelve images, cells in every third one."""
    maps = []
    for number in range(12):
        ids = np.full((6, 7), 9, np.int32)
        segments = {9: (3, 0)}
        if number % 3 == 0:
            ids[2:4, 2:4], segments[5] = 5, (7, 0)
        maps.append((ids, segments))
    return write_set(tmp_path / "set", maps)


def ids_of(path):
    content = json.loads(path.read_text())
    ids = [image["id"] for image in content["images"]]
    assert ids == [annotation["image_id"] for annotation in content["annotations"]]
    return ids


def test_subsets(twelve, tmp_path, capsys):
    out = tmp_path / "part.json"
    subset(twelve, out, Choice(classes=["cell"]))
    assert ids_of(out) == [1, 4, 7, 10]
    assert json.loads(out.read_text())["categories"] == json.loads(twelve.read_text())["categories"]
    with pytest.raises(DatasetError, match="part.json exists already"):
        subset(twelve, out, Choice(count=2))
    draws = [
        (subset(twelve, out, Choice(count=5, seed=seed), overwrite=True), tuple(ids_of(out)))[1] for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2] and len(draws[0]) == 5 and list(draws[0]) == sorted(draws[0])
    with pytest.raises(DatasetError, match="no class 'cel'. Did you mean 'cell'"):
        subset(twelve, out, Choice(classes=["cel"]), overwrite=True)
    with pytest.raises(DatasetError, match="no image meets the choice"):
        subset(twelve, out, Choice(classes=["wall"]), overwrite=True)
    assert main(["subset", "--json", str(twelve), "--output", str(out)]) == 2
    assert "Give --count, --classes or --cities" in capsys.readouterr().err


def test_subset_by_city(generated, tmp_path):
    source = generated / "cityscapes/gtFine/cityscapes_panoptic_train.json"
    subset(source, tmp_path / "arden.json", Choice(cities=["arden"]))
    assert ids_of(tmp_path / "arden.json") == ["arden_000000_000019"]
    with pytest.raises(DatasetError, match="no image of 'ardn'. Did you mean 'arden'"):
        subset(source, tmp_path / "x.json", Choice(cities=["ardn"]))


def test_split_keeps_equal_images_together(twelve, tmp_path):
    images = twelve.parent / "images"
    for number in (2, 3, 4):  # the same picture as the first
        shutil.copyfile(images / "image_1.png", images / f"image_{number}.png")
    fractions = {"train": 0.5, "val": 0.25, "tuning": 0.25}
    split(twelve, images, tmp_path / "out", fractions, seed=3)
    parts = {name: ids_of(tmp_path / f"out/{name}.json") for name in fractions}
    assert sorted(sum(parts.values(), [])) == list(range(1, 13))
    assert [len(parts[name]) for name in fractions] == [6, 3, 3] or len(parts["val"]) == 4
    assert sum({1, 2, 3, 4} <= set(members) for members in parts.values()) == 1
    manifest = json.loads((tmp_path / "out/split.json").read_text())
    assert manifest["seed"] == 3 and manifest["fractions"] == fractions
    hashes = [{entry["sha256"] for entry in part} for part in manifest["parts"].values()]
    assert not hashes[0] & hashes[1] and not hashes[0] & hashes[2] and not hashes[1] & hashes[2]
    split(twelve, images, tmp_path / "again", fractions, seed=3)
    assert (tmp_path / "again/split.json").read_text() == (tmp_path / "out/split.json").read_text()
    split(twelve, images, tmp_path / "other", fractions, seed=4)
    assert ids_of(tmp_path / "other/train.json") != parts["train"]


def test_split_copies_when_asked(twelve, tmp_path):
    arguments = ["split", "--json", str(twelve), "--images", str(twelve.parent / "images"), "--copy"]
    arguments += ["--parts", "train=0.5", "val=0.25", "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert main([*arguments, "--panoptic", str(twelve.parent / "panoptic")]) == 0
    assert len(list((tmp_path / "out/train/images").iterdir())) == 6
    assert len(list((tmp_path / "out/val/panoptic").iterdir())) == 3


@pytest.mark.parametrize("parts", [["train"], ["train=x"], ["train=0.9", "val=0.3"], ["train=0"], ["split=0.5"]])
def test_wrong_fractions(twelve, tmp_path, parts, capsys):
    arguments = ["split", "--json", str(twelve), "--images", str(twelve.parent / "images")]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--parts", *parts]) == 2
    assert "error: " in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_every_part_has_an_image():
    parts = divide([str(n) for n in range(4)], {"train": 0.97, "val": 0.02, "tuning": 0.01}, 0)
    assert sorted(map(len, parts.values())) == [1, 1, 2]
    with pytest.raises(DatasetError, match="2 different images cannot be divided into 3 parts"):
        divide(["a", "b", "a"], {"train": 0.5, "val": 0.2, "tuning": 0.2}, 0)
