"""Panoptic quality from id maps: pure counts, no files (https://arxiv.org/abs/1801.00868, section 4.1).

The rules are those of the ``panopticapi`` reference, digit for digit:

* a predicted and a true segment of one category match when their IoU exceeds 0.5; true void pixels inside the
  predicted segment do not count into the union;
* a true crowd group never matches and is never missed;
* an unmatched predicted segment is forgiven when more than half of it lies on void or on its category's crowd.

Shapes: id maps are int (H, W). A segment is a dict with ``id`` and ``category_id``; a true one may have ``iscrowd``.
Areas are counted in the maps, never taken from the dicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from panoptic_plugin.evaluation.runs import Runs, pixels_by_pair, shared_runs
from panoptic_plugin.structures import number_pixels

Segments = Sequence[Mapping[str, Any]]


class Counts(NamedTuple):
    """What one category contributes to PQ.

    Attributes:
        ious: IoU of each match, so there are ``len(ious)`` true positives. They stay apart because the sum of the
            reference runs over single matches, and the order of additions decides the last digit.
        fp: predicted segments without a match.
        fn: true segments without a match.
    """

    ious: tuple[float, ...] = ()
    fp: int = 0
    fn: int = 0


class Quality(NamedTuple):
    """PQ = SQ * RQ of one category or the average of several; all from 0 to 1. ``num`` counts the categories."""

    pq: float
    sq: float
    rq: float
    num: int = 1


def count_image(
    true_ids: np.ndarray,
    true_segments: Segments,
    predicted_ids: np.ndarray,
    predicted_segments: Segments,
    *,
    true_void: int = 0,
) -> dict[int, Counts]:
    """Match the segments of one image.

    Args:
        true_ids, predicted_ids: int (H, W).
        true_segments: the true segments; pixels of ``true_void`` belong to none of them.
        predicted_segments: the predicted segments; pixels of all other ids are void.

    Returns:
        category id -> :class:`Counts`, only the categories that occur.

    Raises:
        ValueError: the maps differ in size.
    """
    if true_ids.shape != predicted_ids.shape:
        raise ValueError(f"the prediction has shape {predicted_ids.shape}, the ground truth {true_ids.shape}")
    return count_runs(shared_runs(true_ids, predicted_ids), true_segments, predicted_segments, true_void=true_void)


def count_runs(
    runs: Runs, true_segments: Segments, predicted_segments: Segments, *, true_void: int = 0
) -> dict[int, Counts]:
    """As :func:`count_image`, from the runs of the true and the predicted id map, for who needs them anyway."""
    matching = match_runs(runs, true_segments, predicted_segments, true_void=true_void)
    return matching.counts(true_segments, predicted_segments)


class Matching(NamedTuple):
    """Which segments of an image belong together; all are named by their ids, in ascending order.

    Attributes:
        pairs: (true, predicted, IoU) of the matches: at most one a segment.
        missed: true ones without a match, crowds left out.
        false: predicted ones without a match, forgiven and empty ones left out.
    """

    pairs: tuple[tuple[int, int, float], ...]
    missed: tuple[int, ...]
    false: tuple[int, ...]

    def counts(self, true_segments: Segments, predicted_segments: Segments) -> dict[int, Counts]:
        """What each category that occurs contributes to PQ."""
        true, predicted = (
            {segment["id"]: segment["category_id"] for segment in segments}
            for segments in (true_segments, predicted_segments)
        )
        ious: dict[int, list[float]] = {}
        for segment_id, _, iou in self.pairs:
            ious.setdefault(true[segment_id], []).append(iou)
        false = Counter(predicted[segment_id] for segment_id in self.false)
        missed = Counter(true[segment_id] for segment_id in self.missed)
        return {
            category: Counts(tuple(ious.get(category, ())), false[category], missed[category])
            for category in sorted({*ious, *missed, *false})
        }


def match_runs(
    runs: Runs,
    true_segments: Segments,
    predicted_segments: Segments,
    *,
    true_void: int = 0,
    boundary: Runs | None = None,
) -> Matching:
    """Match the segments of one image, from the runs of the true and the predicted id map; see :func:`count_image`.

    Args:
        boundary: the runs of both maps without the inside of segments. The lower one of both IoUs counts then.
    """
    true = sorted(true_segments, key=lambda segment: segment["id"])
    predicted = sorted(predicted_segments, key=lambda segment: segment["id"])
    overlap = _overlaps(runs, true, predicted, true_void)
    matches = _match(overlap, true, predicted)
    if boundary is not None:
        on_boundary = _match(_overlaps(boundary, true, predicted, true_void), true, predicted)
        iou_of = {(row, column): iou for row, column, iou in on_boundary}
        matches = [
            (row, column, min(iou, iou_of[row, column])) for row, column, iou in matches if (row, column) in iou_of
        ]
    found, used = {row for row, _, _ in matches}, {column for _, column, _ in matches}
    missed = [segment["id"] for row, segment in enumerate(true) if row not in found and not segment.get("iscrowd", 0)]
    false = _false_positives(overlap, true_segments, true, predicted, used)
    pairs = tuple((true[row]["id"], predicted[column]["id"], iou) for row, column, iou in matches)
    return Matching(pairs, tuple(missed), tuple(false))


def _overlaps(runs: Runs, true: Segments, predicted: Segments, true_void: int) -> np.ndarray:
    """Pixels shared by each pair, int64 (T + 2, P + 1): row 0 and column 0 are other ids, the last row is void."""
    true_ids, predicted_ids = runs.values
    rows = number_pixels(true_ids, [segment["id"] for segment in true], last=true_void)
    columns = number_pixels(predicted_ids, [segment["id"] for segment in predicted])
    return pixels_by_pair(rows, columns, runs.lengths, (len(true) + 2, len(predicted) + 1))


def _match(overlap: np.ndarray, true: Segments, predicted: Segments) -> list[tuple[int, int, float]]:
    """(true, predicted, IoU) of the matches, in the order of the true ids: at most one match a segment exists."""
    true_areas = overlap.sum(axis=1)
    predicted_areas = overlap.sum(axis=0)
    on_void = overlap[-1]
    matches = []
    for row, column in zip(*np.nonzero(overlap[1:-1, 1:]), strict=True):
        if true[row].get("iscrowd", 0) or true[row]["category_id"] != predicted[column]["category_id"]:
            continue
        shared = int(overlap[row + 1, column + 1])
        union = int(predicted_areas[column + 1]) + int(true_areas[row + 1]) - shared - int(on_void[column + 1])
        if shared / union > 0.5:
            matches.append((int(row), int(column), shared / union))
    return matches


def _false_positives(
    overlap: np.ndarray, true_as_given: Segments, true: Segments, predicted: Segments, matched: set[int]
) -> list[int]:
    # Where a category has several crowd groups, the reference looks at the last one of the list alone.
    numbers = {segment["id"]: number for number, segment in enumerate(true)}
    crowd_of = {
        segment["category_id"]: numbers[segment["id"]] for segment in true_as_given if segment.get("iscrowd", 0)
    }
    areas = overlap.sum(axis=0)
    false = []
    for number, segment in enumerate(predicted):
        area = int(areas[number + 1])
        if number in matched or not area:
            continue
        category = segment["category_id"]
        forgiven = int(overlap[-1, number + 1])
        if category in crowd_of:
            forgiven += int(overlap[crowd_of[category] + 1, number + 1])
        if forgiven / area <= 0.5:
            false.append(segment["id"])
    return false


def accumulate(images: Iterable[Mapping[int, Counts]]) -> dict[int, Counts]:
    """The counts of all images together; the order of the images decides the last digit of later sums."""
    ious: dict[int, list[float]] = {}
    errors: dict[int, tuple[int, int]] = {}
    for image in images:
        for category, counts in image.items():
            ious.setdefault(category, []).extend(counts.ious)
            fp, fn = errors.get(category, (0, 0))
            errors[category] = (fp + counts.fp, fn + counts.fn)
    return {category: Counts(tuple(ious[category]), *errors[category]) for category in sorted(ious)}


def quality(counts: Counts) -> Quality | None:
    """PQ, SQ and RQ of one category; None for one that neither the truth nor the prediction shows."""
    tp = len(counts.ious)
    if tp + counts.fp + counts.fn == 0:
        return None
    iou_sum = 0.0
    for iou in counts.ious:  # not sum(): Python 3.12 compensates rounding there, and the reference does not
        iou_sum += iou
    weight = tp + 0.5 * counts.fp + 0.5 * counts.fn
    return Quality(pq=iou_sum / weight, sq=iou_sum / tp if tp else 0.0, rq=tp / weight)


def average(counts: Mapping[int, Counts], categories: Iterable[int]) -> Quality | None:
    """Mean over those of ``categories`` that occur; None where none of them does."""
    qualities = [quality(counts[category]) for category in categories if category in counts]
    present = [one for one in qualities if one is not None]
    if not present:
        return None
    pq = sq = rq = 0.0
    for one in present:
        pq, sq, rq = pq + one.pq, sq + one.sq, rq + one.rq
    return Quality(pq / len(present), sq / len(present), rq / len(present), len(present))
