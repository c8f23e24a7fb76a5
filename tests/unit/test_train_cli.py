"""The train command's options and endings."""

from __future__ import annotations

import argparse

import pytest
import yaml
from detectron2.engine import default_argument_parser
from tiny_training import write_config

from panoptic_plugin.cli.run import one_line, run_cli
from panoptic_plugin.cli.train import build_parser, main, resolve_config
from panoptic_plugin.errors import CheckpointError, ConfigError, DatasetError


@pytest.fixture
def config(tmp_path):
    return str(write_config(tmp_path))


def test_every_option_of_detectron2_is_there():
    theirs = {option for action in default_argument_parser()._actions for option in action.option_strings}
    ours = {option for action in build_parser()._actions for option in action.option_strings}
    assert theirs <= ours
    assert {"--weights", "--device", "--dry-run"} <= ours


def test_short_options_are_overrides(config):
    words = ["--config-file", config, "--weights", "w.pth", "--num-gpus", "0", "SOLVER.MAX_ITER", "3"]
    cfg, num_gpus = resolve_config(build_parser().parse_args(words))
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.SOLVER.MAX_ITER, num_gpus) == ("w.pth", "cpu", 3, 0)
    assert cfg.is_frozen()


def test_dry_run_prints_the_resolved_config(config, capsys):
    assert main(["--config-file", config, "--dry-run", "SOLVER.BASE_LR", "0.5"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["SOLVER"]["BASE_LR"] == 0.5


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "give --config-file"),
        (["--config-file", "CONFIG", "SOLVER.MAX_ITER", "3", "--resume"], "--resume stands after a KEY VALUE pair"),
        (["SOLVER.MAX_ITER", "3", "--config-file", "CONFIG"], "--config-file stands after a KEY VALUE pair"),
        (["--config-file", "CONFIG", "--num-gpus", "64"], "64"),
        (["--config-file", "CONFIG", "--eval-only"], "--eval-only needs weights"),
        (["--config-file", "CONFIG", "SOLVER.MAX_ITR", "3"], "SOLVER.MAX_ITR"),
        (["--config-file", "CONFIG", "MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu', expected cuda, cuda:N or cpu"),
        (["--config-file", "CONFIG", "SOLVER.MAX_ITER"], "SOLVER.MAX_ITER stands alone"),
        (["--config-file", "CONFIG", "SOLVER.MAX_ITER=3"], "write KEY VALUE with a space: SOLVER.MAX_ITER 3"),
        (["--config-file", "CONFIG", "--weights", "w", "SOLVER.MAX_ITER", "3", "SEED"], "SEED stands alone"),
    ],
)
def test_mistakes_end_with_one_line(config, capsys, words, expected):
    assert main([config if word == "CONFIG" else word for word in words]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and expected in stderr


def test_exit_codes():
    def fails(args):
        raise ConfigError("two\nlines")

    def interrupted(args):
        raise KeyboardInterrupt

    args = argparse.Namespace()
    assert run_cli(lambda _: None, args) == 0
    assert run_cli(lambda _: 3, args) == 3
    assert run_cli(fails, args) == 2
    assert run_cli(interrupted, args) == 130


def test_the_traceback_around_a_workers_error_is_left_out():
    text = (
        "Caught DatasetError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\n    raise DatasetError(\npanoptic_plugin.errors.DatasetError: image a.png: bad\n'
    )
    assert one_line(DatasetError(text)) == "image a.png: bad"
    assert one_line(CheckpointError("a\n b")) == "a b"


def test_only_the_main_process_speaks_before_the_processes_have_joined(config, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(["--config-file", config, "SOLVER.MAX_ITR", "3"]) == 2
    assert capsys.readouterr().err == ""
