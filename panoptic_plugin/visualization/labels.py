"""Text in pictures: where a segment has room for its label, and letters that can be read on any background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
STRETCH = 3  # a label is about that much wider than high; space is searched in the proportions of a label
SEARCH_SIZE = 320  # longest side, in pixels, of the map in which space is searched
CAPITAL = 21.0  # pixels that a capital letter of the font is high at scale 1
HALO = 0.85  # how much of the picture the halo hides


class Room(NamedTuple):
    """Where a label fits: its middle (x, y) and the half height of the free space around it, in pixels."""

    x: int
    y: int
    half_height: float


def find_rooms(numbers: np.ndarray, num_segments: int) -> list[Room | None]:
    """The roomiest place inside each segment; None for one too small to be seen in the search map.

    Args:
        numbers: uint8 or uint16 (H, W), pixels numbered from 1; 0 is void.
        num_segments: the highest number.
    """
    height, width = numbers.shape
    scale = min(1.0, SEARCH_SIZE / max(height, width / STRETCH))
    size = (max(1, round(width * scale / STRETCH)), max(1, round(height * scale)))
    small = cv2.copyMakeBorder(
        cv2.resize(numbers, size, interpolation=cv2.INTER_NEAREST), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0
    )
    # With every border between segments a zero, one transform measures the room in all segments at once.
    depth = cv2.distanceTransform(inside_mask(small), cv2.DIST_L2, 3)
    owner, flat = small.ravel(), depth.ravel()
    deepest = np.zeros(num_segments + 1, dtype=np.float32)
    np.maximum.at(deepest, owner, flat)
    at = np.flatnonzero(flat == deepest[owner])[::-1]
    place = np.zeros(num_segments + 1, dtype=np.intp)
    place[owner[at]] = at  # of several places the first, which is written last
    rooms: list[Room | None] = []
    for position, half_height in zip(place[1:].tolist(), deepest[1:].tolist(), strict=True):
        y, x = divmod(position, small.shape[1])
        middle = int((x - 0.5) * width / size[0]), int((y - 0.5) * height / size[1])
        rooms.append(Room(*middle, half_height * height / size[1]) if half_height > 0 else None)
    return rooms


def inside_mask(numbers: np.ndarray) -> np.ndarray:
    """uint8 (H, W): 255 where the pixels right and below belong to the same segment, 0 along borders and at void."""
    inside = cv2.compare(numbers, 0, cv2.CMP_NE)
    inside[:, :-1] &= cv2.compare(numbers[:, :-1], numbers[:, 1:], cv2.CMP_EQ)
    inside[:-1] &= cv2.compare(numbers[:-1], numbers[1:], cv2.CMP_EQ)
    return inside


def draw_label(
    image: np.ndarray, text: str, middle_xy: tuple[int, int], letter_height: float, taken: list[tuple[int, ...]]
) -> bool:
    """Write white letters with a dark halo, in place.

    Args:
        image: uint8 (H, W, 3).
        text: one line.
        middle_xy: middle of the text; it is moved into the image where it would be cut, and by up to a line where
            another label stands.
        letter_height: height of a capital letter in pixels.
        taken: rectangles (left, top, right, bottom) of labels that stand already; the new one is added.

    Returns:
        False where there was no space left, and nothing was drawn.
    """
    width, height = text_size(text, letter_height)
    if height > image.shape[0] or width > image.shape[1]:
        return False
    left = min(max(middle_xy[0] - width // 2, 0), image.shape[1] - width)
    for shift in (0, -height // 2, height // 2, -height, height):
        top = min(max(middle_xy[1] - height // 2 + shift, 0), image.shape[0] - height)
        box = (left, top, left + width, top + height)
        if not any(_overlap(box, other) for other in taken):
            break
    else:
        return False
    taken.append(box)
    _composite(image[top : top + height, left : left + width], _letter_mask(text, letter_height), letter_height)
    return True


def text_size(text: str, letter_height: float) -> tuple[int, int]:
    """(width, height) of a label in pixels, its halo included."""
    width, ascent, descent, margin = _measure(text, letter_height)
    return width + 2 * margin, ascent + descent + 2 * margin


def _measure(text: str, letter_height: float) -> tuple[int, int, int, int]:
    """Width of the text, its height above and below the base line, and the margin that its halo needs."""
    (width, ascent), descent = cv2.getTextSize(text, FONT, letter_height / CAPITAL, _stroke(letter_height))
    return width, ascent, descent, 2 + round(letter_height / 5)


def _stroke(letter_height: float) -> int:
    return max(1, round(letter_height / 9))


def _letter_mask(text: str, letter_height: float) -> np.ndarray:
    width, ascent, descent, margin = _measure(text, letter_height)
    mask = np.zeros((ascent + descent + 2 * margin, width + 2 * margin), dtype=np.uint8)
    origin, scale = (margin, margin + ascent), letter_height / CAPITAL
    return cv2.putText(mask, text, origin, FONT, scale, 255, _stroke(letter_height), cv2.LINE_AA)


def _composite(patch: np.ndarray, letters: np.ndarray, letter_height: float) -> None:
    """Darken the halo, put white letters on top; in bytes, because floats would take most of a picture's time."""
    radius = max(2, round(letter_height / 7))  # thin letters need as dark a halo as thick ones
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    sigma = max(0.8, letter_height / 14)
    window = 2 * round(1.5 * sigma) + 1  # OpenCV's own choice is twice as wide, and four times as slow
    halo = cv2.GaussianBlur(cv2.dilate(letters, kernel), (window, window), sigma)
    kept = cv2.multiply(cv2.convertScaleAbs(halo, alpha=-HALO, beta=255), cv2.bitwise_not(letters), scale=1 / 255)
    dimmed = cv2.multiply(patch, cv2.merge([kept] * 3), scale=1 / 255)
    patch[:] = cv2.add(dimmed, cv2.merge([letters] * 3))


def _overlap(one: Sequence[int], other: Sequence[int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
