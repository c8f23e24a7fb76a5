"""Overlapping masks to a map in which each pixel has one owner, by a rule that the user chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_plugin.data.convert import masks

OVERLAP_RULES = {
    "smaller-first": "the smaller mask is in front; of equal ones the later",
    "later-first": "the later annotation is in front",
}
DEFAULT_OVERLAP = "smaller-first"


@dataclass(frozen=True)
class Layer:
    """One annotated object: its run-length code, category and whether it is a crowd."""

    code: masks.Code
    category_id: int
    is_crowd: bool = False


@dataclass(frozen=True)
class Flat:
    """A label map without overlaps.

    Attributes:
        ids: int32 (H, W), 0 is void, layer i has the id i + 1.
        segments: id -> (category id, iscrowd) of the layers of which something is seen.
        num_hidden: layers completely behind others, or without any pixel.
        num_shared: pixels that more than one layer claimed.
    """

    ids: np.ndarray
    segments: dict[int, tuple[int, int]]
    num_hidden: int
    num_shared: int


def flatten(layers: Sequence[Layer], size: tuple[int, int], overlap: str = DEFAULT_OVERLAP) -> Flat:
    """Lay masks over each other, crowds at the back.

    Args:
        layers: in the order of the annotations.
        size: (height, width).
        overlap: a key of :data:`OVERLAP_RULES`.
    """
    areas = [masks.area(layer.code) for layer in layers]

    def depth(index: int) -> tuple[bool, int, int]:
        return (not layers[index].is_crowd, -areas[index] if overlap == "smaller-first" else 0, index)

    ids = np.zeros(size, dtype=np.int32)
    num_shared = np.zeros(size, dtype=bool)
    for index in sorted(range(len(layers)), key=depth):
        mask = masks.decode(layers[index].code)
        num_shared |= mask & (ids != 0)
        ids[mask] = index + 1
    seen = [int(id_) for id_ in np.unique(ids) if id_]
    segments = {id_: (layers[id_ - 1].category_id, int(layers[id_ - 1].is_crowd)) for id_ in seen}
    return Flat(ids, segments, len(layers) - len(seen), int(num_shared.sum()))
