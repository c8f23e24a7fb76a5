"""``panoptic evaluate``: predict once, score as often as wanted, also what other programs have written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from tiny_training import write_config

from panoptic_plugin.cli.evaluate import main
from panoptic_plugin.config import load_config
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth
from panoptic_plugin.structures import rgb_to_ids


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    """A folder with ``weights.pth``, ``tiny.yaml``, and in ``out`` what an evaluation leaves."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder, TEST={"BOUNDARY": True}, OUTPUT_DIR=str(folder / "out"))
    torch.manual_seed(0)
    torch.save({"model": build_model(load_config(config)).state_dict()}, folder / "weights.pth")
    words = ["--config-file", str(config), "--weights", str(folder / "weights.pth"), "--num-gpus", "0"]
    assert main(words) == 0
    return folder


def read(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def truth_of(scenes: Path) -> tuple[Path, Path]:
    root = scenes / "cityscapes" / "gtFine"
    return root / "cityscapes_panoptic_val.json", root / "cityscapes_panoptic_val"


def test_an_evaluation_says_what_it_scored(run):
    content = read(run / "out/inference")
    assert content["num_images"] == 3 and content["dataset"] == "cityscapes_fine_panoptic_val"
    assert content["checkpoint"]["path"].endswith("weights.pth") and len(content["checkpoint"]["sha256"]) == 64
    assert len(content["dataset_fingerprint"]) == len(content["config_sha256"]) == 64
    assert content["iteration"] is None and content["software"]["detectron2"] and content["created"]
    assert set(content["timing"]) >= {"seconds", "inference_seconds", "saving_seconds", "scoring_seconds"}
    assert {"PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU", "AP", "AP50"} <= set(content["per_class"][0])
    lines = [json.loads(line) for line in (run / "out/inference/per_image.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and (lines[0]["height"], lines[0]["width"]) == (64, 128)
    missed = sum(one["kind"] == "missed" for line in lines for one in line["segments"])
    assert missed == sum(one["FN"] or 0 for one in content["per_class"])
    confusion = json.loads((run / "out/inference/confusion.json").read_text())
    assert sum(map(sum, confusion["pixels"])) == 3 * 64 * 128


@pytest.mark.parametrize("place", ["inference/predictions", "inference", ".", "inference/predictions/panoptic.json"])
def test_saved_predictions_score_the_same(run, tmp_path, capsys, place):
    words = ["--predictions", str(run / "out" / place), "--config-file", str(run / "out/config.yaml")]
    assert main([*words, "--output", str(tmp_path)]) == 0
    assert "| All" in capsys.readouterr().out
    before, after = read(run / "out/inference"), read(tmp_path)
    for key in ("results", "per_class", "num_categories", "dataset_fingerprint", "checkpoint", "config_sha256"):
        assert after[key] == before[key], key
    for name in ("per_image.jsonl", "confusion.json"):
        assert (tmp_path / name).read_text() == (run / "out/inference" / name).read_text()


def test_the_truth_is_decoded_once_for_all_scorings(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path / "cache"))
    words = ["--predictions", str(run / "out"), "--config-file", str(run / "out/config.yaml")]
    assert main(words) == 0
    (made,) = (tmp_path / "cache").glob("*/*/manifest.json")
    before = made.stat().st_mtime_ns
    monkeypatch.setattr(PanopticGroundTruth, "read", lambda *_: pytest.fail("decoded again"))
    assert main([*words, "--output", str(tmp_path / "again")]) == 0
    assert made.stat().st_mtime_ns == before
    assert read(tmp_path / "again")["results"] == read(run / "out/inference")["results"]


def test_an_output_that_cannot_be_written_is_found_before_the_scoring(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("panoptic_plugin.cli.evaluate.score", lambda *_: pytest.fail("scored in vain"))
    (tmp_path / "file").write_text("")
    words = ["--predictions", str(run / "out"), "--config-file", str(run / "out/config.yaml")]
    assert main([*words, "--output", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output '{tmp_path}/file' cannot be made (File exists)")


def test_the_truth_is_a_prediction_of_another_program(scenes, tmp_path, capsys):
    truth, pictures = truth_of(scenes)
    shutil.copytree(pictures, tmp_path / "results")
    shutil.copy(truth, tmp_path / "results.json")
    words = ["--predictions", str(tmp_path / "results.json"), "--json", str(truth), "--panoptic", str(pictures)]
    assert main([*words, "--output", str(tmp_path / "scores")]) == 0
    assert main([*words[:-2], "--output", str(tmp_path / "again")]) == 0  # the folder has the JSON's name
    content = read(tmp_path / "scores")
    assert content["results"]["panoptic_seg"]["PQ"] == content["results"]["sem_seg"]["mIoU"] == 100
    assert "segm" not in content["results"]  # there are no scores
    assert content["checkpoint"] is None
    assert "100.000" in capsys.readouterr().out


def test_all_mistakes_of_the_images_are_named_at_once(scenes, tmp_path, capsys):
    truth, pictures = truth_of(scenes)
    content = json.loads(truth.read_text())
    first, second, third = content["annotations"]
    other = {**second, "segments_info": second["segments_info"][:1]}
    content["annotations"] = [second, second, other, {**third, "image_id": "elsewhere"}]
    shutil.copytree(pictures, tmp_path / "panoptic")
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    words = ["--predictions", str(tmp_path), "--json", str(truth)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"2 of 3 images have no prediction: {first['image_id']}, {third['image_id']}" in said
    assert f"1 images have different predictions: {second['image_id']}" in said
    assert "1 predicted images are not in the ground truth: elsewhere" in said


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", ""])
def test_pictures_stay_in_their_folder(scenes, tmp_path, capsys, name):
    truth, _ = truth_of(scenes)
    content = json.loads(truth.read_text())
    content["annotations"][0]["file_name"] = name
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert main(["--predictions", str(tmp_path), "--json", str(truth)]) == 2
    assert "expected a path inside" in capsys.readouterr().err


def test_damaged_truth_costs_no_predictions(run, scenes, tmp_path, capsys):
    _, pictures = truth_of(scenes)
    label = sorted(pictures.glob("*.png"))[1]
    whole = label.read_bytes()
    words = ["--config-file", str(run / "tiny.yaml"), "--weights", str(run / "weights.pth"), "--num-gpus", "0"]
    try:
        label.write_bytes(whole[: len(whole) // 2])
        assert main([*words, "--output", str(tmp_path)]) == 2
    finally:
        label.write_bytes(whole)
    said = capsys.readouterr().err
    assert "1 of 3 images cannot be scored" in said and label.name in said
    command = said.split("panoptic evaluate ")[1].split()
    assert not (tmp_path / "inference/metrics.json").exists()
    assert main(command) == 0
    assert read(tmp_path / "inference")["results"] == read(run / "out/inference")["results"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --predictions PATH"),
        (["--predictions", "nowhere"], "predictions nowhere do not exist"),
        (["--predictions", "nowhere", "--weights", "w.pth"], "--weights is for predicting"),
        (["--json", "g.json"], "--json and --panoptic go with --predictions"),
        (["TEST.BOUNDARY", "True"], "is a key of a config"),
    ],
)
def test_mistakes_on_the_command_line(capsys, words, said):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_real_annotations_score_as_with_panopticapi(shared_data, tmp_path):
    """COCO's own files as ground truth; as prediction the same with every second segment taken out."""
    reference = pytest.importorskip("panopticapi.evaluation")
    folder = shared_data / "coco_sample"
    truth, root = folder / "panoptic_examples.json", folder / "panoptic_examples"
    content = json.loads(truth.read_text())
    (tmp_path / "panoptic").mkdir()
    for annotation in content["annotations"]:
        rgb = np.array(Image.open(root / annotation["file_name"]).convert("RGB"))
        removed = annotation["segments_info"][::2]
        rgb[np.isin(rgb_to_ids(rgb), [one["id"] for one in removed])] = 0
        annotation["segments_info"] = annotation["segments_info"][1::2]
        Image.fromarray(np.roll(rgb, 2, axis=1)).save(tmp_path / "panoptic" / annotation["file_name"])
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    words = ["--predictions", str(tmp_path), "--json", str(truth), "--panoptic", str(root)]
    assert main([*words, "--output", str(tmp_path / "scores")]) == 0
    pairs = list(zip(json.loads(truth.read_text())["annotations"], content["annotations"], strict=True))
    categories = {one["id"]: one for one in content["categories"]}
    theirs = reference.pq_compute_single_core(0, pairs, str(root), str(tmp_path / "panoptic"), categories)
    ours = read(tmp_path / "scores")["results"]["panoptic_seg"]
    for suffix, isthing in (("", None), ("_th", True), ("_st", False)):
        average = theirs.pq_average(categories, isthing)[0]
        assert [ours[name.upper() + suffix] for name in ("pq", "sq", "rq")] == [
            100 * average[name] for name in ("pq", "sq", "rq")
        ]
    assert 10 < ours["PQ"] < 90
