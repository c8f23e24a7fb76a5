"""Mistakes that users make: one clear line each, naming the file or key and the remedy, and exit code 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.cli.main import main as panoptic
from panoptic_plugin.cli.train import main


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), "cityscapes", num_train=2, num_val=1)


@pytest.fixture
def fails(scenes, tmp_path, capfd):
    """Run the train command and return its only error line."""

    def run(*overrides: str, datasets: Path = scenes, **changes) -> str:
        config = write_config(tmp_path, OUTPUT_DIR=str(tmp_path / "out"), **changes)
        with job_environment(datasets):
            assert main(["--config-file", str(config), "--num-gpus", "0", *overrides]) == 2
        printed = capfd.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("error")]
        assert len(errors) == 1, printed.err
        assert "Traceback" not in printed.err + printed.out
        return errors[0]

    return run


def test_wrong_config_key(fails, tmp_path):
    line = fails(SOLVER__BASE_LRR=0.1)
    assert "tiny.yaml" in line and "SOLVER.BASE_LRR" in line and "SOLVER.BASE_LR" in line


def test_wrong_registry_name(fails):
    line = fails("MODEL.BACKBONE.NAME", "d2_hrnt")
    assert "MODEL.BACKBONE.NAME" in line and "'d2_hrnt'" in line and "Did you mean 'd2_hrnet'" in line


def test_wrong_dataset_name(fails):
    line = fails("DATASETS.TRAIN", "('cityscapes_fine_panoptic_trian',)")
    assert "DATASETS.TRAIN" in line and "Did you mean 'cityscapes_fine_panoptic_train'" in line


def test_missing_dataset_folder(fails, tmp_path):
    line = fails(datasets=tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in line


def test_missing_weights(fails):
    line = fails("MODEL.WEIGHTS", "absent.pth")
    assert "absent.pth" in line and "does not exist" in line and "MODEL.WEIGHTS" in line


def test_evaluation_without_weights(fails):
    assert "--weights" in fails("--eval-only")


def test_evaluation_of_a_folder_without_checkpoints(fails, tmp_path):
    line = fails("--eval-only", "--resume")
    assert f"OUTPUT_DIR {tmp_path / 'out'} holds no checkpoint to evaluate" in line


def test_wrong_number_of_classes(fails):
    line = fails("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "20")
    assert "NUM_CLASSES is 20" in line and "set MODEL.SEM_SEG_HEAD.NUM_CLASSES 19" in line


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image(fails, scenes, tmp_path, workers):
    broken = tmp_path / "broken"
    shutil.copytree(scenes, broken)
    for image in broken.glob("cityscapes/leftImg8bit/train/*/*.png"):
        image.write_bytes(image.read_bytes()[:200])
    line = fails("DATALOADER.NUM_WORKERS", str(workers), datasets=broken)
    assert "leftImg8bit.png" in line and str(broken) in line


def test_segment_of_an_unknown_category(fails, scenes, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(scenes, broken)
    file = broken / "cityscapes" / "gtFine" / "cityscapes_panoptic_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 999
    file.write_text(json.dumps(content))
    line = fails(datasets=broken)
    assert "cityscapes_panoptic_train.json" in line and "999" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("demo --config-file {config} --video-input {folder} --output {folder}/a", "video {folder} is a folder; name"),
        ("report {folder}/run --dataset nowhere", "{folder}/run evaluated no dataset 'nowhere' (--dataset)"),
        ("benchmark --config-file {config} --threads 0", "--threads is 0, expected 1 or more"),
        ("benchmark --config-file {config} --json {folder}/gone/a.json", "--json {folder}/gone/a.json cannot be"),
        ("tune --cfg {config} --output {folder}/tiny.yaml", "OUTPUT_DIR '{folder}/tiny.yaml' cannot be made"),
        ("data synthesize --output {folder}/tiny.yaml", "cannot use {folder}/tiny.yaml: File exists"),
    ],
)
def test_other_commands(scenes, tmp_path, capsys, words, expected):
    config = write_config(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("{}")
    with job_environment(scenes):
        assert panoptic(words.format(config=config, folder=tmp_path).split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {expected.format(folder=tmp_path)}")
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.out


@pytest.mark.slow
def test_the_script_itself_ends_so(tmp_path, repository):
    config = write_config(tmp_path)
    done = subprocess.run(
        [sys.executable, str(repository / "tools" / "train_deeplab.py"), "--config-file", str(config), "SEEED", "1"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == done.stderr.splitlines()
    assert "SEEED" in done.stderr
