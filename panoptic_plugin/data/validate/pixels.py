"""Checks of a label's pixels against its segments: ids on one side only, areas, boxes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from panoptic_plugin.data.segments import SegmentShape
from panoptic_plugin.data.validate.records import Record
from panoptic_plugin.data.validate.segments import is_segment_id

MAX_NAMED = 20  # so many unlisted ids are named one by one; more of them are one fault of the whole file


def measure_ids(ids: np.ndarray) -> dict[int, SegmentShape]:
    """Area and bounding box of every id but 0.

    Works on horizontal runs of equal ids, of which a label has a few thousand, not on its millions of pixels.

    Args:
        ids: uint32 (H, W).
    """
    height, width = ids.shape
    if not ids.size:
        return {}
    flat = np.ascontiguousarray(ids).reshape(-1)
    begins_run = np.empty(flat.size, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=begins_run[1:])
    begins_run[::width] = True
    starts = np.flatnonzero(begins_run)
    lengths = np.diff(starts, append=flat.size)
    values, number = np.unique(flat[starts], return_inverse=True)
    rows, left = np.divmod(starts, width)
    areas = np.bincount(number, weights=lengths, minlength=len(values))
    order = np.argsort(number, kind="stable")
    first = np.searchsorted(number[order], np.arange(len(values)))
    smallest, largest = np.minimum.reduceat, np.maximum.reduceat
    x, right = smallest(left[order], first), largest((left + lengths)[order], first)
    y, bottom = smallest(rows[order], first), largest(rows[order], first) + 1
    boxes = np.stack([x, y, right - x, bottom - y], axis=1).tolist()
    shapes = zip(values.tolist(), areas.astype(np.int64).tolist(), boxes, strict=True)
    return {value: SegmentShape(area, box) for value, area, box in shapes if value}


def check_pixels(path: str, record: Record, shapes: Mapping[int, SegmentShape]) -> None:
    """Note where label and JSON differ in ``record.findings``.

    Args:
        path: the JSON.
        shapes: what :func:`measure_ids` found in the label.
    """
    listed = {segment["id"] for segment in record.segments if is_segment_id(segment.get("id"))}
    if len(listed) > 1 and len(shapes) > 1 and not listed & shapes.keys():
        found, expected = f"none of the label's {len(shapes)} ids is in the JSON", f"the {len(listed)} ids of the JSON"
        record.add("no-common-id", record.label_path or "", found=found, expected=expected)
        return
    _check_unlisted(record, [segment_id for segment_id in shapes if segment_id not in listed], shapes)
    compared: set[int] = set()
    for segment in record.segments:
        segment_id = segment.get("id")
        if not is_segment_id(segment_id) or segment_id in compared:
            continue
        compared.add(segment_id)
        if segment_id not in shapes:
            where = os.path.basename(record.label_path or "")
            record.add("only-in-json", path, found=f"no pixel in {where}", expected="1 or more", segment_id=segment_id)
            continue
        _compare(path, record, segment, shapes[segment_id])


def _check_unlisted(record: Record, unlisted: list[int], shapes: Mapping[int, SegmentShape]) -> None:
    expected = "every id in segments_info"
    if len(unlisted) > MAX_NAMED:
        found = f"{len(unlisted)} ids that are not in the JSON; was the label resized, smoothed or saved as JPEG?"
        record.add("only-in-png", record.label_path or "", found=found, expected=expected)
        return
    for segment_id in unlisted:
        found = f"{shapes[segment_id].area} pixels of id {segment_id}"
        record.add("only-in-png", record.label_path or "", found=found, expected=expected, segment_id=segment_id)


def _compare(path: str, record: Record, segment: Mapping[str, Any], shape: SegmentShape) -> None:
    for code, key, true in (("area-mismatch", "area", shape.area), ("bbox-mismatch", "bbox", shape.bbox)):
        said = segment.get(key)
        if not _equal(said, true):
            found = f"{key} {said!r}" if key in segment else f"no {key}"
            record.add(code, path, found=found, expected=f"{true}, as in the PNG", segment_id=segment["id"])


def _equal(said: Any, true: Any) -> bool:
    """Equal as numbers: 24.0 is 24."""
    try:
        return bool(said == true) or [float(value) for value in said] == true
    except (TypeError, ValueError, OverflowError):
        return False
