"""Output folder, logs and config backup of a job."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.setup import LOGGERS, describe_environment, set_up_job
from panoptic_plugin.errors import ConfigError


@pytest.fixture(autouse=True)
def _restored_loggers():
    before = {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in LOGGERS}
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).propagate = propagate


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return cfg


def test_each_line_stands_once_after_several_jobs(cfg, tmp_path, capsys):
    for folder in ("one", "two"):
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        set_up_job(cfg)
    capsys.readouterr()
    logging.getLogger("panoptic_plugin.engine").info("a line")
    for handler in logging.getLogger("panoptic_plugin").handlers:
        handler.flush()
    assert capsys.readouterr().out.count("a line") == 1
    assert (tmp_path / "two" / "log.txt").read_text().count("a line") == 1
    assert "a line" not in (tmp_path / "one" / "log.txt").read_text()


def test_config_is_saved_and_evaluation_keeps_that_of_training(cfg, tmp_path):
    set_up_job(cfg)
    saved = (tmp_path / "out" / "config.yaml").read_text()
    assert saved == cfg.dump()
    cfg.SOLVER.MAX_ITER = 7
    set_up_job(cfg, keep_config=True)
    assert (tmp_path / "out" / "config.yaml").read_text() == saved


def test_seed_repeats(cfg):
    cfg.SEED = 5
    numbers = []
    for _ in range(2):
        set_up_job(cfg)
        numbers.append(np.random.rand())
    assert numbers[0] == numbers[1]


def test_a_folder_that_cannot_be_made_is_named(cfg, tmp_path):
    (tmp_path / "file").write_text("")
    cfg.OUTPUT_DIR = str(tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match="OUTPUT_DIR .*file/out"):
        set_up_job(cfg)


def test_environment_names_the_versions():
    text = describe_environment()
    assert "detectron2" in text and "torch" in text
