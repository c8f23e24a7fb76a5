"""The ground truth of a dataset, read image by image.

Two sources, one shape: COCO's panoptic format (JSON and PNG), and label maps for purely semantic datasets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.runs import shared_runs
from panoptic_plugin.files import outside, read_json
from panoptic_plugin.integrity import read_image_bytes, undecodable
from panoptic_plugin.structures import number_pixels


@dataclass
class Truth:
    """One image's ground truth.

    Attributes:
        image_id: the id in the JSON, as text; the image's file name where there is no JSON.
        numbers: integers (H, W), the segment a pixel belongs to, counted from 1; 0 is void.
        segments: dicts of id (its number), category_id (contiguous), iscrowd, dataset_id (the id in the PNG).
        ignore_label: what ``semantic`` holds at void.
        label_map: contiguous categories where there are no segments.
    """

    image_id: str
    numbers: np.ndarray
    segments: list[dict[str, Any]]
    ignore_label: int = 255
    label_map: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        height, width = (self.numbers if self.label_map is None else self.label_map).shape
        return height, width

    @cached_property
    def semantic(self) -> np.ndarray:
        """int32 (H, W) contiguous categories, ``ignore_label`` at void."""
        if self.label_map is not None:
            return self.label_map
        table = np.full(len(self.segments) + 1, self.ignore_label, dtype=np.int32)
        for segment in self.segments:
            table[segment["id"]] = segment["category_id"]
        return table[self.numbers]


class GroundTruth(Protocol):
    """Where an evaluator gets its truth from."""

    @property
    def image_ids(self) -> list[str]:
        """All images, in the order in which they are scored."""

    @property
    def files(self) -> tuple[Path | None, list[Path]]:
        """The JSON, if there is one, and the labels, in that order."""

    def key(self, model_input: Mapping[str, Any]) -> str:
        """The image id of one dict of the data loader."""

    def load(self, image_id: str) -> Truth:
        """Read one image's truth."""


class TruthSource(Protocol):
    """A cache of truths."""

    def load(self, image_id: str) -> Truth:
        """One image's truth."""


