"""Small questions that all processes of a job answer together."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from detectron2.utils import comm

Value = TypeVar("Value")


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is true in one process at least. All must ask at the same place; no GPU waits for it."""
    if comm.get_world_size() == 1:
        return flag
    answer = torch.tensor(int(flag))
    dist.all_reduce(answer, op=dist.ReduceOp.MAX, group=comm._get_global_gloo_group())
    return bool(answer.item())


def of_main_process(value: Value) -> Value:
    """The ``value`` of the main process, in all of them. All must ask at the same place; no GPU waits for it."""
    return comm.all_gather(value)[0]
