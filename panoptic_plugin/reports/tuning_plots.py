"""The plots of a tuning report: points of the check, learning curves, response to each parameter, finalists, grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from panoptic_plugin.reports.plot_style import LINE, SERIES, TEXT, Plot, finish, new_figure

PANEL = (4.4, 2.7)  # inches, as those of a report about runs
BEST, OTHER, STOPPED = SERIES[1], SERIES[0], SERIES[5]


def points_plot(name: str, title: str, points: Sequence[tuple[str, Sequence[float | None]]]) -> Plot:
    """Scores by seed of named points, and their means.

    Args:
        name: stem of the PNG.
        title: heading.
        points: (name, a score a seed or None), from top to bottom.
    """
    with new_figure(PANEL[0], 0.9 + 0.32 * len(points)) as figure:
        axes = figure.subplots()
        for row, (_, scores) in enumerate(points):
            known = [score for score in scores if score is not None]
            axes.plot(known, [row] * len(known), "o", color=OTHER, markersize=5, alpha=0.75)
            if known:
                axes.plot([np.mean(known)] * 2, [row - 0.3, row + 0.3], color=BEST, linewidth=2.2)
        axes.set_yticks(range(len(points)), [label for label, _ in points])
        axes.set_ylim(len(points) - 0.4, -0.6)
        axes.set_xlabel("score (%); dots are seeds, lines their means")
        told = "; ".join(f"{label}: {_listed(scores)}" for label, scores in points)
        return finish(figure, name=name, title=title, alt=f"Dot plot of {title}. {told}.")


def trial_curves_plot(trials: Sequence[Mapping[str, Any]]) -> Plot:
    """Score over iterations: the baseline, the best trial, the others; stopped ones end early."""
    best = best_trial(trials)
    with new_figure(*PANEL) as figure:
        axes = figure.subplots()
        for number, trial in enumerate(trials):
            if not trial["curve"]:
                continue
            steps, scores = zip(*trial["curve"], strict=True)
            stopped = trial["status"] != "done"
            style: dict[str, Any] = {"color": STOPPED if stopped else OTHER, "alpha": 0.55, "linewidth": 1.0}
            if number == 0:
                style = {"color": TEXT, "linestyle": (0, (6, 2)), "label": "baseline", "zorder": 3}
            elif trial is best:
                style = {"color": BEST, "linewidth": 2.2, "label": f"best, {trial['key']}", "zorder": 4}
            axes.plot(steps, scores, marker="o", markersize=2.5, **style)
        axes.plot([], [], color=OTHER, alpha=0.55, linewidth=1, label="trained to the end")
        axes.plot([], [], color=STOPPED, alpha=0.55, linewidth=1, label="stopped or failed")
        axes.set_xlabel("iteration")
        axes.set_ylabel("score (%)")
        axes.legend(loc="best", fontsize=7)
        done = sum(trial["status"] == "done" for trial in trials)
        told = f"{len(trials)} trials, {done} trained to the end."
        if best is not None:
            told += f" Best: {best['key']} with {best['curve'][-1][1]:.2f}."
        return finish(
            figure, name="trial_curves", title="Learning curves", alt=f"Line plot of the trials' scores. {told}"
        )


def response_plot(parameter: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], chosen: float) -> Plot:
    """Score at the end against one parameter.

    Args:
        parameter: name, low, high, log.
        trials: of the search, the baseline first.
        chosen: the value that the study ended with.
    """
    name = str(parameter["name"])
    done = [(trial["values"][name], trial["curve"][-1][1]) for trial in trials if trial["status"] == "done"]
    stopped = [(trial["values"][name], trial["curve"][-1][1]) for trial in trials
               if trial["status"] == "stopped" and trial["curve"]]  # fmt: skip
    with new_figure(*PANEL) as figure:
        axes = figure.subplots()
        if stopped:
            axes.plot(*zip(*stopped, strict=True), "x", color=STOPPED, markersize=5, label="stopped early")
        if done:
            axes.plot(*zip(*done, strict=True), "o", color=OTHER, markersize=5, label="trained to the end")
        if trials and trials[0]["curve"]:
            first = trials[0]
            axes.plot(first["values"][name], first["curve"][-1][1], "D", color=TEXT, markersize=7, label="baseline",
                      fillstyle="none", markeredgewidth=1.6)  # fmt: skip
        axes.axvline(chosen, color=BEST, linewidth=1.4, linestyle=(0, (2, 1.5)), label="chosen")
        _scale_x(axes, parameter)
        axes.set_xlabel(name)
        axes.set_ylabel("score (%)")
        axes.legend(loc="best", fontsize=7)
        told = "; ".join(f"{value:.4g}: {score:.2f}" for value, score in sorted(done))
        alt = f"Scatter plot of the score against {name}. Trained to the end: {told or 'none'}. Chosen: {chosen:.4g}."
        return finish(figure, name=f"response_{name}", title=f"Response to {name}", alt=alt)


def _scale_x(axes: Any, parameter: Mapping[str, Any]) -> None:
    low, high = parameter["low"], parameter["high"]
    if not parameter["log"]:
        axes.set_xlim(low, high)
        return
    axes.set_xscale("log")
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low <= 200 else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def differences_plot(name: str, title: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Plot:
    """Differences to the baseline with their intervals.

    Args:
        name: stem of the PNG.
        title: heading.
        rows: (name, comparison), from top to bottom.
    """
    with new_figure(PANEL[0], 1.0 + 0.36 * len(rows)) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=TEXT, linewidth=1)
        for row, (_, one) in enumerate(rows):
            chance = one["by_chance"]
            if chance:
                axes.barh(row, 2 * chance, left=-chance, height=0.5, color=LINE, zorder=0)
            color = BEST if one["better"] else OTHER
            axes.plot([one["low"], one["high"]], [row, row], color=color, linewidth=2)
            axes.plot(one["difference"], row, "o", color=color, markersize=6)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        with_chance = any(one["by_chance"] for _, one in rows)
        axes.set_xlabel("difference to the baseline (%)" + ("; bars: chance" if with_chance else ""))
        told = "; ".join(
            f"{label}: {one['difference']:+.2f}, {one['low']:.2f} to {one['high']:.2f}" for label, one in rows
        )
        return finish(figure, name=name, title=title, alt=f"Interval plot of {title}. {told}.")


def values_plot(number: int, key: str, found: Sequence[tuple[Any, float]], baseline: Any) -> Plot:
    """Of each value of a setting the best score with it."""
    short = key.rsplit(".", 1)[-1]
    with new_figure(*PANEL) as figure:
        axes = figure.subplots()
        values, scores = zip(*found, strict=True)
        axes.plot(range(len(values)), scores, "o-", color=OTHER, markersize=5)
        if baseline in values:
            at = values.index(baseline)
            axes.plot(at, scores[at], "D", color=TEXT, markersize=8, fillstyle="none", markeredgewidth=1.6,
                      label="baseline's value")  # fmt: skip
            axes.legend(loc="best", fontsize=7)
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_xlabel(short)
        axes.set_ylabel("best PQ (%)")
        told = "; ".join(f"{value:g}: {score:.2f}" for value, score in found)
        title = f"Response to {short}"
        return finish(
            figure, name=f"setting_{number}", title=title, alt=f"Line plot of the best PQ by {short}. {told}."
        )


def best_trial(trials: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The one with the highest score among the trained to the end."""
    done = [trial for trial in trials if trial["status"] == "done" and trial["curve"]]
    return max(done, key=lambda trial: trial["curve"][-1][1], default=None)


def _listed(scores: Sequence[float | None]) -> str:
    return ", ".join("failed" if score is None else f"{score:.2f}" for score in scores)
