"""Which post-processing settings are tried, and how a model is given them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from detectron2.config import CfgNode

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

_SYSTEM = "MODEL.PANOPTIC_DEEPLAB"
# Key -> name among the model's ``postprocessing_arguments``.
ARGUMENTS = {
    f"{_SYSTEM}.CENTER_THRESHOLD": "threshold",
    f"{_SYSTEM}.NMS_KERNEL": "nms_kernel",
    f"{_SYSTEM}.TOP_K_INSTANCE": "top_k",
    f"{_SYSTEM}.STUFF_AREA": "stuff_area",
}
# Key -> attribute of the model's ``grouping``.
GROUPING = {f"{_SYSTEM}.GROUPING.LAMBDA": "weight", f"{_SYSTEM}.GROUPING.SIGMA": "sigma"}
KNOWN = (*ARGUMENTS, *GROUPING)

Setting = dict[str, Any]


def read_grid(cfg: CfgNode, model: Any) -> dict[str, list[Any]]:
    """Key -> values, ascending, that of the config among them.

    Args:
        cfg: reads TUNE.GRID, and the keys themselves.
        model: says whether the grouping has settings.

    Raises:
        ConfigError: an entry that is none, or a network without this post-processing.
    """
    if not hasattr(model, "postprocessing_arguments"):
        raise ConfigError(
            f"{type(model).__name__} has no centers and offsets to post-process; --postprocessing tunes "
            "Panoptic-DeepLab and the joint network"
        )
    chosen = _listed(cfg.TUNE.GRID) if cfg.TUNE.GRID else _default(model)
    now = current_setting(model)
    return {key: sorted({*values, now[key]}) for key, values in chosen.items()}


def _listed(entries: Sequence[Any]) -> dict[str, list[Any]]:
    found = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or set(entry) != {"KEY", "VALUES"} or not entry["VALUES"]:
            raise ConfigError(f"TUNE.GRID[{number}] is {entry!r}, expected KEY and VALUES")
        if entry["KEY"] not in KNOWN:
            raise ConfigError(f"TUNE.GRID[{number}] has {entry['KEY']!r}. {suggestion(str(entry['KEY']), list(KNOWN))}")
        found[str(entry["KEY"])] = list(entry["VALUES"])
    return found


def _default(model: Any) -> dict[str, list[Any]]:
    now = current_setting(model)
    stuff_area, top_k = now[f"{_SYSTEM}.STUFF_AREA"], now[f"{_SYSTEM}.TOP_K_INSTANCE"]
    grid: dict[str, list[Any]] = {
        f"{_SYSTEM}.CENTER_THRESHOLD": [0.05, 0.1, 0.2, 0.3, 0.4],
        f"{_SYSTEM}.NMS_KERNEL": [3, 7, 11, 15],
        f"{_SYSTEM}.TOP_K_INSTANCE": [max(1, top_k // 4), top_k],
        f"{_SYSTEM}.STUFF_AREA": [0, *(round(stuff_area * factor) for factor in (0.25, 0.5, 1, 2))],
    }
    if getattr(getattr(model, "grouping", None), "mode", "") == "semantic_map":
        grid[f"{_SYSTEM}.GROUPING.LAMBDA"] = [0.0, 0.5, 1.0, 2.0, 4.0]
    return grid


def settings_of(grid: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Every combination."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def current_setting(model: Any) -> Setting:
    """What the model is set to, by key."""
    arguments = model.postprocessing_arguments
    found = {key: arguments[name] for key, name in ARGUMENTS.items()}
    grouping = getattr(model, "grouping", None)
    if grouping is not None:
        found |= {key: getattr(grouping, name) for key, name in GROUPING.items()}
    return found


def apply_setting(model: Any, setting: Mapping[str, Any]) -> None:
    """Set the model's post-processing, in place."""
    changed = {ARGUMENTS[key]: value for key, value in setting.items() if key in ARGUMENTS}
    model.postprocessing_arguments = {**model.postprocessing_arguments, **changed}
    of_grouping = {GROUPING[key]: value for key, value in setting.items() if key in GROUPING}
    if of_grouping:
        model.grouping = dataclasses.replace(model.grouping, **of_grouping)
