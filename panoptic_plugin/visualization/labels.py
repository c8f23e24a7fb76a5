"""Text in pictures: where a segment has room for its label, and letters that can be read on any background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
STRETCH = 3  # a label is about that much wider than high; space is searched in the proportions of a label
SEARCH_SIZE = 320  # longest side, in pixels, of the map in which space is searched
WHITE = (255, 255, 255)


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
    rooms: list[Room | None] = []
    for number in range(1, num_segments + 1):
        _, deepest, _, (x, y) = cv2.minMaxLoc(depth, mask=cv2.inRange(small, number, number))
        centre_x, centre_y = (x - 0.5) * width / size[0], (y - 0.5) * height / size[1]
        rooms.append(Room(int(centre_x), int(centre_y), deepest * height / size[1]) if deepest > 0 else None)
    return rooms


def inside_mask(numbers: np.ndarray) -> np.ndarray:
    """uint8 (H, W): 255 where the pixels right and below belong to the same segment, 0 along borders and at void."""
    inside = np.full(numbers.shape, 255, dtype=np.uint8)
    inside[:, :-1] &= cv2.compare(numbers[:, :-1], numbers[:, 1:], cv2.CMP_EQ)
    inside[:-1] &= cv2.compare(numbers[:-1], numbers[1:], cv2.CMP_EQ)
    inside[numbers == 0] = 0
    return inside


def draw_label(
    image: np.ndarray, text: str, middle_xy: tuple[int, int], letter_height: float, taken: list[tuple[int, ...]]
) -> bool:
    """Write white letters with a dark halo, in place.

    Args:
        image: uint8 (H, W, 3).
        text: ASCII text, one line.
        middle_xy: middle of the text; it is moved into the image where it would be cut.
        letter_height: height of a capital letter in pixels.
        taken: rectangles (left, top, right, bottom) of labels that stand already; the new one is added.

    Returns:
        False where there was no space left, and nothing was drawn.
    """
    letters = _letter_mask(text, letter_height)
    height, width = letters.shape
    if height > image.shape[0] or width > image.shape[1]:
        return False
    left = min(max(middle_xy[0] - width // 2, 0), image.shape[1] - width)
    top = min(max(middle_xy[1] - height // 2, 0), image.shape[0] - height)
    box = (left, top, left + width, top + height)
    if any(_overlap(box, other) for other in taken):
        return False
    taken.append(box)
    _composite(image[top : top + height, left : left + width], letters, letter_height)
    return True


def text_size(text: str, letter_height: float) -> tuple[int, int]:
    """(width, height) of a label in pixels, its halo included."""
    mask = _letter_mask(text, letter_height)
    return mask.shape[1], mask.shape[0]


def _letter_mask(text: str, letter_height: float) -> np.ndarray:
    scale = letter_height / 21.0  # a capital letter of this font is 21 pixels high at scale 1
    thickness = max(1, round(letter_height / 9))
    (width, ascent), descent = cv2.getTextSize(text, FONT, scale, thickness)
    margin = 2 + round(letter_height / 5)
    mask = np.zeros((ascent + descent + 2 * margin, width + 2 * margin), dtype=np.uint8)
    cv2.putText(mask, text, (margin, margin + ascent), FONT, scale, 255, thickness, cv2.LINE_AA)
    return mask


def _composite(patch: np.ndarray, letters: np.ndarray, letter_height: float) -> None:
    radius = max(1, round(letter_height / 7))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    halo = cv2.GaussianBlur(cv2.dilate(letters, kernel), (0, 0), max(0.8, letter_height / 14))
    dark = (halo.astype(np.float32) / 255 * 0.85)[..., None]
    light = (letters.astype(np.float32) / 255)[..., None]
    patch[:] = np.rint(patch * (1 - dark) * (1 - light) + 255.0 * light).astype(np.uint8)


def _overlap(one: Sequence[int], other: Sequence[int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
