"""The keys that change how a training runs, together: they train, save, resume and evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.cli.train import main

KEYS = {
    "MODEL__EMA": {"ENABLED": True, "DECAY": 0.9},
    "MODEL__CHANNELS_LAST": True,
    "SOLVER__ACCUMULATE_STEPS": 2,
    "TEST": {"EVAL_PERIOD": 4},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, output folder) of four iterations, and two more after a resume."""
    folder = tmp_path_factory.mktemp("speed_keys")
    with job_environment(make_scenes(folder / "scenes", "cityscapes")):
        config = write_config(folder, OUTPUT_DIR=str(folder / "out"), **KEYS)
        words = ["--config-file", str(config), "--num-gpus", "0"]
        assert main([*words, "SOLVER.MAX_ITER", "4"]) == 0
        assert main(["--resume", *words]) == 0
        yield config, folder / "out"


def metrics(folder: Path) -> dict:
    return json.loads((folder / "inference" / "metrics.json").read_text())["results"]


def test_averages_go_on_after_a_resume(trained):
    checkpoint = torch.load(trained[1] / "model_final.pth", weights_only=True)
    assert checkpoint["ema"]["num_updates"] == 6
    assert checkpoint["ema"]["averages"].keys() == checkpoint["model"].keys()
    name = next(name for name in checkpoint["model"] if name.endswith("predictor.weight"))
    assert not torch.equal(checkpoint["ema"]["averages"][name], checkpoint["model"][name])


def test_evaluation_uses_the_averages_as_that_of_training_did(trained, tmp_path):
    config, out = trained
    words = ["--config-file", str(config), "--num-gpus", "0", "--eval-only", "--weights", str(out / "model_final.pth")]
    assert main([*words, "OUTPUT_DIR", str(tmp_path / "averaged")]) == 0
    assert metrics(tmp_path / "averaged") == metrics(out)
    assert "Using the averaged weights" in (tmp_path / "averaged" / "log.txt").read_text()
    assert main([*words, "OUTPUT_DIR", str(tmp_path / "last"), "MODEL.EMA.EVALUATE", "False"]) == 0
    assert "Using the averaged weights" not in (tmp_path / "last" / "log.txt").read_text()
