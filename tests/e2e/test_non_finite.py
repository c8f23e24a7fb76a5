"""Infinite and NaN numbers in the training of a whole model: nothing of them reaches the disk, on any process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_training import job_environment, make_scenes, spoil, write_config

from panoptic_plugin import load_config
from panoptic_plugin.engine.chaos import digest
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.checkpoint_history import read_pointer
from panoptic_plugin.engine.trainer import PanopticTrainer

pytestmark = pytest.mark.slow

ITERATIONS = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("non_finite")
    small = {"SIZE": [64, 64]}
    with job_environment(make_scenes(folder / "scenes", "cityscapes", num_val=1)):
        yield write_config(folder, SOLVER__MAX_ITER=ITERATIONS, DATASETS__TEST=[], INPUT__CROP=small)


def make_trainer(config: Path, out: Path, *overrides: object) -> PanopticTrainer:
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    trainer = PanopticTrainer(load_config(config, ["OUTPUT_DIR", str(out), *overrides]))
    trainer.resume_or_load(resume=True)
    return trainer


def weights(trainer: PanopticTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def saved(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*.pth"))


@pytest.mark.parametrize(
    ("fault", "iteration"),
    [("nan loss", 2), ("inf loss", 2), ("nan gradient", 2), ("nan loss", 3), ("nan gradient", 3), ("nan buffer", 3)],
)
def test_the_training_ends_and_the_checkpoint_before_stays_the_last(fault, iteration, config, tmp_path):
    """Iteration 3 is the last one. A buffer is found where the weights would be saved, after the step."""
    trainer = make_trainer(config, tmp_path)
    spoil(trainer, fault, lambda number: number == iteration)
    with pytest.raises(FloatingPointError, match=rf"iteration={iteration}\b"):
        trainer.train()
    assert all(value.isfinite().all() for value in weights(trainer).values())
    assert (saved(tmp_path), read_pointer(tmp_path)) == (["model_0000001.pth"], "model_0000001.pth")
    kept = load_checkpoint_file(tmp_path / "model_0000001.pth")
    assert all(value.isfinite().all() for value in kept["model"].values())
    if iteration == 2 and fault != "nan buffer":
        assert all(torch.equal(value, kept["model"][name]) for name, value in weights(trainer).items())


class Interrupted(Exception):
    pass


def test_skipped_iterations_hold_the_schedule_and_are_resumed_exactly(config, tmp_path, caplog):
    words = ["SOLVER.ON_NON_FINITE", "skip", "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2]
    words += ["MODEL.EMA.ENABLED", True]

    def faulty(number):
        return number in (1, 4)

    straight = make_trainer(config, tmp_path / "straight", *words)
    spoil(straight, "nan loss", faulty)
    straight.train()
    assert straight.scheduler.last_epoch == 4
    assert straight.averaged.num_updates == 4
    last = json.loads((tmp_path / "straight" / "metrics.json").read_text().splitlines()[-1])
    assert last["skipped_steps"] == 2
    assert caplog.text.count("leftImg8bit.png") == 4 and "iteration=1" in caplog.text and "iteration=4" in caplog.text

    def interrupt(number):
        if number == 5:
            raise Interrupted
        return faulty(number)

    first = make_trainer(config, tmp_path / "resumed", *words)
    spoil(first, "nan loss", interrupt)
    with pytest.raises(Interrupted):
        first.train()
    second = make_trainer(config, tmp_path / "resumed", *words)
    assert second.start_iter == 4
    spoil(second, "nan loss", faulty)
    second.train()
    assert digest(tmp_path / "resumed" / "model_final.pth") == digest(tmp_path / "straight" / "model_final.pth")


def test_an_overflow_of_mixed_precision_is_counted_and_holds_the_schedule(config, tmp_path):
    """The scaler of float16 on the CPU, where the forward pass can be in bfloat16 only."""
    words = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16", "SOLVER.LOSS_READ_PERIOD", 1]
    plain = make_trainer(config, tmp_path / "plain", *words)
    plain.train()
    assert plain.scheduler.last_epoch == ITERATIONS

    trainer = make_trainer(config, tmp_path / "scaled", *words)
    step = trainer._trainer
    step.grad_scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    step.loss_log.overflow_allowed = True
    spoil(trainer, "nan gradient", lambda number: number in (1, 2))
    trainer.train()
    assert trainer.scheduler.last_epoch == ITERATIONS - 2
    assert step.grad_scaler.get_scale() == 16.0
    content = load_checkpoint_file(tmp_path / "scaled" / "model_final.pth")
    assert content["trainer"]["_trainer"]["grad_scaler"]["scale"] == 16.0
    assert content["trainer"]["_trainer"]["overflows"] == {"total": 2, "in_a_row": 0}
    last = json.loads((tmp_path / "scaled" / "metrics.json").read_text().splitlines()[-1])
    assert last["amp_skipped_steps"] == 2


def test_a_fault_of_one_process_is_met_by_both(config, tmp_path):
    """Process 1 alone has a NaN in iteration 2: once both skip the iteration, once both end with the same error."""
    tests = Path(__file__).resolve().parent
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(tests / "non_finite_job.py"), str(config), str(tmp_path)],
        capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests.parents[1])])},
    )  # fmt: skip
    assert done.returncode != 0
    assert "loss or gradient became infinite or NaN at iteration=2" in done.stderr[-4000:]
    for policy in ("skip", "raise"):
        first, second = (torch.load(tmp_path / f"{policy}.{rank}.pth", weights_only=True) for rank in (0, 1))
        assert torch.equal(first["weights"], second["weights"]) and first["weights"].isfinite().all()
        assert first["message"] == second["message"]
        assert first["last_epoch"] == second["last_epoch"] == (ITERATIONS - 1 if policy == "skip" else 3)
    assert max(first["ended"], second["ended"]) - second["began"] < 5
    assert first["message"].count("leftImg8bit.png") == 1  # that of process 1
    assert read_pointer(tmp_path / "raise") == "model_0000001.pth"
    assert read_pointer(tmp_path / "skip") == "model_final.pth"
