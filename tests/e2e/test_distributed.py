"""Two gloo processes train and evaluate the model that one does.

What is compared: with the same seed, the two processes together see the batches that one process sees, so that
training with SGD gives the same weights up to float32 rounding (all scenes have the label of the first, because the
mean loss of a batch is the mean of its images' losses only where equally many pixels count in each); both processes
hold bit-equal weights; and one checkpoint scores the same on one process and on two, to the last bit.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.cli.train import main
from panoptic_plugin.engine.launch import _free_port, start_processes
from panoptic_plugin.engine.model import check_device
from panoptic_plugin.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Iterator[Path]:
    folder = make_scenes(tmp_path_factory.mktemp("scenes"), "cityscapes", num_train=8)
    share_first_label(folder / "cityscapes" / "gtFine")
    with job_environment(folder):
        yield folder


def share_first_label(folder: Path) -> None:
    index = folder / "cityscapes_panoptic_train.json"
    content = json.loads(index.read_text())
    first = content["annotations"][0]
    for annotation in content["annotations"][1:]:
        annotation["segments_info"] = first["segments_info"]
        shutil.copy(folder / "cityscapes_panoptic_train" / first["file_name"],
                    folder / "cityscapes_panoptic_train" / annotation["file_name"])  # fmt: skip
    index.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def config(scenes, tmp_path_factory) -> Path:
    return write_config(
        tmp_path_factory.mktemp("config"),
        MODEL__SEM_SEG_HEAD__ASPP_DROPOUT=0.0,
        MODEL__INS_EMBED_HEAD__ASPP_DROPOUT=0.0,
        INPUT__RANDOM_FLIP="none",
        SOLVER__OPTIMIZER="SGD",
        SOLVER__BASE_LR=1e-4,
        SOLVER__WARMUP_ITERS=0,
        SOLVER__MAX_ITER=2,
        # The image pooling's batch norm sees two values, and with some images magnifies float32 rounding a thousandfold
        # in the second iteration (SEED 1 and 4: 1e-2 of the way; 2 and 3: 1e-5).
        SEED=3,
    )


@pytest.fixture(scope="module")
def two_processes(config, tmp_path_factory, repository) -> Path:
    """The output folder of the script under torchrun: trained, and evaluated at the end."""
    out = tmp_path_factory.mktemp("two")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    scripts = [str(Path(__file__).with_name("two_process_job.py")), str(repository / "train_panoptic_deeplab.py")]
    words = ["--config-file", str(config), "--num-gpus", "0", "OUTPUT_DIR", str(out)]
    done = subprocess.run([sys.executable, *torchrun, *scripts, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def metrics(folder: Path) -> dict:
    """The scores, without when and how long."""
    content = json.loads((folder / "inference" / "metrics.json").read_text())
    return {key: content[key] for key in ("results", "per_class", "num_images", "dataset_fingerprint")}


def test_two_processes_train_what_one_does(config, two_processes, tmp_path):
    assert main(["--config-file", str(config), "--num-gpus", "0", "OUTPUT_DIR", str(tmp_path)]) == 0
    one, two = weights(tmp_path), weights(two_processes)
    assert set(one) == set(two)
    start = initial_weights(config)
    moved = torch.cat([(one[name] - start[name]).flatten() for name in start])
    apart = torch.cat([(one[name] - two[name]).flatten() for name in start])
    # Measured 1e-5 of the way after two iterations, 0.37 where the backbone's batch norm is not synchronised.
    assert 0 < apart.norm() < 1e-3 * moved.norm()


def initial_weights(config: Path) -> dict[str, torch.Tensor]:
    from detectron2.utils.env import seed_all_rng

    from panoptic_plugin import load_config
    from panoptic_plugin.engine.model import build_model

    cfg = load_config(config)
    seed_all_rng(cfg.SEED)
    return {name: value.detach().clone() for name, value in build_model(cfg).named_parameters()}


def test_one_checkpoint_scores_the_same_on_one_process_and_on_two(config, two_processes, tmp_path):
    words = ["--config-file", str(config), "--num-gpus", "0", "--eval-only", "OUTPUT_DIR", str(tmp_path)]
    assert main([*words, "MODEL.WEIGHTS", str(two_processes / "model_final.pth")]) == 0
    one, two = metrics(tmp_path), metrics(two_processes)
    assert one == two  # every figure, to the last bit


def test_both_processes_end_with_equal_weights(two_processes):
    first, second = ((two_processes / f"weights.{rank}.sha1").read_text() for rank in (0, 1))
    assert first == second


def test_a_mistake_in_a_started_process_comes_back_as_what_it_is(scenes):
    with pytest.raises(ConfigError, match="^MODEL.DEVICE is 'gpu'"):
        start_processes(check_device, 1, 1, 0, f"tcp://127.0.0.1:{_free_port()}", ("gpu",), use_cuda=False)
