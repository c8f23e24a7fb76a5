"""Checks of one annotation's ``segments_info`` that need the JSON only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from panoptic_plugin.data.validate.finding import Finding, make_finding
from panoptic_plugin.data.validate.records import Record
from panoptic_plugin.data.validate.source import Settings

LARGEST_ID = (1 << 24) - 1


def check_segments(path: str, record: Record, categories: Mapping[int, Mapping[str, Any]], settings: Settings) -> None:
    """Note what is wrong with the segments in ``record.findings``."""
    seen: set[int] = set()
    for segment in record.segments:
        segment_id = segment.get("id")
        if not is_segment_id(segment_id):
            record.add("bad-segment-id", path, found=f"id {segment_id!r}", expected=f"1 to {LARGEST_ID}")
            continue
        if segment_id in seen:
            record.add("duplicate-segment-id", path, found="the id twice", expected="once", segment_id=segment_id)
        seen.add(segment_id)
        category = segment.get("category_id")
        if not _is_int(category) or category not in categories:
            found, expected = f"category_id {category!r}", "an id of 'categories'"
            record.add("unknown-category", path, found=found, expected=expected, segment_id=segment_id)
        if segment.get("iscrowd", 0) not in (0, 1):
            found = f"iscrowd {segment['iscrowd']!r}"
            record.add("malformed-record", path, found=found, expected="0 or 1", segment_id=segment_id)
    _check_number(path, record, categories, settings)


def is_segment_id(value: Any) -> TypeGuard[int]:
    """Whether a PNG can hold this id: 1 to 2**24 - 1; 0 is void."""
    return _is_int(value) and 1 <= value <= LARGEST_ID


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_number(path: str, record: Record, categories: Mapping[int, Mapping[str, Any]], settings: Settings) -> None:
    if settings.max_segments is None:
        return
    counted = [segment for segment in record.segments if _must_be_predicted(segment, categories, settings.things_only)]
    if len(counted) > settings.max_segments:
        found = f"{len(counted)} {'things' if settings.things_only else 'segments'}"
        expected = f"at most {settings.max_segments} ({settings.max_segments_key})"
        record.add("too-many-segments", path, found=found, expected=expected)


def _must_be_predicted(
    segment: Mapping[str, Any], categories: Mapping[int, Mapping[str, Any]], things_only: bool
) -> bool:
    category = segment.get("category_id")
    known = categories.get(category) if _is_int(category) else None
    return known is not None and not segment.get("iscrowd") and bool(known.get("isthing") or not things_only)


def missing_iscrowd(path: str, records: list[Record]) -> list[Finding]:
    """One warning for all segments that lack the key."""
    missing = sum("iscrowd" not in segment for record in records for segment in record.segments)
    if not missing:
        return []
    return [make_finding("missing-iscrowd", path, found=f"{missing} segments without iscrowd", expected="0 or 1")]
