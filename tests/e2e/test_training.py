"""Train, kill, resume and evaluate with the real command on generated scenes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.engine import DefaultTrainer
from tiny_training import write_config

from panoptic_plugin.cli.train import main
from panoptic_plugin.engine.trainer import PanopticTrainer


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory) -> Path:
    """The output folder of six iterations with an evaluation in the middle and at the end."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, TEST={"EVAL_PERIOD": 3}, OUTPUT_DIR=str(folder / "out"))
    assert main(["--config-file", str(config), "--num-gpus", "0"]) == 0
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_training_leaves_all_that_detectron2_does(trained):
    out = trained / "out"
    names = {path.name for path in out.iterdir()}
    assert {"config.yaml", "log.txt", "metrics.json", "last_checkpoint", "inference"} <= names
    assert {"model_0000001.pth", "model_0000003.pth", "model_0000005.pth", "model_final.pth"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    log = (out / "log.txt").read_text()
    assert "copypaste: Task: panoptic_seg" in log and "eta: " in log
    written = {key for line in lines(out / "metrics.json") for key in line}
    assert {"total_loss", "loss_sem_seg", "loss_center", "loss_offset", "grad_norm"} <= written
    assert {"lr", "time", "data_time"} <= written
    evaluated = [line["iteration"] for line in lines(out / "metrics.json") if "panoptic_seg/PQ" in line]
    assert evaluated == [2, 6]


def test_checkpoint_holds_optimizer_and_schedule(trained):
    checkpoint = torch.load(trained / "out" / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 5
    state = checkpoint["trainer"]
    assert state["hooks"]["LRScheduler"]["last_epoch"] == 6  # the next iteration's rate
    assert len(state["_trainer"]["optimizer"]["state"]) > 100


def test_evaluation_of_the_weights_repeats_that_of_training(trained, tmp_path):
    weights = str(trained / "out" / "model_final.pth")
    words = ["--config-file", str(trained / "tiny.yaml"), "--num-gpus", "0", "--eval-only", "--weights", weights]
    assert main([*words, "OUTPUT_DIR", str(tmp_path)]) == 0
    assert read_metrics(tmp_path) == read_metrics(trained / "out")


def test_benchmark_reports_network_and_post_processing_apart(trained, tmp_path):
    weights = str(trained / "out" / "model_final.pth")
    words = ["--config-file", str(trained / "tiny.yaml"), "--num-gpus", "0", "--eval-only", "--weights", weights]
    assert main([*words, "OUTPUT_DIR", str(tmp_path), "MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED", "True"]) == 0
    figures = json.loads((tmp_path / "benchmark.json").read_text())
    assert figures["network_ms_median"] > 0 and figures["postprocessing_ms_median"] > 0
    assert "| postprocessing" in (tmp_path / "log.txt").read_text()


def read_metrics(folder: Path) -> dict:
    """The scores, without when and how long."""
    content = json.loads((folder / "inference" / "metrics.json").read_text())
    return {key: content[key] for key in ("results", "per_class", "num_images", "dataset_fingerprint")}


@pytest.mark.slow
def test_a_killed_training_resumes_where_it_was(scenes, tmp_path, repository):
    last_iteration = 11
    config = write_config(tmp_path, SOLVER__MAX_ITER=last_iteration + 1, OUTPUT_DIR=str(tmp_path / "out"))
    words = ["--config-file", str(config), "--num-gpus", "0", "DATASETS.TEST", "()"]
    child = subprocess.Popen(
        [sys.executable, str(repository / "train_panoptic_deeplab.py"), *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    saved = tmp_path / "out" / "last_checkpoint"
    try:
        while not saved.exists():
            assert child.poll() is None, "the training ended before its first checkpoint"
            time.sleep(0.005)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    reached = torch.load(tmp_path / "out" / saved.read_text(), weights_only=True)["iteration"]
    assert reached < last_iteration
    assert main(["--resume", *words]) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert f"Starting training from iteration {reached + 1}" in log
    final = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert final["iteration"] == last_iteration
    assert final["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == last_iteration + 1
    steps = {int(state["step"]) for state in final["trainer"]["_trainer"]["optimizer"]["state"].values()}
    assert steps == {last_iteration + 1}
    rates = [line["lr"] for line in lines(tmp_path / "out" / "metrics.json") if "lr" in line]
    assert rates[-1] == pytest.approx(1e-3 * (1 - last_iteration / (last_iteration + 1)) ** 0.9)


def test_the_trainer_is_extended_as_detectron2s(trained):
    class Frozen(PanopticTrainer):
        @classmethod
        def build_optimizer(cls, cfg, model):
            return torch.optim.SGD(model.parameters(), lr=0.0)

    from panoptic_plugin import load_config

    cfg = load_config(trained / "tiny.yaml", ["SOLVER.MAX_ITER", 1, "OUTPUT_DIR", str(trained / "extended")])
    cfg.DATASETS.TEST = ()
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = Frozen(cfg)
    assert isinstance(trainer, DefaultTrainer)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())
