"""Outlines and run-length codes to masks, checked before compiled code sees them.

pycocotools trusts its input: odd numbers, huge coordinates or run lengths that do not sum to the image's pixels
end in wrong masks or wrong memory. Codes here are compressed run-length codes, ``{"size": [h, w], "counts": bytes}``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

from panoptic_plugin.errors import DatasetError

Code = dict[str, Any]
Size = tuple[int, int]


def encode(mask: np.ndarray) -> Code:
    """Bool or uint8 (H, W) to a run-length code."""
    return rle.encode(np.asfortranarray(mask, dtype=np.uint8))


def decode(code: Code) -> np.ndarray:
    """A run-length code to bool (H, W)."""
    return rle.decode(code).astype(bool)


def area(code: Code) -> int:
    """Pixels of the mask."""
    return int(rle.area(code))


def union(codes: Sequence[Code]) -> Code:
    """The pixels of any of the masks."""
    return rle.merge(list(codes))


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """A polygon from two opposite corners."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def circle(x: float, y: float, edge_x: float, edge_y: float, num_corners: int) -> list[float]:
    """A polygon around (x, y) through a point on the edge."""
    radius = math.hypot(edge_x - x, edge_y - y)
    angles = [2 * math.pi * corner / num_corners for corner in range(num_corners)]
    return [value for angle in angles for value in (x + radius * math.cos(angle), y + radius * math.sin(angle))]


def from_polygons(where: str, polygons: Any, size: Size) -> Code | None:
    """The union of polygons, rasterized as pycocotools does.

    Args:
        where: named in errors.
        polygons: lists of x0, y0, x1, y1, ... in pixels.
        size: (height, width).

    Returns:
        None where no polygon has three corners.

    Raises:
        DatasetError: a polygon is no list of pairs of finite numbers, or lies far outside of the image.
    """
    if not isinstance(polygons, (list, tuple)):
        raise DatasetError(f"{where}: the polygons are {short(polygons)}, expected a list of lists of x, y, x, y, ...")
    checked = [_polygon(f"{where}: polygon {number}", polygon, size) for number, polygon in enumerate(polygons)]
    usable = [polygon for polygon in checked if len(polygon) >= 6]
    return rle.merge(rle.frPyObjects(usable, *size)) if usable else None


def _polygon(where: str, polygon: Any, size: Size) -> list[float]:
    is_numbers = isinstance(polygon, (list, tuple)) and all(is_number(value) for value in polygon)
    if not is_numbers or len(polygon) % 2:
        raise DatasetError(f"{where} is {short(polygon)}, expected an even number of coordinates x, y, x, y, ...")
    height, width = size
    for values, side, name in ((polygon[0::2], width, "x"), (polygon[1::2], height, "y")):
        for value in values:
            # Some pixels outside are usual; more than a whole image is another scale or damage.
            if not -side <= value <= 2 * side:
                raise DatasetError(f"{where} has {name} = {value}, but the image is {width}x{height} (width x height)")
    return [float(value) for value in polygon]


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def from_rle(where: str, segmentation: Any, size: Size) -> Code:
    """A COCO run-length code, compressed (``counts`` a string) or not (a list), that fits the image.

    Raises:
        DatasetError: it has another size, or its runs do not sum to the pixels.
    """
    found = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(found, list) or found != list(size):
        raise DatasetError(f"{where}: the run-length code has size {found!r}, but the image {list(size)}")
    counts = segmentation.get("counts")
    if isinstance(counts, (str, bytes)):
        text = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
        _check_runs(where, _runs(where, text), size)
        return {"size": list(size), "counts": text}
    if not isinstance(counts, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in counts):
        raise DatasetError(f"{where}: 'counts' is {short(counts)}, expected a string or a list of whole numbers")
    _check_runs(where, counts, size)
    return rle.frPyObjects({"size": list(size), "counts": counts}, *size)


def _check_runs(where: str, runs: Sequence[int], size: Size) -> None:
    if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise DatasetError(
            f"{where}: the runs sum to {sum(runs)} pixels, but the image has {size[0] * size[1]}; the code is damaged"
        )


def _runs(where: str, text: bytes) -> list[int]:
    """Run lengths of pycocotools' compressed code: six bits a character, each run a difference to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 30:
            raise DatasetError(f"{where}: the compressed run-length code holds the byte {character}; it is damaged")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise DatasetError(f"{where}: the compressed run-length code ends in the middle of a number; it is damaged")
    return runs


def from_segmentation(where: str, segmentation: Any, size: Size) -> Code | None:
    """``segmentation`` of a COCO annotation: polygons or a run-length code; None for one without any area."""
    if isinstance(segmentation, dict):
        return from_rle(where, segmentation, size)
    return from_polygons(where, segmentation, size)


def short(value: Any) -> str:
    """A value for an error message, at most 60 letters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
