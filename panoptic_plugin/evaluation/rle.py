"""COCO's compressed run-length codes of all classes of a label map, from one scan.

Source: ``rleEncode`` and ``rleToString`` of pycocotools, string for string
(https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c).
"""

from __future__ import annotations

import cv2
import numpy as np

from panoptic_plugin.evaluation.runs import shared_runs

BITS = 5  # of a number in one character; the sixth says that more follow, and 48 makes it printable


def encode_labels(labels: np.ndarray) -> dict[int, bytes]:
    """label -> the counts of its mask, for each label that occurs, ascending.

    Args:
        labels: integers (H, W).
    """
    if not labels.size:
        return {}
    # COCO's runs go down the columns.
    known = np.ascontiguousarray(labels, dtype=np.uint8 if labels.dtype == np.uint8 else np.int32)
    (values,), lengths = shared_runs(cv2.transpose(known))
    order = np.argsort(values, kind="stable")
    stops = np.cumsum(lengths)[order]
    starts = stops - lengths[order]
    values = values[order]
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    # Numbers of pixels outside and inside of the mask, in turns, and what is left after the last run.
    outside = starts - np.append(0, stops[:-1])
    outside[first] = starts[first]
    counts = np.stack([outside, stops - starts], axis=1).ravel()
    last = np.append(first[1:], len(values))
    rest = labels.size - stops[last - 1]
    counts = np.insert(counts, 2 * last, rest)
    firsts = 2 * first + np.arange(len(first))
    is_kept = np.ones(len(counts), dtype=bool)
    is_kept[firsts[1:] - 1], is_kept[-1] = rest[:-1] > 0, rest[-1] > 0
    codes, width = _characters(_differences(counts, firsts))
    width = np.where(is_kept, width, 0)
    text = codes[np.arange(codes.shape[1]) < width[:, None]].tobytes()
    ends = np.cumsum(np.add.reduceat(width, firsts)).tolist()
    begins = [0, *ends[:-1]]
    return {int(values[at]): text[b:e] for at, b, e in zip(first, begins, ends, strict=True)}


def _differences(counts: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """From the fourth count of a mask on, the difference to the one two before."""
    result = counts.copy()
    result[2:] -= counts[:-2]
    for position in range(3):
        at = firsts + position
        at = at[at < np.append(firsts[1:], len(counts))]
        result[at] = counts[at]
    return result


def _characters(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, most characters) and how many of them each number takes (N,)."""
    columns, width = [], np.zeros(len(numbers), dtype=np.int64)
    more = np.ones(len(numbers), dtype=bool)
    while more.any():
        width += more
        low = numbers & 31
        numbers = numbers >> BITS
        # The highest bit written is the sign.
        more = more & (numbers != np.where(low & 16, -1, 0))
        columns.append((low + 48 + 32 * more).astype(np.uint8))
    return np.stack(columns, axis=1), width
