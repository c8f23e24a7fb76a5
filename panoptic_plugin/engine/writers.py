"""Where the scalars and pictures of a training go."""

from __future__ import annotations

import os
from collections.abc import Callable

from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

from panoptic_plugin.engine.class_charts import ClassTable
from panoptic_plugin.engine.wandb_writer import make_wandb_writer


def make_writers(
    cfg, start_iter: Callable[[], int] = lambda: 0, tables: list[ClassTable] | None = None
) -> list[EventWriter]:
    """The log line with ETA, ``metrics.json`` (one JSON object a line), TensorBoard events, and Weights & Biases.

    Args:
        cfg: reads OUTPUT_DIR, which receives ``metrics.json`` and the events, SOLVER.MAX_ITER for the ETA, and WANDB.
        start_iter: the first iteration of this process, known once a checkpoint is loaded.
        tables: where scores of classes arrive that Weights & Biases is to show.
    """
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    writers: list[EventWriter] = [
        CommonMetricPrinter(cfg.SOLVER.MAX_ITER),
        JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json")),
    ]
    if cfg.WANDB.ENABLED:
        writers.append(make_wandb_writer(cfg, start_iter, tables))
    # The last one: it takes the pictures out of the storage.
    writers.append(TensorboardXWriter(cfg.OUTPUT_DIR))
    return writers
