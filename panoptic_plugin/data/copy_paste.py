"""Copy-paste augmentation: objects of one training image put into another (https://arxiv.org/abs/2012.07177)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_ID = (1 << 24) - 1  # what three bytes of a panoptic PNG hold

Segments = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class CopyPaste:
    """When to paste, from which images, and what.

    Attributes:
        probability: share of the samples that get objects of another image.
        records: dataset dicts of the images that objects are taken from.
        thing_ids: contiguous ids of the categories that are objects.
    """

    probability: float
    records: Sequence[dict[str, Any]]
    thing_ids: Collection[int]

    def draw_donor(self) -> dict[str, Any] | None:
        """A record to take objects from, or None for a sample that stays as it is. Uses NumPy's random state."""
        if np.random.random() >= self.probability:
            return None
        return self.records[np.random.randint(len(self.records))]

    def choose(self, segments: Segments) -> list[dict[str, Any]]:
        """Each object that is no crowd, with even odds. Uses NumPy's random state."""
        objects = [
            segment for segment in segments if segment["category_id"] in self.thing_ids and not segment.get("iscrowd")
        ]
        return [segment for segment in objects if np.random.random() < 0.5]


def paste_instances(
    image: np.ndarray,
    ids: np.ndarray,
    segments: Segments,
    donor_image: np.ndarray,
    donor_ids: np.ndarray,
    chosen: Segments,
) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Put segments of a donor over an image, upper left corners on each other.

    Args:
        image: uint8 (H, W, C).
        ids: int (H, W) panoptic ids, 0 void.
        segments: the image's segments; one that is covered wholly stays in the list without a pixel.
        donor_image: uint8 (h, w, C); what lies outside the image is cut off.
        donor_ids: int (h, w).
        chosen: the donor's segments to paste.

    Returns:
        New image, new ids and new segments. Pasted segments get ids that the image does not use; area and box are
        those that are visible. None of the arguments is changed.

    Raises:
        ValueError: no id is left that three bytes can hold.
    """
    height, width = min(ids.shape[0], donor_ids.shape[0]), min(ids.shape[1], donor_ids.shape[1])
    donor_window = donor_ids[:height, :width]
    image, ids = image.copy(), ids.copy()
    image_window, ids_window = image[:height, :width], ids[:height, :width]
    used = {int(segment["id"]) for segment in segments} | {int(value) for value in np.unique(ids)}
    free = (number for number in range(1, MAX_ID + 1) if number not in used)
    pasted = []
    for segment in chosen:
        mask = donor_window == segment["id"]
        if not mask.any():
            continue  # cut off, or not on the donor's crop
        new_id = next(free, None)
        if new_id is None:
            raise ValueError(f"all {MAX_ID} ids of the image are in use; it can take no pasted segment")
        image_window[mask] = donor_image[:height, :width][mask]
        ids_window[mask] = new_id
        y, x = np.nonzero(mask)
        box = [int(x.min()), int(y.min()), int(x.max() - x.min() + 1), int(y.max() - y.min() + 1)]
        pasted.append({"id": new_id, "category_id": segment["category_id"], "iscrowd": 0, "area": len(y), "bbox": box})
    return image, ids, [*segments, *pasted]
