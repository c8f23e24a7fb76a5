"""A report as a table for the terminal and as JSON for programs."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from panoptic_plugin.data.validate.finding import ERROR, Finding
from panoptic_plugin.data.validate.run import Report, count_segments

MAX_ROWS = 40
WIDTHS = {"code": 22, "where": 30, "file": 44, "found": 44, "expected": 36}


def format_report(report: Report, max_rows: int = MAX_ROWS) -> str:
    """One line of totals; then a table of the findings, at most ``max_rows``, and one of the remedies."""
    findings = report.findings
    blocks = [summary_line(report)]
    if findings:
        blocks.append(_table(findings[:max_rows], report))
        if len(findings) > max_rows:
            blocks.append(f"... and {len(findings) - max_rows} more; --json-report FILE has all of them")
        blocks.append(_remedies(findings))
    return "\n".join(blocks)


def summary_line(report: Report) -> str:
    """Totals in one line."""
    errors, warnings = report.num_errors, len(report.findings) - report.num_errors
    segments = sum(len(inspection.record.segments) for inspection in report.inspections)
    an_image = segments_per_image(report)
    verdict = "clean" if not errors and not warnings else f"{_plural(errors, 'error')}, {_plural(warnings, 'warning')}"
    return (
        f"{report.source.name}: {verdict} in {len(report.inspections)} images with {segments} segments of "
        f"{len(report.categories)} classes, {an_image['median']} an image and at most {an_image['max']} "
        f"({report.settings.depth}, {report.seconds:.1f} s)"
    )


def segments_per_image(report: Report) -> dict[str, int]:
    """Numbers of segments that a half, nine of ten, 99 of 100 and all of the images do not exceed."""
    ascending = sorted(len(inspection.record.segments) for inspection in report.inspections) or [0]
    shares = {"median": 0.5, "90%": 0.9, "99%": 0.99, "max": 1.0}
    return {name: ascending[round(share * (len(ascending) - 1))] for name, share in shares.items()}


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _table(findings: Sequence[Finding], report: Report) -> str:
    rows = [
        (item.severity, item.code, item.place, _short_path(item.file, report), item.found, item.expected)
        for item in findings
    ]
    headers = ["", *WIDTHS]
    return tabulate(rows, headers=headers, tablefmt="simple", maxcolwidths=[None, *WIDTHS.values()])


def _short_path(path: str, report: Report) -> str:
    """Relative to the folder all files of the dataset share."""
    source = report.source
    roots = [
        os.path.abspath(p) for p in (source.image_root, source.panoptic_root, os.path.dirname(source.panoptic_json))
    ]
    common = os.path.commonpath(roots)
    absolute = os.path.abspath(path)
    return os.path.relpath(absolute, common) if len(common) > 1 and absolute.startswith(common + os.sep) else path


def _remedies(findings: Sequence[Finding]) -> str:
    counts = Counter((finding.severity != ERROR, finding.code, finding.remedy) for finding in findings)
    rows = [(count, code, remedy) for (_, code, remedy), count in sorted(counts.items())]
    return "\nWhat to do:\n" + tabulate(rows, tablefmt="plain")


def as_json(reports: Sequence[Report]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "errors": sum(report.num_errors for report in reports),
        "warnings": sum(len(report.findings) - report.num_errors for report in reports),
        "datasets": [_dataset(report) for report in reports],
    }


def _dataset(report: Report) -> dict[str, Any]:
    source = report.source
    areas = count_segments(report)
    return {
        "name": source.name,
        "panoptic_json": source.panoptic_json,
        "image_root": source.image_root,
        "panoptic_root": source.panoptic_root,
        "depth": report.settings.depth,
        "images": len(report.inspections),
        "segments_per_image": segments_per_image(report),
        "seconds": round(report.seconds, 3),
        "classes": [
            {"id": id_, "name": str(report.categories[id_]["name"]), "segments": len(sizes), "pixels": sum(sizes)}
            for id_, sizes in sorted(areas.items())
        ],
        "findings": [finding.as_dict() for finding in report.findings],
    }


def write_json(path: str, reports: Sequence[Report]) -> None:
    """Write :func:`as_json`, with the folders it needs."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(as_json(reports), indent=1), encoding="utf-8")
