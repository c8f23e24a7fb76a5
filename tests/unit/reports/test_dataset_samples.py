"""Pictures and pages of samples."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from panoptic_sets import write_set
from PIL import Image

from panoptic_plugin.cli.data import main
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.reports.dataset_page import html_page
from panoptic_plugin.reports.dataset_samples import dataset_from_files, draw_sample, pick


@pytest.fixture
def panoptic(tmp_path):
    maps = []
    for number in range(4):
        ids = np.full((40, 60), 70000, np.int32)
        ids[4:20, 5:35], ids[:2], ids[30, 30] = 5 + number, 0, 77
        maps.append((ids, {70000: (3, 0), 5 + number: (7, number % 2)}))
    return write_set(tmp_path / "set", maps)


def arguments(panoptic):
    root = panoptic.parent
    return ["show", "--json", str(panoptic), "--panoptic", str(root / "panoptic"), "--images", str(root / "images")]


def test_a_sample_holds_what_is_drawn(panoptic):
    content = json.loads(panoptic.read_text())
    content["annotations"][1]["segments_info"].append({"id": 12, "category_id": 21})
    panoptic.write_text(json.dumps(content))
    records, metadata = dataset_from_files(
        str(panoptic), str(panoptic.parent / "panoptic"), str(panoptic.parent / "images")
    )
    sample = draw_sample(records[1], metadata)
    assert [(s.id, s.name, s.is_thing, s.is_crowd) for s in sample.segments] == [
        (6, "cell", True, True),
        (70000, "ground", False, False),
    ]
    assert (sample.missing, sample.unnamed) == ([12], [77])
    assert sample.void == pytest.approx((2 * 60 + 1) / (40 * 60))
    assert sample.picture.shape == (800, 1200, 3)
    page = html_page("a <set>", [sample])
    assert "a &lt;set&gt;" in page and "1 ids in the JSON without a pixel" in page and "1 ids in the PNG" in page


def test_pngs(panoptic, tmp_path, capsys):
    assert main([*arguments(panoptic), "--output", str(tmp_path / "out"), "--count", "2", "--seed", "1"]) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 2 and "2 of 4 images drawn" in capsys.readouterr().out
    assert Image.open(files[0]).size == (1200 + 12 + 1200, 800)
    assert main([*arguments(panoptic), "--output", str(tmp_path / "out"), "--count", "2", "--seed", "1"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_page_needs_no_other_file(panoptic, tmp_path):
    assert main([*arguments(panoptic), "--output", str(tmp_path / "page.html"), "--html"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section>") == 4
    assert (
        page.count("<img ") == page.count('src="data:image/jpeg;base64,') == len(re.findall(r'alt="[^"]+"', page)) == 8
    )
    assert 'alt="Segmentation of image_1.png: 1 cell, 1 ground"' in page
    assert "http" not in page and "cell (4)" in page


def test_samples_are_drawn_with_the_seed():
    records = [{"file_name": str(n)} for n in range(20)]
    assert pick(records, 5, 0) == pick(records, 5, 0) != pick(records, 5, 1)
    assert len(pick(records, 50, 0)) == 20
    with pytest.raises(DatasetError, match="--count is 0"):
        pick(records, 0, 0)


@pytest.mark.parametrize(
    "words, message",
    [
        (["coco_2017_val_panoptc"], "Did you mean 'coco_2017_val_panoptic'"),
        (["coco_2017_val_panoptic", "--json", "x"], "either NAME"),
        (["--json", "x"], "all of --json F --panoptic DIR --images DIR"),
        ([], "either NAME"),
    ],
)
def test_wrong_names(words, message, tmp_path, capsys):
    assert main(["show", *words, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_unknown_commands_are_explained(capsys):
    for words, message in ((["shw"], "Did you mean 'show'"), (["convert", "cvt"], "Did you mean 'cvat'")):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2 and message in capsys.readouterr().err


def test_real_photos(shared_data, tmp_path):
    folder = shared_data / "coco_sample"
    words = ["show", "--json", str(folder / "panoptic_examples.json"), "--panoptic", str(folder / "panoptic_examples")]
    words += ["--images", str(folder / "input_images"), "--output", str(tmp_path / "page.html"), "--html"]
    assert main(words) == 0
    assert "person 3937500" not in (tmp_path / "page.html").read_text()  # that is in the picture only
    assert ">3937500</td>" in (tmp_path / "page.html").read_text()
