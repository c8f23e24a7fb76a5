"""A real training with evaluations: losses and charts of the classes in TensorBoard and, offline, Weights & Biases."""

from __future__ import annotations

import json
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.cli.train import main

pytestmark = pytest.mark.slow


def test_losses_and_classes_are_logged(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    out = tmp_path / "out"
    config = write_config(
        tmp_path,
        OUTPUT_DIR=str(out),
        TEST={"EVAL_PERIOD": 3},
        WANDB={"ENABLED": True, "MODE": "offline", "PROJECT": "test"},
    )
    with job_environment(make_scenes(tmp_path / "scenes", "cityscapes")):
        assert main(["--config-file", str(config), "--num-gpus", "0"]) == 0
    events = EventAccumulator(str(out), size_guidance={"images": 0})
    events.Reload()
    # The last one comes when the training is over, as its scores do.
    assert [image.step for image in events.Images("classes")] == [2, 6]
    assert {"loss_sem_seg", "loss_center", "loss_offset", "total_loss", "panoptic_seg/PQ"} <= set(
        events.Tags()["scalars"]
    )
    tables = sorted(out.glob("wandb/offline-run-*/files/media/table/classes/table_*.json"))
    assert len(tables) == 2 and len(list(out.glob("wandb/offline-run-*/files/media/images/classes_*.jpg"))) == 2
    content = json.loads(tables[-1].read_text())
    assert len(content["data"]) == 19 and {"class", "kind", "PQ", "SQ", "RQ", "IoU"} <= set(content["columns"])
    (run,) = out.glob("wandb/offline-run-*/*.wandb")
    until = time.monotonic() + 20
    while not all(name in run.read_bytes() for name in (b"classes/PQ", b"classes/SQ", b"classes/RQ", b"loss_center")):
        assert time.monotonic() < until  # a process of wandb's own writes it
        time.sleep(0.1)
    log = (out / "log.txt").read_text()
    assert "No more charts" not in log and "Weights & Biases failed" not in log
