"""Scores of the classes as bars, for the logs of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from panoptic_plugin.visualization.colors import SERIES

WIDTH = 6.4  # inches
BAR, GAP = 0.085, 0.09  # inches a bar, and between two classes
DPI = 110


def class_chart(title: str, rows: Sequence[Mapping[str, Any]], scores: Sequence[str]) -> np.ndarray:
    """A group of horizontal bars a class, a bar a score, with its number behind it.

    Args:
        title: heading.
        rows: dicts with ``class``, ``kind`` ("thing" or "stuff"; averages have "") and percent by the name of a score,
            None where there is none.
        scores: names, at most as many as there are colours.

    Returns:
        uint8 RGB (H, W, 3).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    group = len(scores) * BAR + GAP
    height = len(rows) * group + 1.0
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.28, 0.5 / height, 0.7, 1 - 1.0 / height))
    places = np.arange(len(rows)) * group
    for number, score in enumerate(scores):
        values = [row.get(score) for row in rows]
        at = places + (number - (len(scores) - 1) / 2) * BAR
        axes.barh(at, [value or 0.0 for value in values], height=BAR, color=SERIES[number], label=score)
        for y, value in zip(at, values, strict=True):
            axes.text((value or 0.0) + 0.8, y, "-" if value is None else f"{value:.1f}", va="center", fontsize=5.5)
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=7)
    axes.set_ylim(places[-1] + group / 2, -group / 2)
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20), [f"{percent} %" for percent in range(0, 101, 20)], fontsize=7)
    axes.grid(axis="x", linewidth=0.4)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="upper right", ncols=len(scores), fontsize=7, frameon=False)
    figure.text(0.02, 1 - 0.14 / height, title, fontsize=9, weight="bold", va="top")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _label(row: Mapping[str, Any]) -> str:
    kind = row.get("kind")
    return f"{row['class']} ({kind})" if kind else str(row["class"])