class PanopticGroundTruth:
    """Ground truth in COCO's panoptic format.

    Args:
        panoptic_json: the JSON file.
        panoptic_root: the folder of its PNG files.
        contiguous_ids: category id of the JSON -> contiguous id.
        ignore_label: see :class:`Truth`.
        stuff_ids: contiguous ids of which an image has one segment at most: several of the JSON, such as road and its
            markings where both are registered as one class, are one.

    Raises:
        DatasetError: a file that is missing or unreadable, a category that is not registered, an image id that
            stands twice.
    """

    def __init__(
        self,
        *,
        panoptic_json: str | Path,
        panoptic_root: str | Path,
        contiguous_ids: Mapping[int, int],
        ignore_label: int = 255,
        stuff_ids: Collection[int] = (),
    ):
        self._json = Path(panoptic_json)
        self._stuff_ids = frozenset(stuff_ids)
        self._root = Path(panoptic_root)
        self._contiguous_ids = dict(contiguous_ids)
        self.ignore_label = ignore_label
        # Set by ``build.py`` where truths are kept on disk.
        self.cache: TruthSource | None = None
        content = read_json(self._json, what="annotations")
        self._annotations = _by_image_id(content.get("annotations", []), self._json)
        self.categories: list[dict[str, Any]] = content.get("categories", [])
        self.images: list[dict[str, Any]] = content.get("images", [])

    @property
    def image_ids(self) -> list[str]:
        """All image ids, as text, in the order of the JSON."""
        return list(self._annotations)

    def original_id(self, image_id: str) -> Any:
        """The image id as the JSON writes it (a number or a text)."""
        return self._annotations[image_id]["image_id"]

    def key(self, model_input: Mapping[str, Any]) -> str:
        return str(model_input["image_id"])

    def about(self, image_id: str) -> dict[str, Any]:
        """image_id and file_name as the JSON writes them, and ``label``, the name of the PNG."""
        annotation = self._annotations[image_id]
        image = self._images_by_id.get(image_id, {})
        label = annotation["file_name"]
        return {"image_id": annotation["image_id"], "file_name": image.get("file_name", label), "label": label}

    @cached_property
    def _images_by_id(self) -> dict[str, dict[str, Any]]:
        return {str(image["id"]): image for image in self.images}

    @property
    def files(self) -> tuple[Path, list[Path]]:
        """The JSON and the PNGs, in its order."""
        return self._json, [self._root / annotation["file_name"] for annotation in self._annotations.values()]

    def annotation(self, image_id: str) -> dict[str, Any]:
        """The image's entry in the JSON."""
        return self._annotations[image_id]

    def load(self, image_id: str) -> Truth:
        return self.read(image_id) if self.cache is None else self.cache.load(image_id)

    def read(self, image_id: str) -> Truth:
        """From the label itself, never from a cache."""
        annotation = self._annotations[image_id]
        path = self._root / annotation["file_name"]
        codes = read_panoptic_png(path)
        listed = [int(segment["id"]) for segment in annotation["segments_info"]]
        order = sorted(listed)
        # All that is looked up and checked is so once a run of pixels, not once a pixel.
        (ids,), lengths = shared_runs(codes)
        numbers = number_pixels(ids, order, dtype=np.int32)
        number_of = {segment_id: number for number, segment_id in enumerate(order, start=1)}
        segments = [
            {
                "id": number_of[int(segment["id"])],
                "category_id": self._category(segment["category_id"], image_id),
                "iscrowd": int(segment.get("iscrowd", 0)),
                "dataset_id": int(segment["id"]),
            }
            for segment in annotation["segments_info"]
        ]
        self._check_agreement(segments, ids, numbers, path, image_id)
        segments, numbers = self._with_one_of_each_stuff(segments, numbers)
        return Truth(image_id, np.repeat(numbers, lengths).reshape(codes.shape), segments, self.ignore_label)

    def _with_one_of_each_stuff(
        self, segments: list[dict[str, Any]], numbers: np.ndarray
    ) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Segments of the same stuff class as one, the first of them, and the numbers (R,) of the runs to match."""
        kept: dict[Any, dict[str, Any]] = {}
        for segment in segments:
            category, crowd = segment["category_id"], segment["iscrowd"]
            kept.setdefault((category, crowd) if category in self._stuff_ids else segment["id"], segment)
        if len(kept) == len(segments):
            return segments, numbers
        table, merged = np.zeros(len(segments) + 1, dtype=np.int32), []
        number_of = {one["id"]: n for n, one in enumerate(sorted(kept.values(), key=lambda one: one["id"]), start=1)}
        for segment in segments:
            category, crowd = segment["category_id"], segment["iscrowd"]
            first = kept[(category, crowd) if category in self._stuff_ids else segment["id"]]
            table[segment["id"]] = number_of[first["id"]]
            if first is segment:
                merged.append({**segment, "id": number_of[segment["id"]]})
        return merged, table[numbers]

    def _category(self, category_id: Any, image_id: str) -> int:
        try:
            return self._contiguous_ids[category_id]
        except KeyError:
            raise DatasetError(
                f"{self._json}: image {image_id} has a segment of category_id {category_id!r}, which is not "
                f"registered; expected one of {sorted(self._contiguous_ids)}"
            ) from None

    def _check_agreement(
        self, segments: list[dict[str, Any]], ids: np.ndarray, numbers: np.ndarray, path: Path, image_id: str
    ) -> None:
        listed = {segment["dataset_id"] for segment in segments}
        runs_of = np.bincount(numbers, minlength=len(segments) + 1)
        missing = [segment["dataset_id"] for segment in segments if not runs_of[segment["id"]]]
        unknown = np.unique(ids[(numbers == 0) & (ids != 0)]).tolist()
        if missing or unknown or len(listed) != len(segments):
            raise DatasetError(
                f"{path} and {self._json} disagree on image {image_id}: segments only in the JSON {missing[:5]}, "
                f"ids only in the PNG {unknown[:5]}, {len(segments) - len(listed)} ids listed twice; "
                "write both from one source"
            )


class SemanticGroundTruth:
    """Ground truth of a dataset that has label maps only.

    Args:
        files: image file name -> label map (one channel, contiguous categories or ``ignore_label``).
        ignore_label: the label of pixels that do not count.
    """

    def __init__(self, *, files: Mapping[str, str], ignore_label: int = 255):
        self._files = dict(files)
        self._ignore_label = ignore_label

    @property
    def image_ids(self) -> list[str]:
        return list(self._files)

    @property
    def files(self) -> tuple[None, list[Path]]:
        """No JSON, and the label maps."""
        return None, [Path(file) for file in self._files.values()]

    def key(self, model_input: Mapping[str, Any]) -> str:
        return str(model_input["file_name"])

    def load(self, image_id: str) -> Truth:
        path = Path(self._files[image_id])
        labels = read_pixels(path, "ground truth")
        if labels.ndim != 2:
            raise DatasetError(f"{path} has {labels.shape[2]} channels, expected a label map of one")
        return Truth(image_id, np.empty((0, 0), np.intp), [], self._ignore_label, labels.astype(np.int32))


def read_panoptic_png(path: str | Path, what: str = "ground truth") -> np.ndarray:
    """Ids of COCO's panoptic PNG, int32 (H, W).

    Raises:
        DatasetError: the file is missing, damaged, or no 8-bit RGB image.
    """
    bgr = read_pixels(Path(path), what)
    if bgr.ndim != 3 or bgr.shape[2] not in (3, 4) or bgr.dtype != np.uint8:
        raise DatasetError(f"{path} is {bgr.dtype} of shape {bgr.shape}, expected an 8-bit RGB panoptic PNG")
    # The three colour bytes and a fourth one are one little-endian integer: no arithmetic per channel is needed.
    rgba = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA if bgr.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    ids = rgba.view("<i4")[..., 0]
    return np.bitwise_and(ids, 0xFFFFFF, out=ids)


def read_pixels(path: Path, what: str) -> np.ndarray:
    """A picture as it is stored, in OpenCV's order of channels, after the checks of ``read_image_bytes``."""
    content = np.frombuffer(read_image_bytes(what, str(path)), dtype=np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise undecodable(what, str(path), "OpenCV does not know it")
    return image


def _by_image_id(annotations: Iterable[dict[str, Any]], path: Path) -> dict[str, dict[str, Any]]:
    by_id: dict[str, dict[str, Any]] = {}
    for index, annotation in enumerate(annotations):
        _check_annotation(annotation, f"{path}: annotations[{index}]")
        image_id = str(annotation["image_id"])
        if image_id in by_id:
            raise DatasetError(f"{path}: image_id {image_id} is annotated twice; keep one annotation an image")
        by_id[image_id] = annotation
    if not by_id:
        raise DatasetError(f"{path} holds no annotations, so there is nothing to evaluate")
    return by_id


def _check_annotation(annotation: Any, where: str) -> None:
    """What reading relies on; the rest is for ``panoptic data validate``."""
    for key in ("image_id", "file_name", "segments_info"):
        if not isinstance(annotation, Mapping) or key not in annotation:
            raise DatasetError(f"{where}: the key {key!r} is missing")
    if not isinstance(annotation["file_name"], str) or outside(annotation["file_name"]):
        raise DatasetError(f"{where}: file_name is {annotation['file_name']!r}, expected a path inside the folder")
    for segment in annotation["segments_info"]:
        if not isinstance(segment, Mapping) or not {"id", "category_id"} <= segment.keys():
            raise DatasetError(f"{where}: a segment is {segment!r}, expected an object with id and category_id")
