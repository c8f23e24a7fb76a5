"""What a panoptic segmentation is, and the codes it is written in.

A panoptic map gives each pixel one id. In memory ``id = category_id * label_divisor + instance_id`` with
``instance_id = 0`` for stuff, 1, 2, ... for things, and -1 for void. On disk (COCO panoptic format) an id is an RGB
colour, ``R + 256 G + 65536 B``, and 0 is void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from panoptic_plugin.errors import UserError

if TYPE_CHECKING:
    from detectron2.structures import Instances

VOID = -1
# Where equal ids stand side by side, one search a run beats one look into a table a pixel.
PIXELS_OF_A_RUN = 16
LARGEST_TABLE = 1 << 24


def encode_ids(category_ids: np.ndarray, instance_ids: np.ndarray, label_divisor: int) -> np.ndarray:
    """Categories and instances to panoptic ids.

    Args:
        category_ids: int array of any shape, contiguous category ids; negative is void.
        instance_ids: int array of the same shape, 0 for stuff, below ``label_divisor``.
        label_divisor: how many instances a category may have, at most 1000 in the usual datasets.

    Returns:
        int32 array of that shape, :data:`VOID` where the category is negative.

    Raises:
        ValueError: an instance id that does not fit below the divisor would turn into another category.
    """
    if instance_ids.size and not 0 <= int(instance_ids.min()) <= int(instance_ids.max()) < label_divisor:
        raise ValueError(
            f"instance ids from {int(instance_ids.min())} to {int(instance_ids.max())} found, "
            f"expected 0 to {label_divisor - 1}; raise label_divisor"
        )
    ids = category_ids.astype(np.int32) * label_divisor + instance_ids.astype(np.int32)
    return np.where(category_ids < 0, VOID, ids).astype(np.int32)


def decode_ids(panoptic_ids: np.ndarray, label_divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """Panoptic ids to (category_ids, instance_ids), both int32 of the same shape; void becomes (-1, 0)."""
    ids = panoptic_ids.astype(np.int32)
    void = ids < 0
    return np.where(void, VOID, ids // label_divisor), np.where(void, 0, ids % label_divisor)


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Ids of COCO's panoptic PNG to colours.

    Args:
        ids: int array (H, W), values 0 to 2**24 - 1.

    Returns:
        uint8 array (H, W, 3) in RGB order.

    Raises:
        ValueError: an id does not fit into three bytes.
    """
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < 1 << 24:
        raise ValueError(f"ids from {int(ids.min())} to {int(ids.max())} found, expected 0 to {(1 << 24) - 1}")
    low_bytes = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8)
    return low_bytes.reshape(*ids.shape, 4)[..., :3].copy()


def rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    """Colours of COCO's panoptic PNG, uint8 (H, W, 3) in RGB order, to int32 ids (H, W)."""
    channels = rgb.astype(np.int32)
    return channels[..., 0] + (channels[..., 1] << 8) + (channels[..., 2] << 16)


def number_pixels(
    ids: np.ndarray, segment_ids: Sequence[int], last: int | None = None, dtype: DTypeLike = np.intp
) -> np.ndarray:
    """Each pixel's position in ``segment_ids``, from 1; 0 for other ids.

    Args:
        ids: int, of any shape and any values.
        segment_ids: N ids.
        last: an id that gets the number N + 1 unless it is one of ``segment_ids``.
        dtype: of the result; it must hold N + 1.

    Returns:
        An array of ``dtype`` in the shape of ``ids``.
    """
    if not ids.size:
        return np.zeros(ids.shape, dtype=dtype)
    flat = ids.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    numbers = dict.fromkeys(() if last is None else (last,), len(segment_ids) + 1)
    numbers |= {int(one): number for number, one in enumerate(segment_ids, start=1)}
    lowest, highest = min(int(ids.min()), 0), int(ids.max())
    if len(starts) * PIXELS_OF_A_RUN <= ids.size or highest - lowest >= LARGEST_TABLE:
        lengths = np.diff(starts, append=flat.size)
        return np.repeat(_searched(flat[starts], numbers, dtype), lengths).reshape(ids.shape)
    # np.zeros hands out untouched pages, so a range of 16 million ids costs only the few that are looked up.
    # A negative id counts from the end of the table, as an index does.
    table = np.zeros(max(highest, -1) + 1 - lowest, dtype=dtype)
    for one, number in numbers.items():
        if lowest <= one <= highest:
            table[one] = number
    return np.take(table, ids)


