"""Config files and values made to harm: one line says so, and nothing is waited for."""

from __future__ import annotations

import os

import pytest

from panoptic_plugin import get_cfg, load_config
from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.cli.train import main
from panoptic_plugin.config_values import RULES, check_values
from panoptic_plugin.engine.setup import set_up_job
from panoptic_plugin.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('_BASE_: "a\\0b.yaml"', "cannot be found: embedded null"),
        (f"_BASE_: {'a' * 5000}.yaml", "does not exist"),
        ("_BASE_: ~nobody-has-this-name/x.yaml", "cannot be found"),
        ("SEED: 0x" + "f" * 100_000, "more than 63 bits"),
        ("SEED: " + ":".join(["59"] * 20_000), "more than 63 bits"),
        ("SEED: " + ":".join(["59"] * 2000) + ".5", "too large"),
        ("SEED: " + "9" * 5000, "limit"),
        ("a: &a {x: 1}\nMODEL:\n  <<: *a", "merge keys .* not supported"),
        ("a: &a\n  <<: *a", "merge keys .* not supported"),
        ("MODEL: &a\n  X: *a", "nested too deep"),
    ],
)
def test_what_a_file_holds(text, message, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "x.yaml")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for path in (tmp_path / "fifo.yaml", tmp_path / "loop.yaml", "/dev/zero", "x" * 5000, "a\0b", tmp_path):
        with pytest.raises(ConfigError, match="config file"):
            load_config(path)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text("SEED: 1")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    with pytest.raises(ConfigError, match=r"x\.yaml cannot be read: .*Permission denied"):
        load_config(tmp_path / "x.yaml")


WRONG = {
    "SEED": 10**30,
    "SOLVER.MAX_ITER": 0,
    "SOLVER.IMS_PER_BATCH": 0,
    "SOLVER.CHECKPOINT_PERIOD": 0,
    "SOLVER.BASE_LR": float("nan"),
    "DISTRIBUTED.TIMEOUT": 0,
    "INPUT.MIN_SIZE_TRAIN": (),
    "INPUT.MAX_SIZE_TRAIN": 0,
    "INPUT.MAX_SIZE_TEST": 0,
    "INPUT.FORMAT": "GBR",
    "INPUT.CROP.SIZE": [-5, 10],
    "MODEL.PIXEL_MEAN": [0.5],
    "MODEL.PIXEL_STD": [1.0, 0.0, 1.0],
    "MODEL.SEM_SEG_HEAD.NORM": "BatchNorm",
    "MODEL.INS_EMBED_HEAD.NORM": "BatchNorm",
    "TEST.EVAL_PERIOD": -1,
    "TEST.BATCH_SIZE": 0,
}


@pytest.mark.parametrize("key", [rule[0] for rule in RULES])
def test_values_that_cannot_be_meant(key):
    cfg = get_cfg()
    check_values(cfg)
    cfg.merge_from_list([key, WRONG[key]])
    with pytest.raises(ConfigError, match=f"^{key} is .*, expected "):
        check_values(cfg)


def test_the_command_line_ends_with_one_line(capsys, repository, tmp_path):
    config = repository / "configs" / "quick" / "panoptic_deeplab_cityscapes.yaml"
    words = ["--config-file", str(config), "--num-gpus", "0", "OUTPUT_DIR", str(tmp_path), "SOLVER.BASE_LR", "-1.0"]
    assert main(words) == 2
    assert capsys.readouterr().err == "error: SOLVER.BASE_LR is -1.0, expected a finite number, 0 or more\n"


@pytest.mark.parametrize("folder", ["s3://bucket/run", "a\0b", "", "/dev/full", "/proc/x", "/sys/kernel", "x" * 5000])
def test_output_folders_that_cannot_be_written(folder):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = folder
    with pytest.raises(ConfigError, match="^OUTPUT_DIR .*name"):
        set_up_job(cfg)


def test_a_full_disk_is_one_line_whatever_was_written(capsys):
    def write(args):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    assert run_cli(write, None) == 2
    assert capsys.readouterr().err.startswith("error: cannot write a file: No space left on device; make room")


def test_a_path_that_cannot_be_used_is_one_line(capsys, tmp_path):
    assert run_cli(lambda args: (tmp_path / "file").mkdir() or (tmp_path / "file").mkdir(), None) == 2
    expected = f"error: cannot use {tmp_path / 'file'}: File exists; check the path and its permissions\n"
    assert capsys.readouterr().err == expected


def test_other_errors_of_the_system_pass():
    def fail(args):
        raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        run_cli(fail, None)
