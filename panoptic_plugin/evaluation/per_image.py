"""What became of each segment of an image, and the files that say so; see docs/evaluation.md, "Files".

Shapes: R runs of pixels (see ``runs.py``), T true and P predicted segments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from panoptic_plugin.evaluation import pq
from panoptic_plugin.evaluation.runs import Runs, pixels_by_value
from panoptic_plugin.structures import number_pixels

if TYPE_CHECKING:
    from panoptic_plugin.evaluation.panoptic import ImageQuality

Segments = Sequence[Mapping[str, Any]]


class SegmentOutcome(NamedTuple):
    """A segment as a line of ``per_image.jsonl`` has it.

    Attributes:
        kind: "match", "missed", "false" or "ignored".
        category: contiguous.
        area, bbox: pixels, and x, y, width, height, of the true segment; of the predicted one where there is none.
        iou: 0 without a match.
        true_id, predicted_id: ids in the pictures of the ground truth and of the predictions.
    """

    kind: str
    category: int
    area: int
    iou: float
    bbox: tuple[int, int, int, int]
    true_id: int | None
    predicted_id: int | None


def outcomes(
    matching: pq.Matching, runs: Runs, true: Segments, predicted: Segments, width: int
) -> tuple[SegmentOutcome, ...]:
    """Every segment of an image that has a pixel: matched, missed and ignored true ones, then predicted ones."""
    places = spans(runs.lengths, width)
    true_extents, predicted_extents = (
        extents(values, runs.lengths, places, [one["id"] for one in segments])
        for values, segments in zip(runs.values, (true, predicted), strict=True)
    )
    pair_of = {true_id: (predicted_id, iou) for true_id, predicted_id, iou in matching.pairs}
    saved_ids = {one["id"]: one["saved_id"] for one in predicted}
    used, missed, false = {pair[1] for pair in matching.pairs}, set(matching.missed), set(matching.false)
    found = []
    for segment, (area, box) in zip(true, true_extents, strict=True):
        partner, iou = pair_of.get(segment["id"], (None, 0.0))
        kind = "match" if partner is not None else "missed" if segment["id"] in missed else "ignored"
        names = segment.get("dataset_id", segment["id"]), saved_ids.get(partner)
        found.append(SegmentOutcome(kind, segment["category_id"], area, iou, box, *names))
    for segment, (area, box) in zip(predicted, predicted_extents, strict=True):
        if segment["id"] not in used and area:
            kind = "false" if segment["id"] in false else "ignored"
            found.append(SegmentOutcome(kind, segment["category_id"], area, 0.0, box, None, segment["saved_id"]))
    return tuple(found)


class Spans(NamedTuple):
    """First and last row and column of each run, int32 (R,); of one that crosses rows all columns."""

    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray


def spans(lengths: np.ndarray, width: int) -> Spans:
    """Where runs lie, from their lengths (R,), row after row, and the width of the image."""
    stops = np.cumsum(lengths).astype(np.int32)
    starts = stops - lengths.astype(np.int32)
    top, bottom = starts // width, (stops - 1) // width
    crosses = bottom > top  # then it holds the end of a row and the begin of the next
    left, right = starts - top * width, stops - 1 - bottom * width
    return Spans(top, bottom, np.where(crosses, 0, left), np.where(crosses, width - 1, right))


def extents(
    values: np.ndarray, lengths: np.ndarray, places: Spans, ids: Sequence[int]
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """(pixels, (x, y, width, height)) of each id; zeros for one without a pixel.

    Args:
        values: int (R,), the id of each run.
        lengths: int64 (R,), their pixels.
        places: where they lie.
        ids: which to look for.
    """
    # Of 16 bits, because NumPy sorts those in one pass.
    numbers = number_pixels(values, ids, dtype=np.uint16 if len(ids) < 1 << 16 else np.intp)
    areas = pixels_by_value(numbers, lengths, len(ids) + 1)[1:].tolist()
    order = np.argsort(numbers, kind="stable")
    order = order[np.searchsorted(numbers, 1, sorter=order) :]
    if not len(order):
        return [(area, (0, 0, 0, 0)) for area in areas]
    # Each number's runs stand together now: one reduction a side of the boxes.
    ordered = numbers[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    x, y = (np.minimum.reduceat(side[order], first) for side in (places.left, places.top))
    x_last, y_last = (np.maximum.reduceat(side[order], first) for side in (places.right, places.bottom))
    boxes = np.stack([x, y, x_last + 1 - x, y_last + 1 - y], axis=1).tolist()
    box_of = dict(zip(ordered[first].tolist(), map(tuple, boxes), strict=True))
    return [(area, box_of.get(number, (0, 0, 0, 0))) for number, area in enumerate(areas, start=1)]


def unpredicted_share(runs: Runs, predicted: Segments) -> float:
    """Percent of the labelled pixels (true number above 0) for which nothing was predicted."""
    is_labelled = runs.values[0] > 0
    is_empty = number_pixels(runs.values[1], [one["id"] for one in predicted]) == 0
    labelled = int(runs.lengths[is_labelled].sum())
    return 100 * int(runs.lengths[is_labelled & is_empty].sum()) / max(labelled, 1)


def image_lines(
    names: Iterable[Mapping[str, Any]],
    qualities: Iterable[ImageQuality],
    confusions: Iterable[Sequence[tuple[int, int]]] | None,
    num_classes: int,
) -> str:
    """The content of ``per_image.jsonl``.

    Args:
        names: image_id, file_name and label of each image.
        qualities: its part in PQ.
        confusions: (cell, pixels) of its confusion matrix, cells of (C + 1, C + 1) row after row.
        num_classes: C.
    """
    cells = [()] * len(qualities := list(qualities)) if confusions is None else list(confusions)
    lines = [
        json.dumps({**name, **_image(quality), "confusion": [[*divmod(c, num_classes + 1), n] for c, n in confusion]})
        for name, quality, confusion in zip(names, qualities, cells, strict=True)
    ]
    return "".join(line + "\n" for line in lines)


def _image(record: ImageQuality) -> dict[str, Any]:
    counts = dict(record.counts)
    mean = pq.average(counts, counts)
    return {
        "height": record.size[0],
        "width": record.size[1],
        **{name: 100 * getattr(mean, name) if mean else None for name in ("pq", "sq", "rq")},
        "void": record.void,
        "categories": {
            str(category): {"tp": len(one.ious), "fp": one.fp, "fn": one.fn, "iou_sum": sum(one.ious)}
            for category, one in counts.items()
        },
        "segments": [segment._asdict() for segment in record.segments],
    }


def confusion_json(records: Iterable[Sequence[tuple[int, int]]], class_names: Sequence[str], source: str) -> str:
    """The content of ``confusion.json`` from the (cell, pixels) of all images."""
    size = len(class_names) + 1
    pixels = np.zeros(size * size, dtype=np.int64)
    for record in records:
        for cell, number in record:
            pixels[cell] += number
    return json.dumps({"classes": list(class_names), "source": source, "pixels": pixels.reshape(size, size).tolist()})
