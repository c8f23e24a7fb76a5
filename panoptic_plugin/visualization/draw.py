"""A panoptic segmentation drawn over its image, fast enough for every frame of a video.

Stuff has the colour of its class, things of one class have different shades of it, borders are drawn out, void
keeps the image, and a label stands where its segment has room for it. The same input always gives the same picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from panoptic_plugin.structures import number_pixels
from panoptic_plugin.visualization.colors import class_colors, label_table, segment_colors
from panoptic_plugin.visualization.labels import STRETCH, Room, draw_label, find_rooms, inside_mask, text_size

Segments = Sequence[Mapping[str, Any]]


def draw_panoptic(
    image_rgb: np.ndarray,
    panoptic_ids: np.ndarray,
    metadata: Any,
    *,
    label_divisor: int | None = None,
    alpha: float = 0.5,
    segments_info: Segments | None = None,
    labels: bool = True,
) -> np.ndarray:
    """Draw a segmentation over its image.

    Args:
        image_rgb: uint8 (H, W, 3).
        panoptic_ids: int (H, W). Without ``segments_info``: ``category * label_divisor + instance``, void negative.
            With it: any ids; those of no segment are void.
        metadata: the dataset's metadata; reads stuff_classes, thing_classes, their colours, label_divisor and
            thing_dataset_id_to_contiguous_id, and does without what is not there.
        label_divisor: by default the metadata's, or 1000.
        alpha: opacity of the colours, 0 to 1.
        segments_info: dicts with id, category_id (contiguous), and perhaps score (0 to 1).
        labels: write class names.

    Returns:
        A new uint8 (H, W, 3) image.

    Raises:
        ValueError: the image and the ids differ in size.
    """
    if image_rgb.shape[:2] != panoptic_ids.shape:
        raise ValueError(f"the image has size {image_rgb.shape[:2]}, the panoptic ids {panoptic_ids.shape}")
    divisor = label_divisor or getattr(metadata, "label_divisor", 1000)
    segments = list_segments(panoptic_ids, divisor) if segments_info is None else segments_info
    segments = sorted(segments, key=lambda segment: segment["id"])
    numbers = _number(panoptic_ids, [int(segment["id"]) for segment in segments])
    thing_ids = thing_categories(metadata)
    palette = class_colors(metadata, 1 + max((segment["category_id"] for segment in segments), default=0))
    table = label_table(segment_colors(segments, palette, thing_ids))
    picture = _paint(np.ascontiguousarray(image_rgb), numbers, table, alpha)
    if labels:
        _write_labels(picture, numbers, segments, metadata, thing_ids)
    return picture


def list_segments(panoptic_ids: np.ndarray, label_divisor: int) -> list[dict[str, Any]]:
    """id and category_id of all segments of a map of ``category * label_divisor + instance``; negative is void."""
    pixels = np.bincount(np.maximum(panoptic_ids, -1).ravel() + 1)
    return [{"id": one, "category_id": one // label_divisor} for one in np.flatnonzero(pixels[1:]).tolist()]


def thing_categories(metadata: Any) -> frozenset[int]:
    """Contiguous ids of the things; empty where the metadata does not say."""
    return frozenset((getattr(metadata, "thing_dataset_id_to_contiguous_id", None) or {}).values())


def class_name(metadata: Any, category: int) -> str:
    """A class' name, or its number where the metadata has no name."""
    for names in (getattr(metadata, "stuff_classes", None), getattr(metadata, "thing_classes", None)):
        if names is not None and category < len(names):
            return str(names[category])
    return f"class {category}"


def _number(ids: np.ndarray, segment_ids: Sequence[int]) -> np.ndarray:
    """Pixels numbered 1, 2, ... in the order of ``segment_ids``, as uint8 where that suffices, else uint16."""
    return number_pixels(ids, segment_ids, dtype=np.uint8 if len(segment_ids) < 256 else np.uint16)


def _paint(image: np.ndarray, numbers: np.ndarray, table: np.ndarray, alpha: float) -> np.ndarray:
    flat = _look_up(table, numbers)
    picture = cv2.addWeighted(image, 1 - alpha, flat, alpha, 0)
    line = max(1, round(min(image.shape[:2]) / 600))
    border = cv2.bitwise_not(inside_mask(numbers))
    void = cv2.compare(numbers, 0, cv2.CMP_EQ)
    if line > 1:
        border = cv2.dilate(border, np.ones((line, line), np.uint8))
    cv2.copyTo(cv2.convertScaleAbs(flat, alpha=0.45, beta=255 * 0.55), border, picture)
    return cv2.copyTo(image, void, picture) if cv2.countNonZero(void) else picture


