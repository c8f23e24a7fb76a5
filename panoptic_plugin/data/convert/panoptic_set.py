"""A COCO panoptic set as converters see it: read with checks, written with measured segments."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from panoptic_plugin.data.convert.pixels import image_size, read_panoptic_png
from panoptic_plugin.data.convert.report import counted
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.data.panoptic_json import checked_categories, distinct_color, read_json
from panoptic_plugin.data.panoptic_json import field as required
from panoptic_plugin.data.segments import measure_segments
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.structures import ids_to_rgb

Record = dict[str, Any]
MAX_ID = (1 << 24) - 1


@dataclass
class PanopticSet:
    """The JSON's content, joined by image id.

    Attributes:
        path: of the JSON.
        pairs: (image record, annotation record), in the order of the annotations.
        categories: in the order of their ids.
        other: whatever else the JSON holds (info, licenses).
        num_unlabelled: images without an annotation, which are not in ``pairs``.
    """

    path: str
    pairs: list[tuple[Record, Record]]
    categories: list[Record]
    other: Record = field(default_factory=dict)
    num_unlabelled: int = 0

    @property
    def things(self) -> set[int]:
        """Category ids of the things."""
        return {category["id"] for category in self.categories if category["isthing"]}

    def content(self, pairs: Sequence[tuple[Record, Record]]) -> Record:
        """The JSON of a set with these pairs and everything else as it is."""
        return {
            **self.other,
            "images": [image for image, _ in pairs],
            "annotations": [annotation for _, annotation in pairs],
            "categories": self.categories,
        }


def read_panoptic_set(path: str | Path) -> PanopticSet:
    """Read and check a panoptic JSON.

    Raises:
        DatasetError: what is missing, doubled, unknown or of a wrong kind, with the file and the record.
    """
    path = str(path)
    content = read_json(path)
    categories = checked_categories(path, content.get("categories"))
    known = {category["id"] for category in categories}
    images = records_by_id(path, content.get("images"), "images", "id")
    annotations = records_by_id(path, content.get("annotations"), "annotations", "image_id")
    pairs = []
    for index, (image_id, annotation) in enumerate(annotations.items()):
        where = f"{path}: annotations[{index}] (image_id {image_id!r})"
        if image_id not in images:
            raise DatasetError(f"{where}: no entry of 'images' has this id")
        inside_path(f"{where}: its image", required(images[image_id], "file_name", where))
        inside_path(where, required(annotation, "file_name", where))
        _check_segments(where, required(annotation, "segments_info", where), known)
        pairs.append((images[image_id], annotation))
    other = {key: value for key, value in content.items() if key not in ("images", "annotations", "categories")}
    return PanopticSet(path, pairs, categories, other, len(images) - len(pairs))


def records_by_id(path: str, records: Any, key: str, id_key: str) -> dict[int | str, Record]:
    """The objects of the list ``key`` by their id; DatasetError for another kind, no id, or one that stands twice."""
    if not isinstance(records, list) or not records:
        raise DatasetError(f"{path}: '{key}' is missing, empty or no list")
    by_id: dict[int | str, Record] = {}
    for index, record in enumerate(records):
        where = f"{path}: {key}[{index}]"
        if not isinstance(record, dict):
            raise DatasetError(f"{where} is a {type(record).__name__}, expected an object")
        record_id = required(record, id_key, where)
        if isinstance(record_id, bool) or not isinstance(record_id, (int, str)):
            raise DatasetError(f"{where}: {id_key} is {record_id!r}, expected a number or a string")
        if record_id in by_id:
            raise DatasetError(f"{where}: {id_key} {record_id!r} stands twice in '{key}'; remove or rename one of them")
        by_id[record_id] = record
    return by_id


def inside_path(where: str, name: Any) -> str:
    """The file name, or DatasetError where it could lead out of its folder."""
    path = PurePosixPath(name.replace("\\", "/")) if isinstance(name, str) else PurePosixPath()
    if not path.name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"{where}: file_name is {name!r}, expected a path inside the dataset's folder")
    return name


def _check_segments(where: str, segments: Any, known: set[int]) -> None:
    if not isinstance(segments, list):
        raise DatasetError(f"{where}: segments_info is a {type(segments).__name__}, expected a list")
    seen = set()
    for number, segment in enumerate(segments):
        here = f"{where}: segments_info[{number}]"
        segment_id, category = required(segment, "id", here), required(segment, "category_id", here)
        if isinstance(segment_id, bool) or not isinstance(segment_id, int) or not 0 < segment_id <= MAX_ID:
            raise DatasetError(f"{here}: id is {segment_id!r}, expected 1 to {MAX_ID}")
        if segment_id in seen:
            raise DatasetError(f"{here}: id {segment_id} stands twice in this image")
        if isinstance(category, bool) or not isinstance(category, int) or category not in known:
            raise DatasetError(f"{here}: category_id is {category!r}, which is none of the categories")
        seen.add(segment_id)


def read_ids(panoptic_set: PanopticSet, panoptic_root: str | Path, image: Record, annotation: Record) -> np.ndarray:
    """int32 (H, W): the ids of one image's PNG, of the size that the JSON gives if it gives one."""
    size = None
    if "height" in image or "width" in image:
        where = f"{panoptic_set.path}: image {image['id']!r}"
        size = image_size(where, image.get("height"), image.get("width"))
    return read_panoptic_png(os.path.join(panoptic_root, annotation["file_name"]), size)


def present_segments(ids: np.ndarray, annotation: Record) -> Iterator[tuple[Record, Any]]:
    """The annotation's segments that have pixels, each with its measured area and box, in their order."""
    shapes = measure_segments(ids)
    for segment in annotation["segments_info"]:
        if segment["id"] in shapes:
            yield segment, shapes[segment["id"]]


def write_annotation(
    stage: Staging,
    folder: str,
    name: str,
    image_id: int | str,
    ids: np.ndarray,
    segments: Mapping[int, tuple[int, int]],
) -> Record:
    """Write one PNG and return its entry for ``annotations``.

    Args:
        folder: of the PNGs, inside the output folder.
        name: of the PNG inside it.
        ids: int (H, W), 0 is void.
        segments: id -> (category id, iscrowd), each with pixels.
    """
    stage.write_png(Path(folder, name), ids_to_rgb(ids))
    shapes = measure_segments(ids)
    infos = [
        {"id": id_, "category_id": category, "iscrowd": crowd, "area": shapes[id_].area, "bbox": shapes[id_].bbox}
        for id_, (category, crowd) in segments.items()
    ]
    return {"image_id": image_id, "file_name": name, "segments_info": infos}


def png_names(file_names: Sequence[str]) -> list[str]:
    """A PNG's name for each image: the image's with another extension, or with one more where two would share it."""
    names = [PurePosixPath(name).with_suffix(".png").as_posix() for name in file_names]
    count = Counter(names)
    return [name if count[name] == 1 else f"{file}.png" for name, file in zip(names, file_names, strict=True)]


def complete_categories(categories: Sequence[Record]) -> list[Record]:
    """Categories in id order, each with a colour."""
    ordered = sorted(categories, key=lambda category: category["id"])
    return [{**category, "color": category.get("color") or distinct_color(n)} for n, category in enumerate(ordered)]


def written_set(output: str | Path, name: str, annotations: Sequence[Record]) -> list[str]:
    """For a report: the JSON and the PNG folder of a set."""
    segments = sum(len(annotation["segments_info"]) for annotation in annotations)
    target = Path(output) / name
    return [f"{target}.json: {counted(segments, 'segment')}", f"{target}{os.sep}: {counted(len(annotations), 'PNG')}"]
