"""A picture of a dataset: how often each class occurs, and how large its segments are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from panoptic_plugin.data.validate.run import Report, count_segments

MAX_CLASSES = 60
THING, STUFF = "#c1440e", "#2a6f97"
MARKS = ((32**2, "32²"), (96**2, "96²"))  # COCO's borders of small, medium and large


def save_plot(path: str, report: Report) -> None:
    """Write a PNG with two panels: segments of each class, and the sizes of things and stuff.

    Matplotlib is drawn to a file without a display and without its global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    areas = count_segments(report)
    order = sorted((id_ for id_ in areas if areas[id_]), key=lambda id_: -len(areas[id_]))
    shown = order[:MAX_CLASSES]
    figure = Figure(figsize=(13, max(4.5, 0.21 * len(shown) + 1.6)), layout="constrained")
    FigureCanvasAgg(figure)
    name = os.path.basename(report.source.name)
    figure.suptitle(f"{name}: {len(report.inspections)} images, {sum(map(len, areas.values()))} segments")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_classes(left, report, areas, shown)
    left.set_title(_class_title(len(shown), len(order), len(areas) - len(order)))
    _draw_sizes(right, report, areas)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")


def _draw_classes(axes, report: Report, areas: Mapping[int, list[int]], shown: Sequence[int]) -> None:
    counts = [len(areas[id_]) for id_ in shown]
    colors = [THING if report.categories[id_].get("isthing") else STUFF for id_ in shown]
    positions = np.arange(len(shown))
    axes.barh(positions, counts, color=colors)
    if max(counts, default=1) > 1000:
        axes.set_xscale("log")
        axes.set_xlim(0.7, 20 * max(counts))  # a bar of one segment is still seen
    axes.set_yticks(positions, [str(report.categories[id_]["name"])[:32] for id_ in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    pixels = sum(map(sum, areas.values())) or 1
    for position, id_ in enumerate(shown):
        share = f" {len(areas[id_])}  ({100 * sum(areas[id_]) / pixels:.1f} % of pixels)"
        axes.text(counts[position], position, share, va="center", fontsize=7)
    if axes.get_xscale() == "linear":
        axes.set_xlim(0, 1.45 * max(counts, default=1))
    axes.set_xlabel("segments")
    axes.spines[["top", "right"]].set_visible(False)


def _class_title(num_shown: int, num_seen: int, num_unseen: int) -> str:
    first = f", the first {num_shown} of {num_seen}" if num_seen > num_shown else ""
    unseen = f"; {num_unseen} classes have none" if num_unseen else ""
    return f"Segments of each class{first}{unseen}"


def _draw_sizes(axes, report: Report, areas: Mapping[int, list[int]]) -> None:
    things = [area for id_, sizes in areas.items() if report.categories[id_].get("isthing") for area in sizes]
    stuff = [area for id_, sizes in areas.items() if not report.categories[id_].get("isthing") for area in sizes]
    largest = max([*things, *stuff, 10])
    bins = np.geomspace(min([*things, *stuff, largest]) * 0.9, largest * 1.1, 40)
    for sizes, color, label in ((things, THING, "things"), (stuff, STUFF, "stuff")):
        if sizes:
            text = f"{label}: {len(sizes)}, median {int(np.median(sizes))} px"
            axes.hist(sizes, bins=bins, color=color, alpha=0.65, label=text)
    axes.set_xscale("log")
    for area, text in MARKS:
        if bins[0] < area < largest:
            axes.axvline(area, color="0.4", linewidth=0.8, linestyle=":")
            axes.text(area, 1.0, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=7)
    axes.set_xlabel("area of a segment (pixels)")
    axes.set_ylabel("segments")
    axes.set_title("Sizes of segments", pad=14)
    if things or stuff:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
