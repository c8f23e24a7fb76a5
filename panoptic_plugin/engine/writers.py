"""Where the scalars of a training go."""

from __future__ import annotations

import os

from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter


def make_writers(output_dir: str, max_iter: int) -> list[EventWriter]:
    """The log line with ETA, ``metrics.json`` (one JSON object a line) and TensorBoard events.

    Args:
        output_dir: receives ``metrics.json`` and the events.
        max_iter: the last iteration, for the ETA.
    """
    os.makedirs(output_dir, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
