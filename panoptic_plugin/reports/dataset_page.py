"""Drawn samples of a dataset as one HTML page that needs no other file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from panoptic_plugin.reports.dataset_samples import Sample, ShownSegment
from panoptic_plugin.reports.page import Cell, Table, number_cell, render
from panoptic_plugin.reports.pictures import make_picture


def html_page(title: str, samples: Sequence[Sample]) -> str:
    """The whole page: per sample the image, its segments and their list."""
    segments = [segment for sample in samples for segment in sample.segments]
    return render(
        "dataset.html",
        title=title,
        num_segments=len(segments),
        classes=", ".join(f"{name} ({number})" for name, number in _count(segments)),
        samples=[_content(sample) for sample in samples],
    )


def _count(segments: Sequence[ShownSegment]) -> list[tuple[str, int]]:
    return Counter(segment.name for segment in segments).most_common()


def _content(sample: Sample) -> dict[str, Any]:
    height, width = sample.image.shape[:2]
    content = ", ".join(f"{number} {name}" for name, number in _count(sample.segments)) or "no segments"
    return {
        "title": sample.file_name,
        "about": f"image id {sample.image_id}, {width}×{height} pixels, {len(sample.segments)} segments, "
        f"{sample.void:.1%} void",
        "warnings": _warnings(sample),
        "pictures": [
            make_picture(sample.image, f"Image {sample.file_name}", "Image", "jpeg"),
            make_picture(
                sample.picture, f"Segmentation of {sample.file_name}: {content}", "Segments: class and id", "jpeg"
            ),
        ],
        "table": _table(sample),
    }


def _warnings(sample: Sample) -> list[str]:
    found = (
        (sample.missing, "in the JSON without a pixel in the PNG"),
        (sample.unnamed, "in the PNG that the JSON does not name (drawn as void)"),
    )
    return [
        f"{len(ids)} ids {what}: {', '.join(map(str, ids[:8]))}{', …' if len(ids) > 8 else ''}"
        for ids, what in found
        if ids
    ]


def _table(sample: Sample) -> Table:
    rows = [
        [
            Cell(segment.name, header=True, color=segment.color),
            number_cell(segment.id, "{:d}"),
            number_cell(segment.area, "{:,d}"),
            Cell(_kind(segment)),
        ]
        for segment in sorted(sample.segments, key=lambda segment: -segment.area)
    ]
    return Table(f"Segments of {sample.file_name}", ["Class", "Id", "Pixels", "Kind"], rows, frozenset({1, 2}))


def _kind(segment: ShownSegment) -> str:
    return ("thing" if segment.is_thing else "stuff") + (", crowd" if segment.is_crowd else "")
