"""``panoptic data validate`` from the command line: tables, reports, exit codes, repairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_faults import DROPPED, FAULTS, MENDED, NEEDS_LABELS, PanopticFolder, put
from PIL import Image

from panoptic_plugin.cli.data import main


@pytest.fixture
def data(tmp_path):
    return PanopticFolder(tmp_path / "set")


def validate(*words):
    return main(["validate", *map(str, words)])


def report(data, tmp_path, *words):
    """The exit code and the JSON report."""
    code = validate(*data.options, "--json-report", tmp_path / "report.json", *words)
    return code, json.loads((tmp_path / "report.json").read_text())


def test_a_clean_set(data, tmp_path, capsys):
    code, found = report(data, tmp_path, "--plot", tmp_path / "classes.png", "--workers", 1)
    assert (code, found["errors"], found["warnings"], found["datasets"][0]["findings"]) == (0, 0, 0, [])
    assert [(entry["name"], entry["segments"]) for entry in found["datasets"][0]["classes"]] == [
        ("cell", 8),
        ("ground", 4),
    ]
    assert "clean in 4 images with 12 segments of 2 classes" in capsys.readouterr().out
    with Image.open(tmp_path / "classes.png") as plot:
        assert plot.width > 800 and len(plot.convert("RGB").getcolors(1 << 24)) > 10


def test_errors_are_a_table_and_an_exit_code(data, tmp_path, capsys):
    put(data, "area-mismatch")
    FAULTS["missing-iscrowd"][0](data)
    put(data, "missing-label")
    code, found = report(data, tmp_path, "--max-rows", 1)
    assert (code, found["errors"], found["warnings"]) == (1, 1, 1)
    shown = capsys.readouterr().out
    assert (
        "1 error, 1 warning" in shown and "missing-label" in shown and "and 1 more" in shown and "What to do" in shown
    )


def test_warnings_alone_are_no_failure(data, tmp_path):
    put(data, "missing-iscrowd")
    code, found = report(data, tmp_path)
    assert (code, found["warnings"]) == (0, 1)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ("empty-set", "bad-category")])
def test_a_repaired_set_is_clean(data, tmp_path, fault, capsys):
    put(data, fault)
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}
    fixed, labels = tmp_path / "new" / "fixed.json", tmp_path / "labels"
    options = ["--void-labels", labels] if fault in NEEDS_LABELS else []
    validate(*data.options, "--repair", fixed, *options)
    assert {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()} == before
    changes = json.loads(fixed.with_name("fixed.changes.json").read_text())
    assert len(changes["dropped"]) == (fault in DROPPED)
    if fault in MENDED or fault in NEEDS_LABELS:
        assert changes["changed"] or changes["notes"]
    shown = capsys.readouterr().out
    assert str(fixed) in shown
    again = ["--json", fixed, "--images", data.images, "--panoptic", labels if options else data.labels]
    assert validate(*again, "--json-report", tmp_path / "again.json") == 0
    left = json.loads((tmp_path / "again.json").read_text())["datasets"][0]
    assert {finding["severity"] for finding in left["findings"]} <= {"warning"}
    kept = 3 if fault in DROPPED or fault in ("unknown-image", "image-without-annotation") else 4
    assert left["images"] == kept


@pytest.mark.parametrize("fault", sorted(NEEDS_LABELS))
def test_without_new_labels_such_records_are_dropped(data, tmp_path, fault):
    put(data, fault)
    validate(*data.options, "--repair", tmp_path / "fixed.json")
    fixed = json.loads((tmp_path / "fixed.json").read_text())
    assert [annotation["image_id"] for annotation in fixed["annotations"]] == [1, 3, 4]
    assert validate("--json", tmp_path / "fixed.json", *data.options[2:]) == 0


def test_void_labels_hold_zero_where_nothing_is_listed(data, tmp_path):
    put(data, "only-in-png")
    validate(*data.options, "--repair", tmp_path / "fixed.json", "--void-labels", tmp_path / "labels")
    before, after = (np.array(Image.open(folder / "2.png")) for folder in (data.labels, tmp_path / "labels"))
    assert (after[0] == 0).all() and (before[0, :5, 0] == 9).all() and np.array_equal(before[1:], after[1:])
    assert (tmp_path / "labels" / "1.png").read_bytes() == (data.labels / "1.png").read_bytes()


def test_a_config_names_the_sets(data, tmp_path, capsys):
    other = PanopticFolder(tmp_path / "other", seed=1)
    (other.images / "1.jpg").write_bytes((data.images / "1.jpg").read_bytes())
    roots = {"one": data, "two": other}
    paths = {
        name: {"IMAGE_ROOT": str(one.images), "PANOPTIC_JSON": str(one.json), "PANOPTIC_ROOT": str(one.labels)}
        for name, one in roots.items()
    }
    custom = [{"NAME": f"validated_{name}", **entry} for name, entry in paths.items()]
    datasets = {"CUSTOM": custom, "TRAIN": ["validated_one"], "TEST": ["validated_two"]}
    model = {"META_ARCHITECTURE": "PluginPanopticDeepLab", "PANOPTIC_DEEPLAB": {"TOP_K_INSTANCE": 1}}
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"VERSION": 2, "DATASETS": datasets, "MODEL": model}))
    assert validate("--config-file", config, "--max-rows", 100) == 1
    shown = capsys.readouterr().out
    assert "split-overlap" in shown and "too-many-segments" in shown and "MODEL.PANOPTIC_DEEPLAB" in shown
    assert validate("validated_one") == 0
    assert validate("--config-file", config, "INPUT") == 2  # no dataset of this name
    assert validate(*other.options, "--against", data.json, data.images, data.labels) == 1


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "nothing to validate"),
        (["nowhere"], "no dataset 'nowhere' is registered"),
        (["--json", "x.json"], "--images is missing"),
        (["cityscapes_fine_sem_seg_val"], "has no panoptic labels"),
        (["OPTIONS", "--void-labels", "d"], "--void-labels goes with --repair"),
        (["OPTIONS", "--fast", "--repair", "r.json"], "leave out --fast"),
        (["OPTIONS", "--repair", "EXISTING"], "a repair never overwrites"),
        (["OPTIONS", "--workers", "0"], "--workers is 0"),
        (["--json", "JSON", "--images", "missing", "--panoptic", "missing"], "image folder missing does not exist"),
    ],
)
def test_mistakes_are_one_line(data, capsys, words, expected):
    swap = {"OPTIONS": data.options, "EXISTING": [str(data.json)], "JSON": [str(data.json)]}
    assert validate(*[part for word in words for part in swap.get(word, [word])]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and expected in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("split, images, segments", [("dev", 53, 1442), ("train", 212, 6337)])
def test_real_cells(shared_data, tmp_path, split, images, segments):
    root = shared_data / "nuclei"
    words = ["--json", root / f"panoptic_{split}.json", "--images", root / "images"]
    assert validate(*words, "--panoptic", root / f"panoptic_{split}", "--json-report", tmp_path / "r.json") == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["errors"], found["warnings"], found["datasets"][0]["images"]) == (0, 0, images)
    assert sum(entry["segments"] for entry in found["datasets"][0]["classes"]) == segments


def test_real_photos(shared_data, tmp_path, capsys):
    root = shared_data / "coco_sample"
    words = ["--json", root / "panoptic_examples.json", "--images", root / "input_images"]
    assert validate(*words, "--panoptic", root / "panoptic_examples") == 0
    assert "0 errors, 1 warning in 2 images with 50 segments" in capsys.readouterr().out
    assert validate(*words, "--panoptic", root / "panoptic_examples_2ch_format") == 1
    assert "no-common-id" in capsys.readouterr().out
