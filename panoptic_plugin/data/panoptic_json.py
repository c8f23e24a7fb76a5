"""Reading COCO panoptic JSON: categories to metadata, annotations to Detectron2's dataset dicts.

The format (https://cocodataset.org/#format-data, "Panoptic Segmentation"): ``images`` name the pictures,
``annotations`` name one PNG a picture and list its segments, ``categories`` say what the segments may be. Every
mistake in a file is a :class:`DatasetError` that names the file, the record and the remedy.
"""

from __future__ import annotations

import colorsys
import json
import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from panoptic_plugin.data.folder_index import MAX_NAMED, FolderIndex
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.files import outside, read_json

IGNORE_LABEL = 255
LABEL_DIVISOR = 1000
MAX_SEGMENT_ID = (1 << 24) - 1  # three bytes of a PNG's pixel; 0 is void


def read_categories(path: str) -> list[dict[str, Any]]:
    """Only ``categories``, found without parsing the records, which may be hundreds of megabytes.

    Returns:
        The categories in the order of their ids, each with ``id``, ``name``, ``isthing`` (bool).
    """
    categories = _find_categories(path)
    if categories is None:
        categories = read_json(path).get("categories")
    return checked_categories(path, categories)


def _find_categories(path: str) -> list[Any] | None:
    """The list after the last ``"categories":``, or None where a full parse has to decide."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            key = content.rfind(b'"categories"')
            begin = content.find(b"[", key) if key >= 0 else -1
            if begin < 0 or content[key + len('"categories"') : begin].strip() != b":":
                return None
            found = _decode_at(content, begin)
    except (OSError, ValueError, RecursionError):
        return None
    is_plausible = isinstance(found, list) and found and all(isinstance(c, dict) and "name" in c for c in found)
    return found if is_plausible else None


def _decode_at(content: mmap.mmap, begin: int) -> Any:
    """The JSON value that begins there; ValueError where there is none."""
    length = 1 << 16
    while True:
        try:
            return json.JSONDecoder().raw_decode(content[begin : begin + length].decode("utf-8", "ignore"))[0]
        except json.JSONDecodeError:
            if begin + length >= len(content):
                raise
            length *= 4


def checked_categories(path: str, categories: Any) -> list[dict[str, Any]]:
    """The categories in id order, after checks; DatasetError where one cannot be used."""
    if not isinstance(categories, list) or not categories:
        raise DatasetError(f"{path}: 'categories' is missing or empty; expected a list of {{id, name, isthing}}")
    seen: dict[int, str] = {}
    for index, category in enumerate(categories):
        where = f"{path}: categories[{index}]"
        if not isinstance(category, dict):
            raise DatasetError(f"{where} is {category!r}, expected an object with id, name and isthing")
        for key in ("id", "name", "isthing"):
            field(category, key, where)
        category_id = category["id"]
        if isinstance(category_id, bool) or not isinstance(category_id, int):
            raise DatasetError(f"{where}: id is {category_id!r}, expected an integer")
        if category_id in seen:
            raise DatasetError(
                f"{where} ({category['name']}): id {category_id} belongs to {seen[category_id]} already; "
                "give every category its own id"
            )
        seen[category_id] = category["name"]
    return sorted(categories, key=lambda category: category["id"])


def field(record: Mapping[str, Any], key: str, where: str) -> Any:
    """``record[key]``, or a DatasetError that says where the key is missing."""
    try:
        return record[key]
    except (KeyError, TypeError):
        raise DatasetError(f"{where}: the key {key!r} is missing") from None


def metadata_from_categories(categories: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What Detectron2's evaluators and Visualizer read, for categories in id order.

    As in Detectron2's own panoptic sets, ``thing_*`` and ``stuff_*`` lists both run over all contiguous ids.
    """
    categories = list(categories)
    names = [str(category["name"]) for category in categories]
    colors = [list(category.get("color") or distinct_color(index)) for index, category in enumerate(categories)]
    contiguous = {category["id"]: index for index, category in enumerate(categories)}
    things = {category["id"] for category in categories if category["isthing"]}
    return {
        "thing_classes": names,
        "stuff_classes": list(names),
        "thing_colors": colors,
        "stuff_colors": [list(color) for color in colors],
        "thing_dataset_id_to_contiguous_id": {id_: index for id_, index in contiguous.items() if id_ in things},
        "stuff_dataset_id_to_contiguous_id": {id_: index for id_, index in contiguous.items() if id_ not in things},
        "ignore_label": IGNORE_LABEL,
        "label_divisor": LABEL_DIVISOR,
    }


def distinct_color(index: int) -> list[int]:
    """An RGB colour for the index-th class: hues a golden angle apart, so any number of them stay apart."""
    hue = (index * 0.61803398875) % 1.0
    value = 0.95 - 0.25 * (index % 3) / 2
    return [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.75, value)]


