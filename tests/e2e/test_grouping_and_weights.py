"""A training with weights by object, grouping by class and offset, and evaluations that share a cache."""

from __future__ import annotations

import json

import pytest
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.cli.train import main

pytestmark = pytest.mark.slow


def test_the_keys_go_through_training_and_evaluation(tmp_path, monkeypatch):
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path / "cache"))
    system = {
        "STUFF_AREA": 8,
        "CENTER_THRESHOLD": 0.0,
        "GROUPING": {"MODE": "semantic_map", "LAMBDA": 2.0},
        "SCORE": "semantic",
        "INSTANCE_WEIGHT": {"MODE": "instance_ce", "CONSISTENCY": 1.0, "APPLY_TO": ["semantic", "offset"]},
    }
    config = write_config(
        tmp_path, MODEL__PANOPTIC_DEEPLAB=system, SOLVER__MAX_ITER=4, TEST={"EVAL_PERIOD": 2},
        OUTPUT_DIR=str(tmp_path / "out"),
    )  # fmt: skip
    with job_environment(make_scenes(tmp_path / "scenes", "cityscapes")):
        assert main(["--config-file", str(config), "--num-gpus", "0"]) == 0
        (manifest,) = (tmp_path / "cache").glob("*/*/manifest.json")
        made = manifest.stat().st_mtime_ns
        results = {}
        for mode in ("auto", "off"):
            output = tmp_path / mode
            words = [
                "TEST.CACHE",
                mode,
                "OUTPUT_DIR",
                str(output),
                "MODEL.WEIGHTS",
                str(tmp_path / "out/model_final.pth"),
            ]
            assert main(["--config-file", str(config), "--num-gpus", "0", "--eval-only", *words]) == 0
            results[mode] = json.loads((output / "inference/metrics.json").read_text())
            assert (output / "inference/ap_res.txt").read_text().startswith("# Instance segmentation")
    assert manifest.stat().st_mtime_ns == made
    assert results["auto"]["results"] == results["off"]["results"]
    assert results["auto"]["instances"]["predicted"] > 0