def _searched(values: np.ndarray, numbers: Mapping[int, int], dtype: DTypeLike) -> np.ndarray:
    """``numbers`` of the values, (R,) of ``dtype``; 0 where there is none."""
    known = np.array(sorted(numbers), dtype=np.int64)
    if not len(known):
        return np.zeros(len(values), dtype=dtype)
    places = np.array([numbers[one] for one in known.tolist()], dtype=dtype)
    found = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[found] == values, places[found], places.dtype.type(0))


@dataclass
class PanopticResult:
    """One image's panoptic segmentation.

    Attributes:
        ids: int32 (H, W), ``category_id * label_divisor + instance_id``, void -1.
        segments: one dict a segment: id, category_id (contiguous), isthing, area (pixels), score (0 to 1, None for
            stuff).
        label_divisor: see ``ids``.
        metadata: of the dataset whose classes these are: names, colours, ids on disk. None: classes are numbers.
        image: uint8 RGB (H, W, 3) that was segmented, if it is kept.
        attention: what a network with attention looked at, where that was recorded, else None.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]] = field(default_factory=list)
    label_divisor: int = 1000
    metadata: Any = field(default=None, repr=False)
    image: np.ndarray | None = field(default=None, repr=False)
    attention: Any = field(default=None, repr=False)

    @property
    def semantic(self) -> np.ndarray:
        """int32 (H, W) contiguous category ids, void -1."""
        return decode_ids(self.ids, self.label_divisor)[0]

    @property
    def instances(self) -> Instances:
        """The things as Detectron2's ``Instances`` on the CPU: pred_classes, pred_masks, pred_boxes, scores.

        In the order of ``segments``; a thing without a score has 1.
        """
        import torch

        from panoptic_plugin.postprocessing.instances import instances_of_panoptic

        scored = [{**one, "score": 1.0 if one.get("score") is None else one["score"]} for one in self.segments]
        return instances_of_panoptic(torch.from_numpy(self.ids.astype(np.int64)), scored)

    def confident(self, threshold: float) -> PanopticResult:
        """Without the things whose score is below ``threshold``; their pixels become void. Stuff stays."""
        kept = [one for one in self.segments if one.get("score") is None or float(one["score"]) >= threshold]
        if len(kept) == len(self.segments):
            return self
        left = {one["id"] for one in kept}
        dropped = [one["id"] for one in self.segments if one["id"] not in left]
        return replace(self, ids=np.where(np.isin(self.ids, dropped), np.int32(VOID), self.ids), segments=kept)

    def draw(self, image: np.ndarray | None = None, *, alpha: float = 0.5, labels: bool = True) -> np.ndarray:
        """The segmentation over its image.

        Args:
            image: uint8 RGB (H, W, 3); by default the image that was segmented, else grey.
            alpha: opacity of the colours, 0 to 1.
            labels: write class names and scores.

        Returns:
            A new uint8 RGB (H, W, 3) picture.
        """
        from panoptic_plugin.visualization.draw import draw_panoptic

        below = self.image if image is None else image
        if below is None:
            below = np.full((*self.ids.shape, 3), 128, dtype=np.uint8)
        return draw_panoptic(
            below, self.ids, self.metadata, label_divisor=self.label_divisor, alpha=alpha,
            segments_info=self.segments, labels=labels,
        )  # fmt: skip

    def to_coco(self, image_id: int | str = 0, file_name: str | None = None) -> tuple[dict[str, Any], np.ndarray]:
        """As COCO's panoptic format stores it.

        Args:
            image_id: of the image in the JSON.
            file_name: of the PNG; by default the image id's.

        Returns:
            The image's entry of ``annotations``: image_id, file_name, and segments_info with id, category_id (of the
            dataset), area, bbox (x, y, width, height), iscrowd, and score where there is one; and the PNG's pixels,
            uint8 RGB (H, W, 3). Its ids are those of ``ids`` plus 1, because 0 is void.
        """
        boxes = boxes_of_segments(self.ids, [one["id"] for one in self.segments])
        dataset_ids = dataset_category_ids(self.metadata)
        listed = []
        for segment, (box, area) in zip(self.segments, boxes, strict=True):
            category = int(segment["category_id"])
            entry: dict[str, Any] = {"id": int(segment["id"]) + 1, "category_id": dataset_ids.get(category, category)}
            entry |= {"area": area, "bbox": box, "iscrowd": 0}
            entry |= {key: segment[key] for key in ("score", "track_id") if segment.get(key) is not None}
            listed.append(entry)
        annotation = {"image_id": image_id, "file_name": file_name or f"{image_id}.png", "segments_info": listed}
        return annotation, ids_to_rgb(np.maximum(self.ids, VOID) + 1)

    def save(self, path: str | PathLike[str], *, ids: bool = False) -> None:
        """Write the picture of :meth:`draw`, or with ``ids`` the PNG of :meth:`to_coco`.

        Args:
            path: its suffix decides the format.
            ids: needs a format without loss.

        Raises:
            UserError: the file cannot be written, or ids would be lost in its format.
        """
        if ids and Path(path).suffix.lower() != ".png":
            raise UserError(f"ids are saved as PNG, but the file is {path}; give it the suffix .png")
        write_picture(path, self.to_coco()[1] if ids else self.draw())


def dataset_category_ids(metadata: Any) -> dict[int, int]:
    """Contiguous category id -> id in the dataset's JSON; empty where the metadata does not say."""
    names = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
    return {index: one for name in names for one, index in (getattr(metadata, name, None) or {}).items()}


