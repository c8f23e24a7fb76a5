"""A corrected JSON, written beside the original, which stays as it is.

What the PNG knows is taken from it: areas, boxes, which segments there are. What cannot be known drops out: a record
whose file is missing, damaged or of another size, an annotation that stands twice. Everything that was done is listed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panoptic_plugin.data.reading import id_pixels
from panoptic_plugin.data.validate.finding import ERROR
from panoptic_plugin.data.validate.inspect import Inspection
from panoptic_plugin.data.validate.run import Report
from panoptic_plugin.data.validate.segments import is_segment_id
from panoptic_plugin.data.validate.source import FULL
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.integrity import IMAGE_FORMATS
from panoptic_plugin.structures import ids_to_rgb

# Errors that a new JSON mends. A segment of an unknown category leaves pixels that no segment lists.
MENDED = {"area-mismatch", "bbox-mismatch", "only-in-json", "json-size", "duplicate-segment-id", "bad-segment-id"}
# Errors that need new labels too, in which these pixels are void.
MENDED_WITH_LABELS = {"only-in-png", "unknown-category"}


@dataclass
class Repair:
    """What was done.

    Attributes:
        kept: records in the new JSON.
        dropped: records left out: index, image_id, file_name, reasons.
        changed: records that differ: index, image_id, what.
        notes: what was done to the file as a whole.
    """

    kept: int = 0
    dropped: list[dict[str, Any]] = field(default_factory=list)
    changed: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def repair(report: Report, output: str, labels: str | None = None) -> Repair:
    """Write a JSON without the faults of ``report`` to ``output`` and the list of changes to ``output.changes.json``.

    Args:
        report: of a full validation.
        output: a file that does not exist yet.
        labels: a new folder for the labels, in which pixels of unlisted ids and unknown categories are void. Without
            it such records are dropped.

    Raises:
        DatasetError: the report is not of a full validation, the output exists, or nothing would be left.
    """
    _check(report, output, labels)
    done = Repair()
    images, annotations = [], []
    mended = MENDED | (MENDED_WITH_LABELS if labels else set())
    for inspection in report.inspections:
        fatal = _fatal(inspection, mended)
        if fatal:
            done.dropped.append(_entry(inspection, reasons=fatal))
            continue
        image, annotation = _mended(report, inspection, done)
        images.append(image)
        annotations.append(annotation)
        if labels:
            _write_label(inspection, annotation, labels)
    done.kept = len(annotations)
    _note_the_rest(report, done)
    if not annotations:
        raise DatasetError(f"{report.source.panoptic_json}: no record can be repaired; {len(done.dropped)} are faulty")
    content = {**report.content, "images": images, "annotations": annotations, "categories": _categories(report, done)}
    _write(output, content)
    _write(changes_path(output), {"dropped": done.dropped, "changed": done.changed, "notes": done.notes})
    return done


def changes_path(output: str) -> str:
    """Where the list of changes is written."""
    return f"{output.removesuffix('.json')}.changes.json"


def _check(report: Report, output: str, labels: str | None) -> None:
    if report.settings.depth != FULL:
        raise DatasetError("a repair needs every pixel; validate with full depth")
    for path in (output, changes_path(output), labels):
        if path and os.path.exists(path):
            raise DatasetError(f"{path} exists; a repair never overwrites: remove it or choose another name")
    broken = [finding for finding in report.general if finding.code in ("malformed-json", "bad-category", "empty-set")]
    if broken:
        raise DatasetError(f"{broken[0].file}: {broken[0].found}; this cannot be repaired: {broken[0].remedy}")


def _fatal(inspection: Inspection, mended: set[str]) -> list[str]:
    """Codes of the errors that no new JSON mends."""
    codes = {finding.code for finding in inspection.record.findings if finding.severity == ERROR}
    fatal = sorted(codes - mended)
    return fatal or ([] if inspection.shapes is not None else ["label not read"])


def _entry(inspection: Inspection, **more: Any) -> dict[str, Any]:
    record = inspection.record
    return {"index": record.index, "image_id": record.image_id, "file_name": record.annotation["file_name"], **more}


def _mended(report: Report, inspection: Inspection, done: Repair) -> tuple[dict[str, Any], dict[str, Any]]:
    """New entries of ``images`` and ``annotations``."""
    record, shapes = inspection.record, inspection.shapes or {}
    assert record.image_path and record.label_path and inspection.size
    height, width = inspection.size
    image = {**record.image, "file_name": _below(record.image_path, report.source.image_root)}
    if any(finding.code == "json-size" for finding in record.findings) or "height" not in image:
        image.update(height=height, width=width)
    segments = _mended_segments(record.segments, shapes, report.categories)
    label_name = _below(record.label_path, report.source.panoptic_root)
    annotation = {**record.annotation, "file_name": label_name, "segments_info": segments}
    codes = sorted({finding.code for finding in record.findings if finding.severity == ERROR})
    if codes or image != record.image or annotation != record.annotation:
        done.changed.append(_entry(inspection, what=codes or ["names and defaults"]))
    return image, annotation


def _mended_segments(
    segments: list[Mapping[str, Any]], shapes: Mapping[int, Any], categories: Mapping[int, Any]
) -> list[dict[str, Any]]:
    kept: dict[int, dict[str, Any]] = {}
    for segment in segments:
        segment_id = segment.get("id")
        if not is_segment_id(segment_id) or segment_id not in shapes or segment_id in kept:
            continue
        if segment.get("category_id") not in categories:
            continue
        shape = shapes[segment_id]
        area = segment["area"] if segment.get("area") == shape.area else shape.area
        kept[segment_id] = {**segment, "area": area, "bbox": shape.bbox, "iscrowd": segment.get("iscrowd", 0)}
    return list(kept.values())


def _below(path: str, root: str) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _categories(report: Report, done: Repair) -> list[dict[str, Any]]:
    categories = []
    for category in report.content["categories"]:
        if category.get("isthing") not in (0, 1):
            done.notes.append(f"category {category['name']!r} had no isthing and counts as a thing now")
            category = {**category, "isthing": 1}
        categories.append(category)
    return categories


def _note_the_rest(report: Report, done: Repair) -> None:
    """Entries that were no usable record at all are left out too."""
    for finding in report.general:
        if finding.severity == ERROR and finding.code not in ("missing-isthing", "split-overlap"):
            done.notes.append(f"left out: {finding.code}, {finding.place}: {finding.found}")
        elif finding.code == "image-without-annotation":
            done.notes.append(f"left out: image {finding.image_id}: {finding.found}")


def _write_label(inspection: Inspection, annotation: Mapping[str, Any], folder: str) -> None:
    """Copy a label; one with pixels that no segment lists is written anew, with them void."""
    record, shapes = inspection.record, inspection.shapes or {}
    assert record.label_path
    target = Path(folder, annotation["file_name"])
    target.parent.mkdir(parents=True, exist_ok=True)
    listed = [segment["id"] for segment in annotation["segments_info"]]
    if set(listed) == set(shapes):
        shutil.copyfile(record.label_path, target)
        return
    with Image.open(record.label_path, formats=IMAGE_FORMATS) as stored:
        ids, exif = id_pixels(stored), stored.info.get("exif")
    kept = np.where(np.isin(ids, listed), ids, 0)
    Image.fromarray(ids_to_rgb(kept)).save(target, format="PNG", **({"exif": exif} if exif else {}))


def _write(path: str, content: Any) -> None:
    """All or nothing: the file appears when it is complete."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    unfinished = f"{path}.part"
    Path(unfinished).write_text(json.dumps(content), encoding="utf-8")
    os.replace(unfinished, path)
