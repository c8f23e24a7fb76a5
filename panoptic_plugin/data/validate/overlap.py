"""The same picture twice: within a set, or in two splits, whatever the files are called."""

from __future__ import annotations

from collections.abc import Sequence

from panoptic_plugin.data.validate.finding import Finding, make_finding
from panoptic_plugin.data.validate.inspect import Inspection


def check_duplicates(inspections: Sequence[Inspection]) -> list[Finding]:
    """Pictures that stand twice in one set."""
    first: dict[tuple, Inspection] = {}
    findings = []
    for inspection in inspections:
        if not inspection.fingerprint:
            continue
        known = first.setdefault(inspection.fingerprint, inspection)
        if known is not inspection:
            findings.append(_finding("duplicate-image", inspection, known, "one of them"))
    return findings


def check_overlap(ours: Sequence[Inspection], theirs: Sequence[Inspection], their_name: str) -> list[Finding]:
    """Pictures of ours that another set holds too."""
    known = {inspection.fingerprint: inspection for inspection in theirs if inspection.fingerprint}
    return [
        _finding("split-overlap", inspection, known[inspection.fingerprint], f"a picture that is not in {their_name}")
        for inspection in ours
        if inspection.fingerprint in known
    ]


def _finding(code: str, inspection: Inspection, other: Inspection, expected: str) -> Finding:
    record = inspection.record
    return make_finding(
        code,
        record.image_path or "",
        found=f"the picture of {other.record.image_path}",
        expected=expected,
        index=record.index,
        image_id=record.image_id,
    )
