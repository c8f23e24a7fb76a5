"""Values of a config that have the right type and still cannot be meant."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.norm import NORMS

FORMATS = ("RGB", "BGR")


def _positive(values: Sequence[float]) -> bool:
    return len(values) > 0 and all(value > 0 for value in values)


# Key, what is asked of its value, and that in words. The numbers of NumPy's random generator have 32 bits, and each
# process of a job adds its own number.
RULES: list[tuple[str, Callable[[Any], bool], str]] = [
    ("SEED", lambda value: value < 2**31, "a number below 2147483648, or -1 for another one each time"),
    ("SOLVER.MAX_ITER", lambda value: value >= 1, "1 or more iterations"),
    ("SOLVER.IMS_PER_BATCH", lambda value: value >= 1, "1 or more images"),
    ("SOLVER.CHECKPOINT_PERIOD", lambda value: value >= 1, "1 or more iterations between two checkpoints"),
    ("SOLVER.BASE_LR", lambda value: math.isfinite(value) and value >= 0, "a finite number, 0 or more"),
    ("DISTRIBUTED.TIMEOUT", lambda value: 1 <= value < 2**31, "1 or more seconds"),
    ("INPUT.MIN_SIZE_TRAIN", _positive, "one size or more, all above 0 pixels"),
    ("INPUT.MAX_SIZE_TRAIN", lambda value: value > 0, "a size above 0 pixels"),
    ("INPUT.MAX_SIZE_TEST", lambda value: value > 0, "a size above 0 pixels"),
    ("INPUT.FORMAT", lambda value: value in FORMATS, f"one of {', '.join(FORMATS)}"),
    ("INPUT.CROP.SIZE", _positive, "height and width above 0"),
    ("MODEL.PIXEL_MEAN", lambda value: len(value) == 3, "3 numbers, one a channel"),
    (
        "MODEL.PIXEL_STD",
        lambda value: len(value) == 3 and _positive(value),
        "3 numbers above 0, by which pixels are divided",
    ),
    ("MODEL.SEM_SEG_HEAD.NORM", lambda value: not value or value in NORMS, f"one of {', '.join(NORMS)}"),
    ("MODEL.INS_EMBED_HEAD.NORM", lambda value: not value or value in NORMS, f"one of {', '.join(NORMS)}"),
    ("TEST.EVAL_PERIOD", lambda value: value >= 0, "0 (at the end only) or more iterations between two evaluations"),
    ("TEST.BATCH_SIZE", lambda value: value >= 1, "1 or more images"),
]


def check_values(cfg) -> None:
    """Find values that would end a training in its middle, or let it do nothing, before it is begun.

    Raises:
        ConfigError: names the key, its value and what is expected.
    """
    for key, accepts, expected in RULES:
        value = cfg
        for part in key.split("."):
            value = value[part]
        if not accepts(value):
            raise ConfigError(f"{key} is {value}, expected {expected}")
