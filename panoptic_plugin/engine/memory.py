"""What to say where a device has too little memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from panoptic_plugin.engine.loss_log import file_names

GIB = 2**30


def explain(error: BaseException, cfg, iteration: int, batch: Any) -> str:
    """One sentence: where memory ran out, with which images, how much was in use, and what needs less of it.

    Args:
        error: what PyTorch raised.
        cfg: the config of the training.
        iteration: its number.
        batch: the samples, with "image" of shape (3, H, W).
    """
    images = [sample["image"] for sample in batch if isinstance(sample, Mapping) and "image" in sample]
    sizes = ", ".join(f"{image.shape[-2]}x{image.shape[-1]}" for image in images) or "unknown"
    reason = " ".join(str(error).split()).partition(". ")[0]
    return (
        f"out of memory in iteration {iteration}: {reason}. The batch of this process holds {len(images)} images "
        f"(height x width {sizes}; {', '.join(file_names(batch))}){_in_use()}. Lower SOLVER.IMS_PER_BATCH "
        f"({cfg.SOLVER.IMS_PER_BATCH}) or INPUT.CROP.SIZE ({cfg.INPUT.CROP.SIZE}), raise SOLVER.ACCUMULATE_STEPS "
        f"({cfg.SOLVER.ACCUMULATE_STEPS}), or set SOLVER.AMP.ENABLED True; the last checkpoint is intact, and --resume "
        "goes on from it"
    )


def _in_use() -> str:
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    return (
        f"; at most {torch.cuda.max_memory_allocated() / GIB:.1f} GiB were allocated, {free / GIB:.1f} of "
        f"{total / GIB:.1f} GiB are free"
    )
