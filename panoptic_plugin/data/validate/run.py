"""One pass over a dataset: the JSON, then every record in parallel, then what concerns several records."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm import tqdm

from panoptic_plugin.data.panoptic_json import read_json
from panoptic_plugin.data.validate.categories import check_categories, check_seen
from panoptic_plugin.data.validate.finding import ERROR, Finding, make_finding
from panoptic_plugin.data.validate.inspect import Inspection, inspect_record
from panoptic_plugin.data.validate.overlap import check_duplicates, check_overlap
from panoptic_plugin.data.validate.records import Record, check_records
from panoptic_plugin.data.validate.segments import is_segment_id, missing_iscrowd
from panoptic_plugin.data.validate.source import Settings, Source
from panoptic_plugin.errors import DatasetError


@dataclass
class Report:
    """What was found in one dataset.

    Attributes:
        content: the JSON as read; {} where it cannot be read.
        categories: by id.
        inspections: one a record that could be looked at.
        general: findings that belong to no such record; ``findings`` has all of them.
        seconds: how long it took.
    """

    source: Source
    settings: Settings
    content: dict[str, Any] = field(default_factory=dict, repr=False)
    categories: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)
    inspections: list[Inspection] = field(default_factory=list, repr=False)
    general: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def findings(self) -> list[Finding]:
        """Everything, errors first, then in the order of the records."""
        found = [*self.general, *(item for inspection in self.inspections for item in inspection.record.findings)]
        named = [replace(finding, dataset=self.source.name) for finding in found]
        return sorted(named, key=lambda finding: (finding.severity != ERROR, finding.index or 0))

    @property
    def num_errors(self) -> int:
        return sum(finding.severity == ERROR for finding in self.findings)


def validate(source: Source, settings: Settings, *, show_progress: bool = True) -> Report:
    """Look at everything in a dataset.

    Never raises for a fault of the dataset, however broken; only for folders that do not exist.

    Raises:
        DatasetError: a folder of the source does not exist.
    """
    begin = time.perf_counter()
    report = Report(source, settings)
    try:
        report.content = read_json(source.panoptic_json)
    except DatasetError as error:
        if not os.path.exists(source.panoptic_json):
            raise
        expected = "a JSON object with images, annotations and categories"
        report.general.append(make_finding("malformed-json", source.panoptic_json, found=error, expected=expected))
        return report
    path = source.panoptic_json
    report.categories, of_categories = check_categories(path, report.content.get("categories"))
    records, of_records = check_records(source, report.content)
    report.inspections = _inspect_all(report, records, show_progress)
    seen = _seen_categories(records)
    report.general += [
        *of_categories,
        *of_records,
        *missing_iscrowd(path, records),
        *(check_seen(path, report.categories, seen) if records else ()),
        *check_duplicates(report.inspections),
    ]
    report.seconds = time.perf_counter() - begin
    return report


def _inspect_all(report: Report, records: Sequence[Record], show_progress: bool) -> list[Inspection]:
    """In threads: decoding and check sums, which take the time, run outside the interpreter's lock."""

    def inspect(record: Record) -> Inspection:
        return inspect_record(report.source.panoptic_json, record, report.categories, report.settings)

    with ThreadPoolExecutor(report.settings.num_threads) as pool:
        results = pool.map(inspect, records)
        hide = None if show_progress else True  # None: hidden where stderr is no terminal
        return list(tqdm(results, total=len(records), desc=report.source.name, unit="image", disable=hide))


def _seen_categories(records: Sequence[Record]) -> set[int]:
    ids = (segment.get("category_id") for record in records for segment in record.segments)
    return {category for category in ids if is_segment_id(category) or category == 0}


def validate_together(
    sources: Sequence[Source], settings: Settings, *, others: Sequence[Source] = (), show_progress: bool = True
) -> list[Report]:
    """Validate several sets and compare their pictures.

    Args:
        sources: the sets to report on; each is compared with those before it.
        others: sets that are only compared with; their own faults are not reported.
    """
    compared = [validate(other, settings, show_progress=show_progress) for other in others]
    reports: list[Report] = []
    for source in sources:
        report = validate(source, settings, show_progress=show_progress)
        for other in (*compared, *reports):
            report.general += check_overlap(report.inspections, other.inspections, other.source.name)
        reports.append(report)
    return reports


def count_segments(report: Report) -> Mapping[int, list[int]]:
    """Areas of the segments of each known category; of the PNG where it was read, else what the JSON says."""
    areas: dict[int, list[int]] = {category: [] for category in report.categories}
    for inspection in report.inspections:
        for segment in inspection.record.segments:
            category, segment_id = segment.get("category_id"), segment.get("id")
            if not (is_segment_id(category) or category == 0) or category not in areas:
                continue
            shape = (inspection.shapes or {}).get(segment_id) if is_segment_id(segment_id) else None
            area = shape.area if shape else segment.get("area")
            if isinstance(area, (int, float)) and area > 0:
                areas[category].append(int(area))
    return areas
