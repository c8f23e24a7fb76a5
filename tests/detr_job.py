"""What each of two processes does in tests/unit/systems/test_detr_training.py."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.utils import comm
from detr_models import batch_of, small_cfg

from panoptic_plugin.engine.model import wrap_distributed
from panoptic_plugin.systems.detr.criterion import num_segments
from panoptic_plugin.systems.detr.meta_arch import PanopticDETR


def train_without_segments(folder: str) -> None:
    """The first process' image has no segment, the second's has three; then none has. Notes gradients and counts."""
    rank = comm.get_rank()
    torch.manual_seed(0)
    model = wrap_distributed(PanopticDETR(small_cfg()).train())
    counts, sums = [], []
    for segments in (3 * rank, 0):
        torch.manual_seed(rank)
        batch = batch_of((64, 64), num_segments=segments)
        counts.append(float(num_segments(batch, torch.device("cpu"))))
        model.zero_grad()
        losses = model(batch)
        sum(losses.values()).backward()
        gradients = [one.grad for one in model.parameters() if one.requires_grad]
        assert all(torch.isfinite(one).all() for one in gradients)
        sums.append(sum(float(one.double().abs().sum()) for one in gradients))
    torch.save({"counts": counts, "sums": sums}, Path(folder, f"found.{rank}.pth"))