def _look_up(table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    if numbers.dtype != np.uint8:
        return np.take(table, numbers, axis=0)
    full = np.zeros((256, 1, 3), dtype=np.uint8)
    full[: len(table), 0] = table[:256]
    return cv2.applyColorMap(numbers, full)


def _write_labels(
    picture: np.ndarray, numbers: np.ndarray, segments: Segments, metadata: Any, thing_ids: frozenset[int]
) -> None:
    rooms = find_rooms(numbers, len(segments))
    largest = min(max(0.019 * (picture.shape[0] * picture.shape[1]) ** 0.5, 8.0), 40.0)
    order = sorted(range(len(segments)), key=lambda index: (-(rooms[index] or Room(0, 0, 0)).half_height, index))
    taken: list[tuple[int, ...]] = []
    for index in order:
        room, segment = rooms[index], segments[index]
        if room is None:
            continue
        text = class_name(metadata, segment["category_id"])
        if segment.get("score") is not None and segment["category_id"] in thing_ids:
            text += f" {100 * segment['score']:.0f}%"
        height = _fitting_height(text, room, largest)
        if height is not None:
            draw_label(picture, text, (room.x, room.y), height, taken)


def _fitting_height(text: str, room: Room, largest: float) -> float | None:
    """Letter height for a label in its room; None where letters that can be read would hide the segment."""
    smallest = max(7.0, 0.6 * largest)
    width, height = text_size(text, largest)
    factor = min(2 * room.half_height / height, 2 * STRETCH * room.half_height / width, 1.0)
    if factor * largest >= smallest:
        return factor * largest
    # Small letters may cross the border a little: a label half outside still tells what the object is.
    return smallest if 1.9 * factor * largest >= smallest else None


def draw_comparison(
    image_rgb: np.ndarray,
    true_ids: np.ndarray,
    predicted_ids: np.ndarray,
    metadata: Any,
    *,
    true_segments: Segments | None = None,
    predicted_segments: Segments | None = None,
    label_divisor: int | None = None,
    alpha: float = 0.6,
    captions: Sequence[str] = ("Image", "Ground truth", "Prediction"),
    min_height: int = 320,
) -> np.ndarray:
    """Image, ground truth and prediction side by side, captioned.

    Args:
        image_rgb: uint8 (H, W, 3).
        true_ids, predicted_ids: int (H, W), see :func:`draw_panoptic`.
        metadata, true_segments, predicted_segments, label_divisor, alpha: see :func:`draw_panoptic`.
        captions: one for each of the three pictures.
        min_height: a smaller image is enlarged by a whole factor to at least this height.

    Returns:
        uint8 (H', W', 3).
    """
    factor = max(1, -(-min_height // image_rgb.shape[0]))
    size = (image_rgb.shape[1] * factor, image_rgb.shape[0] * factor)
    image = cv2.resize(image_rgb, size, interpolation=cv2.INTER_CUBIC) if factor > 1 else image_rgb
    panels = [np.ascontiguousarray(image)]
    for ids, segments in ((true_ids, true_segments), (predicted_ids, predicted_segments)):
        enlarged = np.repeat(np.repeat(ids, factor, axis=0), factor, axis=1)
        panels.append(
            draw_panoptic(image, enlarged, metadata, label_divisor=label_divisor, alpha=alpha, segments_info=segments)
        )
    return _side_by_side(panels, captions)


def _side_by_side(panels: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    height, width = panels[0].shape[:2]
    gap = max(4, height // 60)
    bar = max(24, height // 14)
    sheet = np.full((height + bar + gap, len(panels) * (width + gap) + gap, 3), 255, dtype=np.uint8)
    for position, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = gap + position * (width + gap)
        sheet[bar : bar + height, left : left + width] = panel
        scale, thickness = bar * 0.5 / 21.0, max(1, bar // 22)
        (text_width, text_height), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        origin = (left + (width - text_width) // 2, (bar + text_height) // 2)
        cv2.putText(sheet, caption, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (40, 40, 40), thickness, cv2.LINE_AA)
    return sheet
