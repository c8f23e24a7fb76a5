"""One record on disk: its image, its label, and both against the JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from panoptic_plugin.data.segments import SegmentShape
from panoptic_plugin.data.validate.files import IMAGE, PANOPTIC, SEMANTIC, Probe, probe
from panoptic_plugin.data.validate.pixels import check_pixels, measure_ids
from panoptic_plugin.data.validate.records import Record
from panoptic_plugin.data.validate.segments import check_segments
from panoptic_plugin.data.validate.source import Settings


@dataclass
class Inspection:
    """What was seen of a record; its findings are in ``record.findings``.

    Attributes:
        size: (height, width) of the upright image, None where it cannot be read.
        fingerprint: equal for equal pictures, () where it cannot be read.
        shapes: area and box of the label's ids, None where its pixels were not read.
    """

    record: Record
    size: tuple[int, int] | None = None
    fingerprint: tuple = ()
    shapes: dict[int, SegmentShape] | None = field(default=None, repr=False)


def inspect_record(
    path: str, record: Record, categories: Mapping[int, Mapping[str, Any]], settings: Settings
) -> Inspection:
    """Look at everything that belongs to one record.

    Args:
        path: the JSON.
        record: gets the findings.
        categories: by id.
        settings: how to look.
    """
    check_segments(path, record, categories, settings)
    inspection = Inspection(record)
    image = _probe(record, record.image_path, settings, IMAGE)
    label = _probe(record, record.label_path, settings, PANOPTIC)
    semantic = _probe(record, record.semantic_path, settings, SEMANTIC)
    if image is not None:
        inspection.size, inspection.fingerprint = image.upright, image.fingerprint
        _check_image(path, record, image)
    _check_size(record, image, record.semantic_path, semantic)
    if _check_size(record, image, record.label_path, label) and label is not None and label.ids is not None:
        inspection.shapes = measure_ids(label.ids)
        check_pixels(path, record, inspection.shapes)
    return inspection


def _probe(record: Record, path: str | None, settings: Settings, kind: str) -> Probe | None:
    if path is None:
        return None

    def report(code: str, found: object, expected: object) -> None:
        record.add(code, path, found=found, expected=expected)

    return probe(path, settings, report, kind=kind)


def _check_image(path: str, record: Record, image: Probe) -> None:
    if image.orientation != 1:
        found = f"orientation {image.orientation}"
        record.add("exif-rotation", record.image_path or "", found=found, expected="upright pixels")
    if "height" not in record.image and "width" not in record.image:
        return
    said = (record.image.get("height"), record.image.get("width"))
    if said not in (image.upright, image.size):
        record.add("json-size", path, found=f"{said[0]}x{said[1]}", expected=f"{_text(image.upright)} of the image")


def _check_size(record: Record, image: Probe | None, path: str | None, label: Probe | None) -> bool:
    """Whether the label's pixels can be compared; notes a size that is not the image's."""
    if image is None or label is None or _fits(label, image):
        return True
    expected = f"{_text(image.upright)} as {os.path.basename(record.image_path or '')}"
    record.add("wrong-size", path or "", found=_text(label.size), expected=expected)
    return False


def _fits(label: Probe, image: Probe) -> bool:
    """Whether the label has the image's size, upright or drawn on the pixels as they are stored."""
    return label.upright == image.upright or label.size == image.size


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
