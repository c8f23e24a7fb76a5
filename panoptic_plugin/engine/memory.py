"""What to say where a device has too little memory."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import torch

from panoptic_plugin.engine.loss_log import file_names

GIB = 2**30
# Where workers leave the batches for the training process.
SHARED_MEMORY = "/dev/shm"


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


def explain_lost_worker(error: BaseException, cfg, iteration: int) -> str:
    """One sentence where a worker of the data loader was killed, which is mostly for want of memory; else ""."""
    text = " ".join(str(error).split())
    if not (isinstance(error, RuntimeError) and re.search(r"DataLoader worker.*(killed|exited|bus error)", text, re.I)):
        return ""
    shared = shutil.disk_usage(SHARED_MEMORY) if os.path.isdir(SHARED_MEMORY) else None
    size = f" (now {shared.total / GIB:.1f} GiB, {shared.free / GIB:.1f} free)" if shared else ""
    return (
        f"the data loader lost a worker in iteration {iteration}: {text.rstrip('. ')}. Where nobody has killed it, the "
        f"machine had too little memory for it. Lower DATALOADER.NUM_WORKERS ({cfg.DATALOADER.NUM_WORKERS}; 0 loads in "
        f"the training process) or SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}); after a bus error enlarge "
        f"{SHARED_MEMORY}{size}, in a container with --shm-size. The last checkpoint is intact, and --resume goes on "
        "from it"
    )


def _in_use() -> str:
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    return (
        f"; at most {torch.cuda.max_memory_allocated() / GIB:.1f} GiB were allocated, {free / GIB:.1f} of "
        f"{total / GIB:.1f} GiB are free"
    )
