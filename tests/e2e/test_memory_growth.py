"""The memory of a training stays what it is after its first iterations, and a lost worker is explained."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from detectron2.engine import HookBase
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin import load_config
from panoptic_plugin.cli.train import main
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.checkpoint_history import read_pointer
from panoptic_plugin.engine.trainer import PanopticTrainer
from panoptic_plugin.errors import OutOfMemoryError

pytestmark = pytest.mark.slow

# Losses wait on their device for up to 20 iterations: both ends of the measurement are where none wait.
WARM_UP, ITERATIONS, GROWTH = 20, 200, 0.05


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("memory")
    smaller = {"INPUT__CROP": {"SIZE": [64, 64]}, "SOLVER__IMS_PER_BATCH": 1, "SOLVER__CHECKPOINT_PERIOD": 100}
    with job_environment(make_scenes(folder / "scenes", "cityscapes", num_val=1)):
        yield write_config(folder, DATASETS__TEST=[], **smaller)


def make_trainer(config: Path, out: Path, hook: HookBase, *overrides: object) -> PanopticTrainer:
    out.mkdir(exist_ok=True)
    trainer = PanopticTrainer(load_config(config, ["OUTPUT_DIR", str(out), *overrides]))
    trainer.register_hooks([hook])
    return trainer


def resident() -> int:
    return psutil.Process().memory_info().rss


def children() -> set[int]:
    """The processes of this one: workers, and what earlier tests have left running, such as a resource tracker."""
    return {process.pid for process in psutil.Process().children()}


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


class Memory(HookBase):
    """Resident bytes after each iteration, and how many tensors there are after the warm-up and at the end."""

    def __init__(self):
        self.bytes, self.tensors = [], []

    def after_step(self):
        self.bytes.append(resident())
        if self.trainer.iter + 1 in (WARM_UP, WARM_UP + ITERATIONS):
            self.tensors.append(live_tensors())


def test_memory_does_not_grow(config, tmp_path):
    memory = Memory()
    make_trainer(config, tmp_path, memory, "SOLVER.MAX_ITER", WARM_UP + ITERATIONS).train()
    before, after = max(memory.bytes[:WARM_UP]), max(memory.bytes[-WARM_UP:])
    assert after - before < GROWTH * before, memory.bytes[::WARM_UP]
    assert memory.tensors[1] == memory.tensors[0]


def test_a_loader_that_is_gone_through_again_leaves_nothing(config):
    cfg = load_config(config, ["DATALOADER.NUM_WORKERS", 2])
    left, others = [], children()
    for _ in range(5):
        batches = iter(PanopticTrainer.build_train_loader(cfg))
        for _ in range(3):
            next(batches)
        assert len(children() - others) == 2
        del batches
        gc.collect()
        left.append((len(children() - others), psutil.Process().num_fds(), resident()))
    assert all(num_workers == 0 for num_workers, _, _ in left)
    assert left[-1][1] <= left[0][1]
    assert left[-1][2] < left[0][2] * (1 + GROWTH)


def test_out_of_gpu_memory_is_one_line_and_the_run_can_be_resumed(config, tmp_path, monkeypatch, capsys):
    words = ["--config-file", str(config), "--num-gpus", "0", "--resume"]
    settings = ["OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2"]

    def fail(trainer):
        if trainer.iter == 3:
            # What torch.cuda says is asked for only where there is a GPU.
            monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**29, 16 * 2**30))
            monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 15 * 2**30)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a lot of advice")
        original(trainer)

    original = PanopticTrainer.run_step
    with monkeypatch.context() as patched:
        patched.setattr(PanopticTrainer, "run_step", fail)
        assert main([*words, *settings]) == 2
    monkeypatch.undo()
    error = capsys.readouterr().err.splitlines()[-1]
    parts = ["error: out of memory in iteration 3: CUDA out of memory", "holds 1 images (height x width 64x64"]
    parts += ["at most 15.0 GiB were allocated, 0.5 of 16.0 GiB are free", "SOLVER.IMS_PER_BATCH (1)", "--resume"]
    for part in parts:
        assert part in error
    assert load_checkpoint_file(tmp_path / read_pointer(tmp_path))["iteration"] == 1
    assert main([*words, *settings]) == 0
    assert load_checkpoint_file(tmp_path / "model_final.pth")["iteration"] == 3


class KillWorker(HookBase):
    """As the kernel does where memory runs out."""

    def __init__(self):
        self.others = children()

    def after_step(self):
        if self.trainer.iter == 1:
            os.kill(min(children() - self.others), signal.SIGKILL)


def test_a_worker_killed_for_memory_is_explained(config, tmp_path):
    words = ["DATALOADER.NUM_WORKERS", 1, "SOLVER.CHECKPOINT_PERIOD", 2]
    with pytest.raises(OutOfMemoryError) as error:
        make_trainer(config, tmp_path, KillWorker(), "SOLVER.MAX_ITER", 20, *words).train()
    for part in ("the data loader lost a worker", "DATALOADER.NUM_WORKERS (1;", "/dev/shm (now", "--resume"):
        assert part in str(error.value)
    assert load_checkpoint_file(tmp_path / "model_0000001.pth")["iteration"] == 1
