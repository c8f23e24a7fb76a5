"""What to say where a device has too little memory."""

from __future__ import annotations

import os
import re
import shutil
import time
import traceback
from collections.abc import Mapping
from typing import Any

import torch

from panoptic_plugin.engine.loss_log import file_names

GIB = 2**30
# Where workers leave the batches for the training process.
SHARED_MEMORY = "/dev/shm"
LOST_WORKER = re.compile(r"DataLoader worker.*(killed|exited|bus error)", re.IGNORECASE)
# Where its death is met while its batch is under way.
LOADER_FILE = "torch/utils/data/dataloader.py"
TRANSFER_FILES = tuple(f"multiprocessing/{name}.py" for name in ("connection", "resource_sharer", "reductions"))
NOTICE_SECONDS = 2.0


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
    lost_in_transfer = _lost_in_transfer(error)
    if lost_in_transfer:
        error = _notice_of_death() or error
    text = " ".join(str(error).split())
    reported = isinstance(error, RuntimeError) and LOST_WORKER.search(text)
    if not (reported or lost_in_transfer):
        return ""
    shared = shutil.disk_usage(SHARED_MEMORY) if os.path.isdir(SHARED_MEMORY) else None
    size = f" (now {shared.total / GIB:.1f} GiB, {shared.free / GIB:.1f} free)" if shared else ""
    reason = text.rstrip(". ") or type(error).__name__
    return (
        f"the data loader lost a worker in iteration {iteration}: {reason}. Where nobody has killed it, the machine "
        f"had too little memory for it. Lower DATALOADER.NUM_WORKERS ({cfg.DATALOADER.NUM_WORKERS}; 0 loads in the "
        f"training process) or SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}); after a bus error enlarge "
        f"{SHARED_MEMORY}{size}, in a container with --shm-size. The last checkpoint is intact, and --resume goes on "
        "from it"
    )


def _lost_in_transfer(error: BaseException) -> bool:
    """Whether a worker was gone when a batch that it had announced was fetched from it."""
    if not isinstance(error, (ConnectionError, EOFError, FileNotFoundError)):
        return False
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.endswith(LOADER_FILE) for name in frames) and frames[-1].endswith(TRANSFER_FILES)


def _notice_of_death() -> RuntimeError | None:
    """What PyTorch's handler of SIGCHLD raises wherever Python is then: better here than later."""
    try:
        time.sleep(NOTICE_SECONDS)
    except RuntimeError as notice:
        return notice
    return None


def _in_use() -> str:
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    return (
        f"; at most {torch.cuda.max_memory_allocated() / GIB:.1f} GiB were allocated, {free / GIB:.1f} of "
        f"{total / GIB:.1f} GiB are free"
    )