def boxes_of_segments(ids: np.ndarray, segment_ids: Sequence[int]) -> list[tuple[list[int], int]]:
    """([x, y, width, height], area) of each segment in pixels; ([0, 0, 0, 0], 0) for one without pixels."""
    numbers = number_pixels(ids, segment_ids, dtype=np.int32)
    per_row = _histogram(numbers, len(segment_ids))
    per_column = _histogram(numbers.T, len(segment_ids))
    boxes = []
    for number in range(1, len(segment_ids) + 1):
        rows, columns = np.flatnonzero(per_row[:, number]), np.flatnonzero(per_column[:, number])
        if not len(rows):
            boxes.append(([0, 0, 0, 0], 0))
            continue
        top, left = int(rows[0]), int(columns[0])
        box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
        boxes.append((box, int(per_row[:, number].sum())))
    return boxes


def _histogram(numbers: np.ndarray, highest: int) -> np.ndarray:
    """int64 (rows, highest + 1): how often a row holds each number."""
    offsets = np.arange(numbers.shape[0], dtype=np.int64)[:, None] * (highest + 1)
    counts = np.bincount((numbers + offsets).ravel(), minlength=numbers.shape[0] * (highest + 1))
    return counts.reshape(-1, highest + 1)


def write_picture(path: str | PathLike[str], rgb: np.ndarray) -> None:
    """Write uint8 RGB (H, W, 3) in the format of the suffix; UserError where that fails."""
    import cv2

    try:
        written = cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
    except cv2.error as error:
        raise UserError(f"{path} cannot be written: {' '.join(str(error.err).split())}") from None
    if not written:
        raise UserError(f"{path} cannot be written; check its suffix, the folder's permissions and the free space")
