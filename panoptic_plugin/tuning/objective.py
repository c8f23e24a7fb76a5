"""What is maximised, and what must not be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

OBJECTIVES = {"PQ": "PQ of the tuning split", "PQ_AP": "0.5 PQ + 0.5 AP of the tuning split"}


def check_objective(name: str) -> None:
    """Raise ConfigError for what cannot be an objective, a loss above all.

    A weighted sum of losses is smallest where the weights are smallest: minimising it finds those, and nothing else.
    """
    if "loss" in name.lower():
        raise ConfigError(
            f"TUNE.OBJECTIVE is {name!r}: a loss cannot tell which weights are good, because the smallest weights make "
            f"it smallest. Use one of {', '.join(OBJECTIVES)}"
        )
    if name not in OBJECTIVES:
        raise ConfigError(f"TUNE.OBJECTIVE is {name!r}. {suggestion(name, list(OBJECTIVES))}")


def score_of(name: str, results: Mapping[str, Mapping[str, Any]]) -> float:
    """The objective, in percent, from an evaluation's results; NaN where it is undefined."""
    quality = float(results["panoptic_seg"]["PQ"])
    return quality if name == "PQ" else 0.5 * quality + 0.5 * float(results["segm"]["AP"])


def figures_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Other figures of an evaluation that a report shows."""
    wanted = {
        "PQ": ("panoptic_seg", "PQ"),
        "PQ things": ("panoptic_seg", "PQ_th"),
        "PQ stuff": ("panoptic_seg", "PQ_st"),
        "mIoU": ("sem_seg", "mIoU"),
        "AP": ("segm", "AP"),
    }
    return {name: float(results[task][key]) for name, (task, key) in wanted.items() if key in results.get(task, {})}
