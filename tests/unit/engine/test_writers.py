"""The line of the log, metrics.json, TensorBoard, and Weights & Biases, which may fail and never ends a training."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import types

import numpy as np
import pytest
from detectron2.utils.events import EventStorage, TensorboardXWriter

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.wandb_writer import ID_FILE, WandbWriter, check_wandb
from panoptic_plugin.engine.writers import make_writers
from panoptic_plugin.errors import ConfigError

OPTIONS = {"PROJECT": "p", "ENTITY": "", "NAME": "n", "MODE": "offline"}
# What people's greps read: the order, the names and the blanks between them are Detectron2's.
LINE = re.compile(
    r" eta: 0:00:\d\d  iter: 19  total_loss: 3  loss_a: 1  loss_b: 2  time: 0\.5000  data_time: 0\.1000  lr: 0\.001  "
    r"(max_mem: \d+M)?"
)


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER = str(tmp_path / "out"), 40
    return cfg


class FakeRun:
    """Notes what a run of wandb is told."""

    name, id, url, dir = "n", "x", None, "d"

    def __init__(self):
        self.logged, self.metrics, self.finished = [], [], False

    def log(self, values):
        self.logged.append(values)

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """In the place of wandb: ``inits`` are the arguments of each start, ``runs`` what they gave."""
    module = types.ModuleType("wandb")
    module.inits, module.runs = [], []

    def init(**arguments):
        module.inits.append(arguments)
        module.runs.append(FakeRun())
        return module.runs[-1]

    module.init, module.Settings, module.Image = init, dict, lambda pixels, file_type: pixels
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def fill(storage: EventStorage) -> None:
    for name, value in {"total_loss": 3, "loss_a": 1, "loss_b": 2, "time": 0.5, "data_time": 0.1}.items():
        storage.put_scalar(name, value)
    storage.put_scalar("lr", 0.001, smoothing_hint=False)


def write_twenty(writers) -> None:
    with EventStorage(0) as storage:
        for storage.iter in range(20):
            fill(storage)
        for writer in writers:
            writer.write()
        for writer in writers:
            writer.close()


def test_line_of_the_log_is_that_of_detectron2(cfg, caplog):
    with caplog.at_level("INFO", logger="detectron2"):
        write_twenty(make_writers(cfg))
    lines = [record.getMessage() for record in caplog.records if "iter: " in record.getMessage()]
    assert len(lines) == 1 and LINE.fullmatch(lines[0]), lines


def test_metrics_and_events_are_written(cfg, tmp_path):
    write_twenty(make_writers(cfg))
    (line,) = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    assert json.loads(line)["iteration"] == 19 and json.loads(line)["total_loss"] == 3
    assert len(list((tmp_path / "out").glob("events.out.tfevents.*"))) == 1


def test_tensorboard_comes_last_because_it_takes_the_pictures(cfg):
    cfg.WANDB.ENABLED = True
    writers = make_writers(cfg)
    assert isinstance(writers[-1], TensorboardXWriter) and isinstance(writers[-2], WandbWriter)
    cfg.WANDB.ENABLED = False
    assert not any(isinstance(writer, WandbWriter) for writer in make_writers(cfg))


def test_wandb_gets_each_scalar_and_picture_once(wandb, tmp_path):
    writer = WandbWriter(str(tmp_path), options=OPTIONS, config={"a": 1})
    with EventStorage(0) as storage:
        fill(storage)
        storage.put_image("preview", np.full((3, 4, 5), 7, dtype=np.uint8))
        storage.put_image("float", np.full((3, 4, 5), 0.5, dtype=np.float32))
        writer.write()
        storage.clear_images()
        storage.iter = 1
        storage.put_scalar("lr", 0.002, smoothing_hint=False)
        writer.write()
    (run,) = wandb.runs
    assert run.metrics == [("*", "iteration")]
    first, second = run.logged
    assert first["iteration"] == 0 and first["total_loss"] == 3
    assert first["preview"].shape == (4, 5, 3) and (first["preview"] == 7).all()
    assert (first["float"] == 128).all() and first["float"].dtype == np.uint8
    assert second == {"iteration": 1, "lr": 0.002}
    assert wandb.inits[0]["mode"] == "offline" and wandb.inits[0]["entity"] is None
    assert wandb.inits[0]["config"] == {"a": 1}
    writer.close()
    assert run.finished


@pytest.mark.parametrize(("start_iter", "same"), [(0, False), (10, True)])
def test_only_a_resumed_training_keeps_its_run(wandb, tmp_path, start_iter, same):
    for start in (0, start_iter):
        writer = WandbWriter(str(tmp_path), options=OPTIONS, config={}, start_iter=lambda start=start: start)
        with EventStorage(start) as storage:
            fill(storage)
            writer.write()
    first, second = (arguments["id"] for arguments in wandb.inits)
    assert (first == second) is same
    assert (tmp_path / ID_FILE).read_text().strip() == second


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_failing_wandb_is_one_warning(wandb, tmp_path, caplog, where, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no server\nsecond line")

    monkeypatch.setattr(wandb if where == "init" else FakeRun, where, fail)
    writer = WandbWriter(str(tmp_path), options=OPTIONS, config={})
    with EventStorage(0) as storage:
        for storage.iter in range(3):
            fill(storage)
            writer.write()
    writer.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["Weights & Biases failed (no server); training goes on without it"]


def test_mistakes_are_found_before_training(cfg, monkeypatch):
    check_wandb(cfg)
    cfg.WANDB.ENABLED, cfg.WANDB.MODE = True, "ofline"
    with pytest.raises(ConfigError, match="Did you mean 'offline'"):
        check_wandb(cfg)
    cfg.WANDB.MODE = "offline"
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    with pytest.raises(ConfigError, match="pip install wandb"):
        check_wandb(cfg)
    cfg.WANDB.ENABLED = False
    check_wandb(cfg)
