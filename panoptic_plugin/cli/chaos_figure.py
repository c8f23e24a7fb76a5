"""The timeline of a soak: what was saved when, what happened to it, and what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from panoptic_plugin.engine.chaos import plural
from panoptic_plugin.reports.plot_style import RC, SERIES, TEXT

# How a disturbance ends the processes: label, marker, colour.
MARKS = {
    "kill all": ("SIGKILL to all processes", "X", SERIES[1]),
    "kill one": ("SIGKILL to one process", "P", SERIES[3]),
    "kill worker": ("SIGKILL to a loader worker", "v", SERIES[4]),
    "terminate": ("SIGTERM", "s", SERIES[2]),
}
SAVED, GOOD = SERIES[0], SERIES[2]
BAND = "#f3f4f7"


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw iterations saved over time, with every disturbance, to a PNG file."""
    events, counts, arguments = report["events"], report["counts"], report["arguments"]
    with matplotlib.rc_context({**RC, "axes.grid.axis": "y"}):
        figure = Figure(figsize=(9.6, 4.2), dpi=130, facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        for training in sorted({event["training"] for event in events}):
            own = [event for event in events if event["training"] == training]
            _draw_training(axes, own, training, arguments["iterations"], _verdict(report, training))
        _draw_marks(axes, events, _values(events))
        figure.suptitle(_headline(counts), x=0.01, ha="left", fontsize=11, fontweight="bold", color=TEXT)
        axes.set_title(_subtitle(report), loc="left", fontsize=8)
        axes.set_xlabel("minutes")
        axes.set_ylabel("iterations safe on disk")
        axes.set_ylim(-0.04 * arguments["iterations"], 1.17 * arguments["iterations"])
        axes.set_yticks([arguments["iterations"] * part / 4 for part in range(5)])
        axes.set_xlim(0, max((event["seconds"] for event in events), default=60) / 60)
        figure.legend(loc="outside lower center", ncols=7, columnspacing=1.2, handletextpad=0.4, handlelength=1.3)
        figure.savefig(path)


def _headline(counts: dict[str, int]) -> str:
    """Such as "27 interruptions, 9 damaged files, 25 resumes: 8 of 8 trainings lost nothing"."""
    what = {"interruption": counts["kills"] + counts["sigterms"], "damaged file": counts["damages"],
            "resume": counts["resumes"]}  # fmt: skip
    happened = ", ".join(plural(number, noun) for noun, number in what.items())
    return f"{happened}: {counts['equal']} of {plural(counts['trainings'], 'training')} lost nothing"


def _subtitle(report: dict[str, Any]) -> str:
    arguments = report["arguments"]
    processes = f"{arguments['processes']} process{'es' * (arguments['processes'] > 1)}"
    return (
        f"{arguments['iterations']} iterations each, {processes}, {plural(arguments['workers'], 'loader worker')}, "
        f"seed {arguments['seed']}.   =  ends with the state of an undisturbed one: weights, averages, optimizer, "
        "schedule, bit by bit"
    )


def _verdict(report: dict[str, Any], training: int) -> str:
    digests = report["digests"]
    if training > len(digests):
        return "?"
    return "=" if digests[training - 1] == report["digest_undisturbed"] else "\N{NOT EQUAL TO}"


def _values(events: list[dict[str, Any]]) -> list[float]:
    """How many iterations are safe on disk when each event happens."""
    values, value = [], 0.0
    for event in events:
        value = event.get("iteration", value)
        values.append(value)
    return values


def _draw_training(axes: Any, own: list[dict[str, Any]], training: int, iterations: int, verdict: str) -> None:
    """Solid while it runs; dotted from a disturbance to the first save after it, at the level it went on from."""
    begin, end = own[0]["seconds"] / 60, own[-1]["seconds"] / 60
    if training % 2:
        axes.axvspan(begin, end, color=BAND, linewidth=0, zorder=0)
    moments, values, running = [], [], False
    for event, value in zip(own, _values(own), strict=True):
        moments, values = [*moments, event["seconds"] / 60], [*values, value]
        if (event["event"] in ("saved", "end")) != running:
            _line(axes, moments, values, running)
            moments, values, running = moments[-1:], values[-1:], not running
    _line(axes, moments, values, running)
    color = GOOD if verdict == "=" else SERIES[1]
    axes.annotate(verdict, ((begin + end) / 2, iterations * 1.09), ha="center", va="center", fontsize=13,
                  fontweight="bold", color=color)  # fmt: skip


def _line(axes: Any, moments: list[float], values: list[float], running: bool) -> None:
    style = {"linewidth": 1.6} if running else {"linewidth": 0.9, "linestyle": (0, (1, 1.6))}
    axes.step(moments, values, where="post", color=SAVED, **style)


def _draw_marks(axes: Any, events: list[dict[str, Any]], values: list[float]) -> None:
    axes.plot([], [], color=SAVED, label="saved")
    axes.plot([], [], color=SAVED, linewidth=0.9, linestyle=(0, (1, 1.6)), label="down, starting")
    for how, (label, marker, color) in MARKS.items():
        at = [index for index, event in enumerate(events) if event.get("how") == how]
        _scatter(axes, events, values, at, label, marker=marker, s=42, color=color, linewidths=0)
    at = [index for index, event in enumerate(events) if event["event"] == "damage"]
    _scatter(axes, events, values, at, "file damaged", marker="o", s=95, facecolors="none", edgecolors=TEXT,
             linewidths=1.1)  # fmt: skip


def _scatter(
    axes: Any, events: list[dict[str, Any]], values: list[float], at: list[int], label: str, **style: Any
) -> None:
    if at:
        moments = [events[index]["seconds"] / 60 for index in at]
        axes.scatter(moments, [values[index] for index in at], zorder=3, label=f"{label} ({len(at)})", **style)
