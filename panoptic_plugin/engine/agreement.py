"""Small questions that all processes of a job answer together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.utils import comm


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is true in one process at least. All must ask at the same place; no GPU waits for it."""
    if comm.get_world_size() == 1:
        return flag
    answer = torch.tensor(int(flag))
    dist.all_reduce(answer, op=dist.ReduceOp.MAX, group=comm._get_global_gloo_group())
    return bool(answer.item())
