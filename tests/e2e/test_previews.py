"""A real training with previews and with Weights & Biases offline, and the same one without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.cli.train import main
from panoptic_plugin.engine.preview import preview_iterations


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Iterator[Path]:
    folder = make_scenes(tmp_path_factory.mktemp("scenes"), "cityscapes")
    with job_environment(folder):
        yield folder


def train(folder: Path, *words: str, **changes) -> Path:
    config = write_config(folder, OUTPUT_DIR=str(folder / "out"), DATASETS__TEST=[], **changes)
    assert main([*words, "--config-file", str(config), "--num-gpus", "0"]) == 0
    return folder / "out"


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "model_final.pth", weights_only=True)["model"]


@pytest.fixture(scope="module")
def drawn(scenes, tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("drawn"), VIS_PERIOD=2, PREVIEW={"NUM_IMAGES": 2, "MAX_FILES": 2})


def test_weights_are_those_of_a_training_without_previews(drawn, scenes, tmp_path):
    plain = train(tmp_path)
    expected, found = weights(plain), weights(drawn)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert not (plain / "previews").exists()


def test_pictures_are_in_the_folder_and_in_tensorboard(drawn):
    assert preview_iterations(drawn / "previews") == [1, 5]
    picture = cv2.imread(str(drawn / "previews" / "iter_0000005.jpg"))
    # Two rows of three panels of 320x640 each, with captions and gaps.
    assert 640 < picture.shape[0] < 760 and 1920 < picture.shape[1] < 2000
    events = EventAccumulator(str(drawn), size_guidance={"images": 0})
    events.Reload()
    assert [image.step for image in events.Images("preview")] == [1, 3, 5]
    assert "2 previews, the last one: previews/iter_0000005.jpg" in (drawn / "log.txt").read_text()


def test_wandb_offline_goes_on_in_its_run(scenes, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    # Nothing listens there: whoever asks a server gets none.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    options = {"ENABLED": True, "MODE": "offline", "PROJECT": "test"}
    out = train(tmp_path, WANDB=options, VIS_PERIOD=3)
    first = (out / "wandb_run_id").read_text()
    assert (out / "wandb" / "latest-run").exists()
    assert list(out.glob("wandb/offline-run-*/files/media/images/preview_*.jpg"))
    train(tmp_path, "--resume", WANDB=options, VIS_PERIOD=3, SOLVER={"MAX_ITER": 8, "IMS_PER_BATCH": 2})
    assert (out / "wandb_run_id").read_text() == first
    runs = list(out.glob(f"wandb/offline-run-*-{first.strip()}/*.wandb"))
    assert runs and all(run.stat().st_size > 0 for run in runs)
    log = (out / "log.txt").read_text()
    assert "Weights & Biases failed" not in log
    iterations = [json.loads(line)["iteration"] for line in (out / "metrics.json").read_text().splitlines()]
    assert max(iterations) >= 7
