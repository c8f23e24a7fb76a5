"""The plots of a report: learning curves, scores by class and by size, confusion, distribution, time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from panoptic_plugin.reports.plot_style import DASHES, HATCHES, LINE, SERIES, TEXT, Plot, finish, new_figure

Curve = Sequence[tuple[int, float]]
PANEL = (4.4, 2.7)  # inches; three of them stand side by side in a wide window


def curves_plot(scalar: str, title: str, curves: Mapping[str, Curve], *, log_scale: bool = False) -> Plot:
    """One scalar over the iterations.

    Args:
        scalar: its name in ``metrics.json``.
        title: heading of the plot.
        curves: run -> points; runs without the scalar keep their colour by an empty list.
        log_scale: logarithmic values where all are positive and they differ by more than a factor of two.
    """
    with new_figure(*PANEL) as figure:
        axes = figure.subplots()
        for index, (name, points) in enumerate(curves.items()):
            if points:
                iterations, values = zip(*points, strict=True)
                marker = "o" if len(points) < 12 else None
                axes.plot(iterations, values, color=_color(index), linestyle=DASHES[index % len(DASHES)],
                          marker=marker, markersize=4, label=name)  # fmt: skip
        shown = [value for points in curves.values() for _, value in points]
        if log_scale and min(shown) > 0 and max(shown) > 2 * min(shown):
            axes.set_yscale("log")
            _plain_ticks(axes)
        axes.set_xlabel("iteration")
        axes.margins(x=0.02)
        if len(curves) > 1:
            axes.legend(loc="best")
        return finish(figure, name=f"curve_{_stem(scalar)}", title=title, alt=_curves_text(title, curves))


def _plain_ticks(axes: Axes) -> None:
    """Ticks 1, 2, 5, ... of a logarithmic axis, written out: losses seldom span a power of ten."""
    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    within = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1.3 else (1.0, 3.0) if decades < 3 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=within, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _curves_text(title: str, curves: Mapping[str, Curve]) -> str:
    told = []
    for name, points in curves.items():
        if not points:
            continue
        values = [value for _, value in points]
        run = f"{name}: " if len(curves) > 1 else ""
        told.append(
            f"{run}from {values[0]:.4g} at iteration {points[0][0]} to {values[-1]:.4g} at {points[-1][0]}, "
            f"lowest {min(values):.4g}, highest {max(values):.4g}"
        )
    return f"Line plot of {title} over the iterations. {'; '.join(told)}."


def bars_plot(name: str, title: str, labels: Sequence[str], values: Mapping[str, Sequence[float | None]]) -> Plot:
    """Horizontal bars of percent: a group a label, a bar a run; None is left out and said so.

    Args:
        name: stem of the PNG.
        title: heading of the plot.
        labels: one a group.
        values: run -> a value a label.
    """
    num_runs = max(len(values), 1)
    height = 0.75 + len(labels) * (0.2 if num_runs == 1 else 0.06 + 0.125 * num_runs)
    with new_figure(PANEL[0], max(height, 1.6)) as figure:
        axes = figure.subplots()
        thickness = 0.8 / num_runs
        for index, (run, series) in enumerate(values.items()):
            places = np.arange(len(labels)) - 0.4 + thickness * (index + 0.5)
            bars = axes.barh(places, [value or 0.0 for value in series], height=thickness, color=_color(index),
                             edgecolor=TEXT, linewidth=0.3, label=run)  # fmt: skip
            _hatch(bars, index)
            if num_runs == 1:
                _write_values(axes, places, series)
        axes.set_yticks(np.arange(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlim(0, 112 if num_runs == 1 else 100)  # room for the numbers behind the bars
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("%")
        axes.grid(axis="y", visible=False)
        if num_runs > 1:
            figure.legend(loc="outside upper center", ncols=min(num_runs, 3))
        return finish(figure, name=name, title=title, alt=_bars_text(title, labels, values))


def _write_values(axes: Axes, places: np.ndarray, series: Sequence[float | None]) -> None:
    for place, value in zip(places, series, strict=True):
        text = "none" if value is None else f"{value:.1f}"
        axes.text((value or 0.0) + 1.2, place, text, va="center", fontsize=7.5)


def _hatch(bars, index: int) -> None:
    for bar in bars:
        bar.set_hatch(HATCHES[index % len(HATCHES)])


def _bars_text(title: str, labels: Sequence[str], values: Mapping[str, Sequence[float | None]]) -> str:
    told = []
    for run, series in values.items():
        cells = [f"{label} {value:.1f}" for label, value in zip(labels, series, strict=True) if value is not None]
        told.append((f"{run}: " if len(values) > 1 else "") + (", ".join(cells) or "no values"))
    return f"Bar plot of {title}. {'; '.join(told)}."


def histogram_plot(name: str, title: str, values: Mapping[str, Sequence[float]]) -> Plot:
    """How many images reach which score (percent); steps of 10."""
    edges = np.linspace(0, 100, 11)
    with new_figure(*PANEL) as figure:
        axes = figure.subplots()
        for index, (run, series) in enumerate(values.items()):
            counts, _ = np.histogram(np.clip(series, 0, 100), edges)
            axes.stairs(counts, edges, color=_color(index), linewidth=1.8, linestyle=DASHES[index % len(DASHES)],
                        fill=False, label=run)  # fmt: skip
            if len(values) == 1:
                axes.stairs(counts, edges, color=_color(index), fill=True, alpha=0.35)
        axes.set_xlabel("PQ of an image (%)")
        axes.set_ylabel("images")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if len(values) > 1:
            axes.legend(loc="best")
        told = "; ".join(
            f"{run}: median {np.median(series):.1f}, lowest {min(series):.1f}, highest {max(series):.1f}, "
            f"{len(series)} images"
            for run, series in values.items()
        )
        return finish(figure, name=name, title=title, alt=f"Histogram of {title}. {told}.")


def confusion_plot(name: str, title: str, labels: Sequence[str], matrix: np.ndarray) -> Plot:
    """Share of each true class' pixels by predicted class.

    Args:
        labels: of the rows (true); the columns have them too and a last one, "none".
        matrix: float (N, N + 1), percent of each row.
    """
    size = max(3.2, 1.5 + 0.3 * len(labels))
    with new_figure(size + 0.6, size) as figure:
        axes = figure.subplots()
        # Square root: a few percent of confusion are what one looks for, beside diagonals of 90.
        axes.imshow(np.sqrt(matrix / 100), cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        if len(labels) <= 24:
            _write_cells(axes, matrix)
        axes.set_xticks(range(len(labels) + 1), [*labels, "none"], rotation=55, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.grid(visible=False)
        axes.tick_params(length=0, labelsize=8)
        return finish(figure, name=name, title=title, alt=_confusion_text(title, labels, matrix))


def _write_cells(axes: Axes, matrix: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        if value >= 0.5:
            # Almost black and white, not the theme's text: the cell's colour is the same in both themes.
            color = "#111111" if value > 25 else "#fefefe"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)


def _confusion_text(title: str, labels: Sequence[str], matrix: np.ndarray) -> str:
    names = [*labels, "none"]
    pairs = [(value, row, column) for (row, column), value in np.ndenumerate(matrix) if row != column and value >= 1]
    told = [f"{labels[row]} as {names[column]} {value:.0f}%" for value, row, column in sorted(pairs, reverse=True)[:8]]
    return f"Heat map of {title}. Largest confusions: {', '.join(told) or 'none above 1%'}."


def stacked_plot(name: str, title: str, stages: Sequence[str], parts: Mapping[str, Mapping[str, float]]) -> Plot:
    """Horizontal bars that add up, one a run.

    Args:
        stages: all parts there may be, in their order; a part has the same colour in every report.
        parts: run -> part -> milliseconds an image.
    """
    with new_figure(6.6, 1.35 + 0.42 * len(parts)) as figure:
        axes = figure.subplots()
        left = np.zeros(len(parts))
        for index, stage in enumerate(stages):
            if not any(stage in one for one in parts.values()):
                continue
            widths = np.array([one.get(stage, 0.0) for one in parts.values()])
            bars = axes.barh(range(len(parts)), widths, left=left, height=0.6, color=_color(index), label=stage,
                             edgecolor=LINE, linewidth=0.6)  # fmt: skip
            _hatch(bars, index)
            left += widths
        for place, total in enumerate(left):
            axes.text(total * 1.01, place, f"{total:.1f} ms", va="center", fontsize=8)
        axes.set_yticks(range(len(parts)), list(parts))
        axes.invert_yaxis()
        axes.set_xlim(0, max(left.max() * 1.16, 1e-9))
        axes.set_xlabel("milliseconds an image")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper center", ncols=3)
        told = "; ".join(
            f"{run}: " + ", ".join(f"{stage} {value:.1f} ms" for stage, value in one.items())
            for run, one in parts.items()
        )
        return finish(figure, name=name, title=title, alt=f"Stacked bar plot of {title}. {told}.")


def _color(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()
