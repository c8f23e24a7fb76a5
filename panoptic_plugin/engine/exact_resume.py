"""What makes a resumed training equal to one that was never interrupted, beside weights, optimizer and schedule.

Everything random depends on the seed of the run and on the number of the iteration, so that no state of a random
number generator has to be saved, of any process or worker: the order of the images and their augmentations through
the data loader (see :mod:`panoptic_plugin.data.sampling`), dropout and the like through :func:`seed_iteration`.
"""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def seed_iteration(seed: int, iteration: int) -> None:
    """Seed Python's, NumPy's and PyTorch's random numbers, GPUs included, for one iteration of this process."""
    words = np.random.SeedSequence((seed, comm.get_rank(), iteration)).generate_state(8)
    random.seed(words[:4].tobytes())
    np.random.seed(words[4:6])
    torch.manual_seed(int(words[6:].view(np.int64)[0]))


def data_state(loader: Any, cfg) -> dict[str, Any]:
    """What fixes the order of the images, for a checkpoint; empty for a loader that cannot start anywhere."""
    if not hasattr(loader, "start_at"):
        return {}
    processes = {"world_size": comm.get_world_size(), "images_per_batch": cfg.SOLVER.IMS_PER_BATCH}
    return {**loader.state_dict(), **processes}


def restore_data(loader: Any, state: dict[str, Any], cfg) -> None:
    """Let ``loader`` go on in the order of the run that was saved; a warning says what keeps it from being the same."""
    if not hasattr(loader, "start_at") or not state:
        logger.warning(
            "The order of the images starts anew, so this resume is not exact: %s",
            "the checkpoint does not say where it was" if not state else "the data loader cannot start in the middle",
        )
        return
    changes = loader.load_state_dict(state)
    now = data_state(loader, cfg)
    for name, words in {"world_size": "processes", "images_per_batch": "images a batch"}.items():
        if now[name] != state[name]:
            changes.append(f"there are {now[name]} {words} now, {state[name]} before")
    if changes:
        logger.warning("This resume is not bit-exact: %s", "; ".join(changes))
