"""Speed of inference, network and post-processing apart: what ``BENCHMARK_NETWORK_SPEED`` asks for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn

from panoptic_plugin.errors import ConfigError

logger = logging.getLogger(__name__)


@torch.no_grad()
def benchmark(model: nn.Module, data_loader: Iterable[Any], output_dir: str) -> dict[str, float]:
    """Run the model over the loader's batches, log a table and write ``benchmark.json``.

    Args:
        model: has ``timer``, a :class:`~panoptic_plugin.systems.timer.StageTimer` that is enabled.
        data_loader: batches; reading them is not timed.
        output_dir: receives the file, that of the main process.

    Returns:
        The timer's summary; milliseconds an image of each stage, images per second.

    Raises:
        ConfigError: the model times nothing.
    """
    timer = getattr(model, "timer", None)
    if timer is None or not timer.enabled:
        raise ConfigError(
            f"{type(model).__name__} does not time its stages; MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED needs "
            "MODEL.META_ARCHITECTURE PluginPanopticDeepLab"
        )
    was_training = model.training
    model.eval()
    timer.reset()
    for batch in data_loader:
        model(batch)
    model.train(was_training)
    summary = timer.summary()
    logger.info("Speed of inference, milliseconds an image:\n%s", format_summary(summary))
    if comm.is_main_process():
        Path(output_dir, "benchmark.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def format_summary(summary: dict[str, float]) -> str:
    """The stages as a table: mean and median."""
    suffix = "_ms_mean"
    stages = [name.removesuffix(suffix) for name in summary if name.endswith(suffix)]
    rows = [(stage, summary[f"{stage}_ms_mean"], summary[f"{stage}_ms_median"]) for stage in stages]
    table = tabulate(rows, headers=("stage", "mean", "median"), floatfmt=".2f", tablefmt="github")
    return f"{table}\n{summary.get('images_per_second', 0.0):.2f} images per second"
