"""One image of a run in pictures: truth, prediction, where they differ, and which objects were missed.

Colours are told apart by people with any colour vision, and every kind also has a pattern or an outline.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from panoptic_plugin.reports.run_matching import Match
from panoptic_plugin.visualization.draw import draw_panoptic

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Kind:
    """A kind of pixels: its colour, pattern and name in the legend."""

    name: str
    color: Color
    pattern: str  # "plain", "stripes" (falling), "rising", "outline"
    meaning: str


# The error map numbers its pixels by these, from 1; 0 is correct.
ERRORS = (
    Kind("wrong class", (213, 94, 0), "plain", "another class than the truth"),
    Kind("wrong object", (240, 228, 66), "stripes", "right class, but of another object or of one that was not found"),
    Kind("nothing predicted", (86, 180, 233), "rising", "labelled in the truth, void in the prediction"),
    Kind("true void", (150, 150, 150), "stripes", "not labelled, so it does not count"),
)
OBJECTS = (
    Kind("missed", (213, 94, 0), "outline", "true segments that no prediction matches"),
    Kind("false", (86, 180, 233), "outline", "predicted segments that match no true one"),
    Kind("nothing predicted", (240, 228, 66), "rising", "labelled in the truth, void in the prediction"),
    Kind("true void", (150, 150, 150), "stripes", "not labelled, so it does not count"),
)
PERIOD = 8  # pixels from stripe to stripe


def picture_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) of a picture whose longer side is ``longest``; small images are enlarged to it as well."""
    factor = longest / max(height, width, 1)
    return max(1, round(height * factor)), max(1, round(width * factor))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) to (height, width)."""
    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, size[::-1], interpolation=method)


def resize_ids(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """int32 (H, W) to (height, width), each pixel one of the old values."""
    return cv2.resize(ids.astype(np.int32), size[::-1], interpolation=cv2.INTER_NEAREST)


def draw_truth(image: np.ndarray, match: Match, metadata) -> np.ndarray:
    """The true segments over the image (already of the picture's size)."""
    return _draw(image, match.truth.numbers, match.truth.segments, metadata)


def draw_prediction(image: np.ndarray, match: Match, metadata) -> np.ndarray:
    """The predicted segments over the image."""
    return _draw(image, match.numbers, match.predicted, metadata)


def _draw(image: np.ndarray, numbers: np.ndarray, segments, metadata) -> np.ndarray:
    return draw_panoptic(image, resize_ids(numbers, image.shape[:2]), metadata, segments_info=segments)


def error_kinds(match: Match) -> np.ndarray:
    """uint8 (H, W): 0 correct, else 1 + the place in :data:`ERRORS`."""
    true_class = _table(match.truth.segments, "category_id", -1)[match.truth.numbers]
    predicted_class = np.array([-1, *(one["category_id"] for one in match.predicted)])[match.numbers]
    partner = np.full(len(match.truth.segments) + 1, -1)
    for true, predicted, _ in match.pairs:
        partner[true] = predicted
    crowd = _table(match.truth.segments, "iscrowd", 0)[match.truth.numbers] > 0
    kinds = np.where(partner[match.truth.numbers] == match.numbers, 0, 2).astype(np.uint8)
    kinds[true_class != predicted_class] = 1
    kinds[match.numbers == 0] = 3
    kinds[crowd & (true_class == predicted_class)] = 0  # a crowd has no single objects to be right about
    kinds[match.truth.numbers == 0] = 4
    return kinds


def draw_errors(image: np.ndarray, match: Match) -> np.ndarray:
    """The error map over the greyed image."""
    kinds = resize_ids(error_kinds(match), image.shape[:2])
    return _paint(_grey(image), kinds, ERRORS)


def draw_objects(image: np.ndarray, match: Match) -> np.ndarray:
    """Missed and false segments and void over the greyed image."""
    size = image.shape[:2]
    true, predicted = resize_ids(match.truth.numbers, size), resize_ids(match.numbers, size)
    kinds = np.zeros(size, np.uint8)
    kinds[(predicted == 0) & (true != 0)] = 3
    kinds[true == 0] = 4
    picture = _paint(_grey(image, 0.75), kinds, OBJECTS)
    for kind, numbers, listed in ((OBJECTS[1], predicted, match.false), (OBJECTS[0], true, match.missed)):
        for number in listed:
            _outline(picture, numbers == number, kind.color)
    return picture


def _table(segments, key: str, empty: int) -> np.ndarray:
    table = np.full(len(segments) + 1, empty)
    for segment in segments:
        table[segment["id"]] = segment[key]
    return table


def _grey(image: np.ndarray, strength: float = 0.6) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.repeat((grey * strength + 20)[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)


def _paint(picture: np.ndarray, kinds: np.ndarray, legend: tuple[Kind, ...]) -> np.ndarray:
    rows, columns = np.indices(kinds.shape)
    for number, kind in enumerate(legend, start=1):
        where = kinds == number
        slope = {"stripes": rows + columns, "rising": rows - columns}.get(kind.pattern)
        opacity = np.full(kinds.shape, 0.85)
        if slope is not None:
            opacity = np.where(slope % PERIOD < PERIOD // 2, 0.9, 0.35)
        mixed = picture * (1 - opacity[..., None]) + np.array(kind.color) * opacity[..., None]
        picture = np.where(where[..., None], mixed, picture).astype(np.uint8)
    return np.ascontiguousarray(picture)


def _outline(picture: np.ndarray, mask: np.ndarray, color: Color) -> None:
    inside = mask.astype(np.uint8)
    picture[mask] = (picture[mask] * 0.5 + np.array(color) * 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), 3)
    cv2.drawContours(picture, contours, -1, color, 2)
