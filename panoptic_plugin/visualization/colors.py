"""Stable colours: stuff in the colour of its class, things of one class in distinguishable shades around it."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Color = tuple[int, int, int]
# Of curves and bars, after Okabe and Ito (https://jfly.uni-koeln.de/color/), darkened until each has a contrast of 3 to
# white.
SERIES = ("#0072b2", "#d55e00", "#007d5b", "#a8488b", "#8a6d00", "#5b5b66")
GOLDEN = 0.6180339887498949  # fraction of a turn that spreads any number of hues evenly


def class_colors(metadata: Any, num_classes: int) -> list[Color]:
    """RGB of each contiguous category: the metadata's colours, and a spread of hues for those it does not give.

    Args:
        metadata: a dataset's metadata; reads ``stuff_colors`` and ``thing_colors``.
        num_classes: length of the result.
    """
    given: list[Sequence[int] | None] = [None] * num_classes
    for name in ("thing_colors", "stuff_colors"):
        for category, color in enumerate((getattr(metadata, name, None) or [])[:num_classes]):
            given[category] = color if color is not None and len(color) == 3 else given[category]
    return [_as_color(color) if color is not None else _spread_color(category) for category, color in enumerate(given)]


def segment_colors(
    segments: Sequence[Mapping[str, Any]], colors: Sequence[Color], thing_ids: frozenset[int]
) -> list[Color]:
    """RGB of each segment. A category's first thing has the class colour, each further one another shade of it.

    Args:
        segments: dicts with ``category_id``, in the order of their ids, so that the shades do not depend on chance.
            In a video, ``track_id`` decides the shade, so that an object keeps its own.
        colors: by contiguous category id.
        thing_ids: contiguous ids of the things.
    """
    seen: dict[int, int] = {}
    result = []
    for segment in segments:
        category = segment["category_id"]
        number = seen.get(category, 0) if category in thing_ids else 0
        seen[category] = number + 1
        result.append(shade(colors[category], segment.get("track_id", number)))
    return result


def shade(color: Color, number: int) -> Color:
    """The ``number``-th shade around a colour; 0 is the colour itself, neighbours in number differ most."""
    if number == 0:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    turn = (number * GOLDEN) % 1.0 - 0.5
    # Dark or pale class colours leave no room on one side, so the range is centred where both sides exist.
    lightness = min(max(lightness, 0.38), 0.62) + (0.22 if number % 2 else -0.20) * (0.55 + 0.45 * abs(turn) * 2)
    saturation = max(saturation, 0.45)
    red, green, blue = colorsys.hls_to_rgb((hue + 0.16 * turn) % 1.0, min(max(lightness, 0.2), 0.85), saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def label_table(colors: Sequence[Color]) -> np.ndarray:
    """uint8 (1 + N, 3) table of colours for pixels numbered 1 to N; row 0 is void and black."""
    return np.array([(0, 0, 0), *colors], dtype=np.uint8)


def _as_color(color: Sequence[int]) -> Color:
    red, green, blue = (int(channel) for channel in color)
    return red, green, blue


def _spread_color(category: int) -> Color:
    hue = (0.08 + category * GOLDEN) % 1.0
    lightness = (0.5, 0.62, 0.42)[category % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.62)
    return round(255 * red), round(255 * green), round(255 * blue)
