"""Schedules in epochs, which only the size of the dataset turns into iterations."""

from __future__ import annotations

import logging
import math

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from panoptic_plugin.errors import ConfigError

logger = logging.getLogger(__name__)


def resolve_epochs(cfg: CfgNode) -> CfgNode:
    """``SOLVER.MAX_EPOCHS`` and ``SOLVER.LR_DROP_EPOCHS`` as ``MAX_ITER`` and ``STEPS``.

    An epoch is so many iterations that each training image is seen once, rounded up.

    Args:
        cfg: the config, frozen or not.

    Returns:
        The same config where neither key is set, else a copy, frozen as ``cfg`` is, in which they are 0 and empty.

    Raises:
        ConfigError: a drop that lies after the end or not in ascending order.
    """
    solver = cfg.SOLVER
    if not solver.MAX_EPOCHS and not solver.LR_DROP_EPOCHS:
        return cfg
    num_images = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
    iterations = max(1, math.ceil(num_images / solver.IMS_PER_BATCH))
    resolved = cfg.clone()
    resolved.defrost()
    if solver.MAX_EPOCHS:
        resolved.SOLVER.MAX_ITER = math.ceil(solver.MAX_EPOCHS * iterations)
    if solver.LR_DROP_EPOCHS:
        resolved.SOLVER.STEPS = tuple(round(epoch * iterations) for epoch in solver.LR_DROP_EPOCHS)
    steps, last = resolved.SOLVER.STEPS, resolved.SOLVER.MAX_ITER
    if solver.LR_DROP_EPOCHS and (list(steps) != sorted(set(steps)) or steps[-1] >= last):
        raise ConfigError(
            f"SOLVER.LR_DROP_EPOCHS is {list(solver.LR_DROP_EPOCHS)}, that is iterations {list(steps)}; expected "
            f"ascending epochs before the end of the training at iteration {last}"
        )
    resolved.SOLVER.MAX_EPOCHS, resolved.SOLVER.LR_DROP_EPOCHS = 0, []
    logger.info(
        "%d images are %d iterations an epoch: MAX_ITER %d, STEPS %s", num_images, iterations, last, list(steps)
    )
    if cfg.is_frozen():
        resolved.freeze()
    return resolved
