"""The keys of ``MODEL.PANOPTIC_DEEPLAB.GROUPING`` and ``.SCORE``, for every system with centers and offsets."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.postprocessing.class_votes import VOTES
from panoptic_plugin.postprocessing.panoptic_deeplab import SCORES
from panoptic_plugin.postprocessing.semantic_grouping import MODES, GroupingOptions

KEY = "MODEL.PANOPTIC_DEEPLAB.GROUPING"
# The keys are numbers; these are choices.
CHOICES = {"MODE": MODES, "VOTE": VOTES}
LEAST = {"LAMBDA": 0, "SIGMA": 0, "ITERS": 0, "VOID_RADIUS": 0, "VOID_PROBABILITY": 0, "SPAWN": 0, "SPAWN_RADIUS": 0}


def grouping_arguments(cfg: CfgNode) -> dict[str, Any]:
    """``grouping`` and ``score`` of :func:`~panoptic_plugin.postprocessing.panoptic_deeplab.panoptic_from_semantic`.

    Raises:
        ConfigError: a choice that is none, or a number out of its range.
    """
    system = cfg.MODEL.PANOPTIC_DEEPLAB
    if "GROUPING" not in system:  # a config of Detectron2's own keys
        return {}
    keys, score = system.GROUPING, system.SCORE
    for name, choices in CHOICES.items():
        if keys[name] not in choices:
            raise ConfigError(f"{KEY}.{name} is {keys[name]!r}, expected one of {', '.join(choices)}")
    for name, least in LEAST.items():
        if not keys[name] >= least:
            raise ConfigError(f"{KEY}.{name} is {keys[name]}, expected {least} or more")
    if score not in SCORES:
        raise ConfigError(f"MODEL.PANOPTIC_DEEPLAB.SCORE is {score!r}, expected one of {', '.join(SCORES)}")
    options = GroupingOptions(
        mode=keys.MODE,
        weight=keys.LAMBDA,
        sigma=keys.SIGMA or float(cfg.INPUT.GAUSSIAN_SIGMA),
        iterations=keys.ITERS,
        vote=keys.VOTE,
        void_radius=keys.VOID_RADIUS,
        void_probability=keys.VOID_PROBABILITY,
        spawn_area=keys.SPAWN,
        spawn_radius=keys.SPAWN_RADIUS,
    )
    return {"grouping": options, "score": score}