def load_records(
    panoptic_json: str,
    image_root: str,
    panoptic_root: str,
    metadata: Mapping[str, Any],
    sem_seg_root: str | None = None,
) -> list[dict[str, Any]]:
    """Detectron2's dataset dicts of a COCO panoptic JSON.

    Args:
        metadata: holds ``thing_dataset_id_to_contiguous_id`` and ``stuff_dataset_id_to_contiguous_id``.
        sem_seg_root: folder of semantic PNGs named like the panoptic PNGs, if there is one.

    Returns:
        One dict an annotation: file_name, image_id, height, width, pan_seg_file_name, segments_info with contiguous
        category ids, and sem_seg_file_name where ``sem_seg_root`` is given.

    Raises:
        DatasetError: whatever is missing, doubled or unknown, with the file, the record and the remedy.
    """
    content = read_json(panoptic_json)
    images = _by_id(panoptic_json, content, "images", "id")
    annotations = _by_id(panoptic_json, content, "annotations", "image_id")
    image_files = FolderIndex(image_root, "image folder")
    label_files = FolderIndex(panoptic_root, "folder of panoptic PNGs")
    records, no_image, no_label = [], [], []
    for index, (image_id, annotation) in enumerate(annotations.items()):
        where = f"{panoptic_json}: annotations[{index}] (image_id {image_id!r})"
        if image_id not in images:
            raise DatasetError(f"{where}: no entry of 'images' has this id")
        record = _record(where, images[image_id], annotation, metadata)
        image_file = image_files.find(
            record["file_name"], *possible_stems(record["file_name"], record["pan_seg_file_name"], image_id)
        )
        label_file = label_files.find(record["pan_seg_file_name"])
        if image_file is None:
            no_image.append(record["file_name"])
        if label_file is None:
            no_label.append(record["pan_seg_file_name"])
        if sem_seg_root:
            record["sem_seg_file_name"] = os.path.join(sem_seg_root, record["pan_seg_file_name"])
        record.update(file_name=image_file, pan_seg_file_name=label_file)
        records.append(record)
    _refuse_missing(panoptic_json, "images", no_image, image_root, len(records))
    _refuse_missing(panoptic_json, "panoptic PNGs", no_label, panoptic_root, len(records))
    return records


def _by_id(path: str, content: Mapping[str, Any], key: str, id_key: str) -> dict[Any, dict[str, Any]]:
    """The records of one list by their id; a missing or empty list and a doubled id are errors."""
    records = content.get(key)
    if not isinstance(records, list) or not records:
        raise DatasetError(f"{path}: '{key}' is missing or empty; expected the records of a panoptic dataset")
    by_id: dict[Any, dict[str, Any]] = {}
    for index, record in enumerate(records):
        where = f"{path}: {key}[{index}]"
        record_id = field(record, id_key, where)
        if not isinstance(record_id, (int, str)):
            raise DatasetError(f"{where}: {id_key} is {record_id!r}, expected a number or a string")
        if record_id in by_id:
            raise DatasetError(f"{where}: {id_key} {record_id!r} stands twice in '{key}'; remove or rename one of them")
        by_id[record_id] = record
    return by_id


def _record(
    where: str, image: Mapping[str, Any], annotation: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """One dataset dict, its file names still as the JSON has them."""
    record: dict[str, Any] = {
        "file_name": field(image, "file_name", f"{where}: its entry of 'images'"),
        "image_id": annotation["image_id"],
        "pan_seg_file_name": field(annotation, "file_name", where),
    }
    for name in (record["file_name"], record["pan_seg_file_name"]):
        if not isinstance(name, str) or outside(name):
            raise DatasetError(f"{where}: file_name is {name!r}, expected a path inside the dataset's folder")
    if "height" in image and "width" in image:
        record.update(height=image["height"], width=image["width"])
    segments = field(annotation, "segments_info", where)
    if not isinstance(segments, list):
        raise DatasetError(f"{where}: segments_info is {segments!r}, expected a list")
    record["segments_info"] = [
        _segment(f"{where}: segments_info[{number}]", segment, metadata) for number, segment in enumerate(segments)
    ]
    ids = [segment["id"] for segment in record["segments_info"]]
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise DatasetError(f"{where}: the segment id {twice} stands twice, so its pixels would have two classes")
    return record


def _segment(where: str, segment: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    category = field(segment, "category_id", where)
    segment_id = field(segment, "id", where)
    # 0 would silently be void, and nothing above three bytes is ever found in a PNG.
    if isinstance(segment_id, bool) or not isinstance(segment_id, int) or not 0 < segment_id <= MAX_SEGMENT_ID:
        raise DatasetError(f"{where} has id {segment_id!r}, expected 1 to {MAX_SEGMENT_ID}")
    things = metadata["thing_dataset_id_to_contiguous_id"]
    stuff = metadata["stuff_dataset_id_to_contiguous_id"]
    # True equals 1 and 1.0 does too: neither is a category that somebody meant.
    if type(category) is not int or (category not in things and category not in stuff):
        known = ", ".join(map(str, sorted([*things, *stuff])[:24]))
        raise DatasetError(
            f"{where} has category_id {category!r}, which is none of the categories ({known}, ...); "
            "add the category or correct the segment"
        )
    if segment.get("iscrowd", 0) not in (0, 1):
        raise DatasetError(f"{where}: iscrowd is {segment['iscrowd']!r}, expected 0 or 1")
    is_thing = category in things
    contiguous = things[category] if is_thing else stuff[category]
    return {**segment, "category_id": contiguous, "isthing": is_thing, "iscrowd": int(segment.get("iscrowd", 0))}


def possible_stems(file_name: str, label_name: str, image_id: int | str) -> list[str]:
    """Under which stems an image may lie whose ``file_name`` does not exist.

    Other extensions; COCO's twelve digits; Cityscapes' converter, which writes names of images that do not exist.
    """
    stems = [Path(file_name).stem, Path(label_name).stem, str(image_id)]
    return [*stems, f"{image_id:012d}"] if isinstance(image_id, int) else [*stems, f"{image_id}_leftImg8bit"]


def _refuse_missing(path: str, what: str, missing: list[str], root: str, total: int) -> None:
    if missing:
        named = ", ".join(missing[:MAX_NAMED]) + (", ..." if len(missing) > MAX_NAMED else "")
        raise DatasetError(
            f"{path}: {len(missing)} of {total} {what} are not below {root}: {named}. "
            "Correct the folder, or take the records out of the JSON"
        )
