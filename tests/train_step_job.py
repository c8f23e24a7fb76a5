"""What each of two processes does in tests/e2e/test_train_step_processes.py."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from panoptic_plugin.engine.model import wrap_distributed
from panoptic_plugin.engine.train_step import TrainStep

PER_PROCESS, STEPS = 4, 3


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, batch):
        out = self.layers(torch.stack([sample["x"] for sample in batch]))
        fault = float("nan") if any(sample.get("fault") for sample in batch) else 1.0
        return {"loss": out.square().mean() * fault}


def samples(step: int) -> list[dict]:
    """The images of one iteration, of all processes together."""
    generator = torch.Generator().manual_seed(step)
    return [{"x": torch.randn(4, generator=generator), "file_name": f"{step}_{i}"} for i in range(2 * PER_PROCESS)]


def make_step(data: list, parts: int, read_when=lambda iteration: True) -> TrainStep:
    model = wrap_distributed(Regression())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    return TrainStep(model, data, optimizer, accumulate_steps=parts, read_when=read_when)


def weights(step: TrainStep) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in step.model.parameters()])


def run(step: TrainStep, count: int) -> None:
    with EventStorage(0):
        for step.iter in range(count):
            step.run_step()


def train_in_parts(folder: str) -> None:
    """Each process cuts its images into single ones; notes the weights."""
    rank = comm.get_rank()
    step = make_step([samples(one)[rank * PER_PROCESS :][:PER_PROCESS] for one in range(STEPS)], PER_PROCESS)
    run(step, STEPS)
    torch.save(weights(step), Path(folder, f"weights.{rank}.pth"))


def train_with_a_fault(folder: str) -> None:
    """The second process' last image of the second iteration has a loss that is not finite; read in the fourth."""
    rank = comm.get_rank()
    data = [samples(one)[rank * PER_PROCESS :][:PER_PROCESS] for one in range(4)]
    if rank == 1:
        data[1][-1]["fault"] = True
    step = make_step(data, 2, read_when=lambda iteration: iteration == 3)
    run(step, 1)
    after_first = weights(step)
    message = ""
    try:
        with EventStorage(1):
            for step.iter in range(1, 4):
                step.run_step()
    except FloatingPointError as error:
        message = str(error)
    found = {"message": message, "unchanged": torch.equal(weights(step), after_first)}
    torch.save(found, Path(folder, f"fault.{rank}.pth"))
