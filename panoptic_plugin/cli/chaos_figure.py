"""The timeline of a soak: what was saved when, and what happened to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from panoptic_plugin.reports.plot_style import LINE, RC, SERIES, TEXT

# How a disturbance ends the processes: label, marker, colour.
MARKS = {
    "kill all": ("SIGKILL to all processes", "X", SERIES[1]),
    "kill one": ("SIGKILL to one process", "P", SERIES[3]),
    "kill worker": ("SIGKILL to a loader worker", "v", SERIES[4]),
    "terminate": ("SIGTERM", "s", SERIES[2]),
}
DAMAGE = ("checkpoint damaged", "D", TEXT)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw iterations saved over time, with every disturbance, to a PNG file."""
    events = report["events"]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9, 3.8), dpi=120, facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        _draw_trainings(axes, events)
        _draw_marks(axes, events)
        axes.set_title(report["summary"], loc="left", wrap=True)
        axes.set_xlabel("minutes")
        axes.set_ylabel("iterations safe on disk")
        axes.set_ylim(-4, report["arguments"]["iterations"] * 1.06)
        axes.set_xlim(left=0)
        figure.legend(loc="outside lower center", ncols=6, columnspacing=1.2, handletextpad=0.4)
        figure.savefig(path)


def _draw_trainings(axes: Any, events: list[dict[str, Any]]) -> None:
    for training in sorted({event["training"] for event in events}):
        own = [event for event in events if event["training"] == training]
        moments, values, value = [], [], 0
        for event in own:
            # A start that found older weights goes back; until its first save that is what there is.
            value = event.get("iteration", value)
            moments.append(event["seconds"] / 60)
            values.append(value)
        axes.step(moments, values, where="post", color=SERIES[0], linewidth=1.2)
        if own and own[-1]["event"] == "end":
            axes.plot(moments[-1], values[-1], "o", color=SERIES[0], markersize=5)
            axes.axvline(moments[-1], color=LINE, linewidth=0.8, zorder=0)


def _draw_marks(axes: Any, events: list[dict[str, Any]]) -> None:
    values, value = [], 0
    for event in events:
        value = 0 if event["event"] == "start" and "iteration" not in event and not values else value
        value = event.get("iteration", value) % (10**9)
        values.append(value)
    axes.plot([], [], color=SERIES[0], label="saved")
    for how, (label, marker, color) in MARKS.items():
        at = [index for index, event in enumerate(events) if event.get("how") == how]
        _scatter(axes, events, values, at, label, marker, color)
    at = [index for index, event in enumerate(events) if event["event"] == "damage"]
    _scatter(axes, events, values, at, *DAMAGE)


def _scatter(axes, events, values, at, label, marker, color) -> None:
    if at:
        moments = [events[index]["seconds"] / 60 for index in at]
        filled = color if label != DAMAGE[0] else "none"
        axes.scatter(moments, [values[index] for index in at], s=34, marker=marker, facecolors=filled,
                     edgecolors=color, linewidths=0.9, zorder=3, label=f"{label} ({len(at)})")  # fmt: skip
