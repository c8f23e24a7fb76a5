"""Started under torchrun by test_non_finite.py: two trainings in which the loss of process 1 becomes NaN."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from detectron2.utils import comm
from tiny_training import spoil

from panoptic_plugin import load_config
from panoptic_plugin.engine.launch import launch
from panoptic_plugin.engine.trainer import PanopticTrainer

FAULTY_ITERATION = 2


def train(config: str, folder: Path, policy: str) -> None:
    """Note what became of one training; raise what it raised."""
    out = folder / policy
    out.mkdir(exist_ok=True)
    trainer = PanopticTrainer(load_config(config, ["OUTPUT_DIR", str(out), "SOLVER.ON_NON_FINITE", policy]))
    trainer.resume_or_load(resume=False)
    began = []
    if comm.get_rank() == 1:
        spoil(trainer, "nan loss", lambda iteration: iteration == FAULTY_ITERATION and not began.append(time.time()))
    found = {"message": "", "began": 0.0, "ended": 0.0}
    try:
        trainer.train()
    except FloatingPointError as error:
        found["message"] = str(error)
        raise
    finally:
        weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
        found.update(weights=weights, began=began[0] if began else 0.0, ended=time.time())
        found["last_epoch"] = trainer.scheduler.last_epoch
        torch.save(found, folder / f"{policy}.{comm.get_rank()}.pth")


def work(config: str, folder: str) -> None:
    for policy in ("skip", "raise"):
        train(config, Path(folder), policy)


if __name__ == "__main__":
    launch(work, 0, args=sys.argv[1:])
