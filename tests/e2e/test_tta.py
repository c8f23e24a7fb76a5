"""Test-time augmentation by its config keys: in an evaluation, and in prediction from Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import job_environment, make_scenes, write_config

import panoptic_plugin
from panoptic_plugin.cli.train import main
from panoptic_plugin.config import load_config
from panoptic_plugin.data.reading import read_image
from panoptic_plugin.engine.model import build_model

AUGMENT = ["TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[0.5, 1.0]"]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Iterator[tuple[Path, Path, Path]]:
    """Config, weights of a network that has seen nothing, and an image."""
    folder = make_scenes(tmp_path_factory.mktemp("tta"), "cityscapes", num_train=1, num_val=3)
    with job_environment(folder):
        config = write_config(folder / "config")
        weights = folder / "weights.pth"
        torch.save({"model": build_model(load_config(config)).state_dict()}, weights)
        yield config, weights, next((folder / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))


def test_evaluation(job, tmp_path):
    config, weights, _ = job
    scores = []
    for number, words in enumerate(([], ["TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[1.0]", "TEST.AUG.FLIP",
                                    "False"], AUGMENT)):  # fmt: skip
        out = tmp_path / str(number)
        code = main(["--config-file", str(config), "--eval-only", "--num-gpus", "0", "--weights", str(weights),
                     "OUTPUT_DIR", str(out), "TEST.BATCH_SIZE", "2", *words])  # fmt: skip
        assert code == 0
        scores.append(json.loads((out / "inference" / "metrics.json").read_text())["results"])
        assert ("Test-time augmentation" in (out / "log.txt").read_text()) is bool(words)
    plain, untouched, augmented = scores
    assert plain == untouched
    assert augmented["sem_seg"]["mIoU"] is not None


def test_prediction_from_python(job):
    config, weights, file = job
    image = read_image(str(file), "RGB")
    plain = panoptic_plugin.load_model(config, weights)(image)
    augmented = panoptic_plugin.load_model(config, weights, overrides=AUGMENT)
    result = augmented([image, image[:40, :100]])
    assert [one.ids.shape for one in result] == [image.shape[:2], (40, 100)]
    mirrored = augmented(np.ascontiguousarray(image[:, ::-1]))
    assert (mirrored.semantic[:, ::-1] == result[0].semantic).mean() > 0.99
    assert plain.ids.shape == result[0].ids.shape


def test_a_mistake_is_one_line(job, capsys):
    config, weights, _ = job
    words = ["--config-file", str(config), "--eval-only", "--num-gpus", "0", "--weights", str(weights)]
    words += ["OUTPUT_DIR", str(config.parent / "none"), "TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[]"]
    code = main(words)
    assert code == 2
    assert "TEST.AUG.SCALES is []" in capsys.readouterr().err
