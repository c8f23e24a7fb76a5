"""The stage benchmark of a config, from the command line."""

from __future__ import annotations

import json

import pytest
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.cli.benchmark import main


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(figures, words of the command) on generated scenes."""
    folder = tmp_path_factory.mktemp("stages")
    words = ["--config-file", str(write_config(folder)), "--device", "cpu", "--json", str(folder / "stages.json")]
    with job_environment(folder):
        assert main([*words, "--num-images", "3", "--num-steps", "1"]) == 0
        yield json.loads((folder / "stages.json").read_text()), words


def test_every_stage_is_timed_and_their_shares_make_one(report):
    inference, loading = report[0]["inference"], report[0]["training"]["loading"]
    assert list(inference["stages"]) == ["decode", "resize", "collate", "network", "postprocessing", "evaluation"]
    assert list(loading["stages"]) == ["decode", "augment", "targets"]
    for summary in (inference, loading):
        assert sum(stage["share"] for stage in summary["stages"].values()) == pytest.approx(1, abs=1e-3)
        assert summary["images_per_second"] == pytest.approx(1000 / summary["ms"], rel=1e-3)
    assert inference["stages"]["network"]["ms_median"] > 0
    assert inference["size"] == [64, 128] and inference["peak_mib"] > 0


def test_the_training_step_is_timed(report):
    training = report[0]["training"]
    assert training["batch_size"] == 2 and training["crop"] == [64, 128]
    assert training["images_per_second"] == pytest.approx(2000 / training["step_ms"], rel=1e-3)
    assert report[0]["machine"]["device"] == "cpu"


def test_another_size_a_dataset_of_the_user_and_one_part(tmp_path, capsys):
    with job_environment(make_scenes(tmp_path, "cityscapes")):
        words = ["--config-file", str(write_config(tmp_path)), "--device", "cpu", "--parts", "inference"]
        assert main([*words, "--size", "96", "160", "--num-images", "1"]) == 0
        assert "inference, 96x160" in capsys.readouterr().out
        assert main([*words, "--dataset", "cityscapes_fine_panoptic_val", "--num-images", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| network " in printed and "training" not in printed


def test_mistakes_are_one_line(report, capsys):
    words = report[1]
    assert main([*words, "--num-images", "0"]) == 2
    assert main([*words, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "7"]) == 2
    assert main([*words, "--dataset", "cityscapes_fine_panoptic_vla"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
    assert "Name a dataset with --dataset" in errors[1] and "cityscapes_fine_panoptic_val" in errors[2]
