"""Categories of enlarged logits on a CPU, exactly, without enlarging most of them.

Four neighbouring logits span a cell of stride x stride pixels, each of which is a mean of the four with fixed weights.
A class that leads at all four leads in the whole cell. Only mixed cells, and those of things, whose probabilities are
wanted, are enlarged, all pixels of a cell by one product of matrices. Its rounding differs from that of PyTorch's
interpolation; the few pixels where that could decide are left to the latter.

Shapes: C classes, (h, w) logits, s stride, (h + 1, w + 1) cells with those at the image border, N some of the cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from panoptic_plugin.postprocessing.semantic import SemanticLogits

# What fits a cache of the second or third level, and bounds the memory.
LOGITS_AT_A_TIME = 1 << 19
# The lead of one class over another differs between two float32 interpolations by less than this, relative to the
# largest logit (worst case 1e-6).
ROUNDING = 1.5e-6


def classify_cells(
    logits: SemanticLogits, is_thing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The fields of ``SemanticMap``, see there and :func:`~panoptic_plugin.postprocessing.semantic.classify`.

    Args:
        logits: on the CPU, of a stride that is a power of two above 1.
        is_thing: bool (C,).
    """
    low = np.pad(logits.logits.numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
    stride, (height, width) = logits.stride, logits.size
    tolerance = ROUNDING * max(float(low.max()), -float(low.min()))
    cell_labels, mixed = _uniform_cells(low, tolerance)
    # Axes cell row, row in it, cell column, column in it: seen as one image they are (h + 1) s by (w + 1) s.
    shape = (mixed.shape[0], stride, mixed.shape[1], stride)
    labels = np.broadcast_to(cell_labels[:, None, :, None], shape).copy()
    uncertain, contenders = [np.zeros((2, 0), dtype=np.int64)], [np.zeros((len(low), 0), dtype=bool)]
    top, log_sum = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for is_mixed, wanted in ((True, mixed), (False, ~mixed & is_thing[cell_labels])):
        for row, column in _blocks(wanted, LOGITS_AT_A_TIME // (len(low) * stride**2)):
            values = _enlarge(low, row, column, stride)
            if is_mixed:
                found, lead = first_highest(values)
                labels[row, :, column] = found
                cell, *inside = (~(lead > tolerance)).nonzero()
                uncertain.append(np.stack([row[cell], column[cell]]) * stride + inside - stride // 2)
                close = values[:, cell, inside[0], inside[1]]
                contenders.append(~(close < close.max(axis=0) - tolerance))
            highest = values.max(axis=0)
            top[row, :, column] = highest
            np.exp(np.subtract(values, highest, out=values), out=values)
            log_sum[row, :, column] = np.log(values.sum(axis=0)) + highest
    # The outermost cells reach half their size beyond the image.
    image = (slice(stride // 2, stride // 2 + height), slice(stride // 2, stride // 2 + width))
    cut = [part.reshape(shape[0] * stride, shape[2] * stride)[image] for part in (labels, top, log_sum)]
    labels = np.ascontiguousarray(cut[0])
    y, x = np.concatenate(uncertain, axis=1)
    _settle(logits, labels, y, x, np.concatenate(contenders, axis=1))
    things = is_thing[labels]
    return labels, np.flatnonzero(things), cut[1][things], cut[2][things]


def _uniform_cells(low: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """(class at the first corner, bool: not sure to be the highest in the whole cell) of each cell, from (C, h, w)."""
    labels, lead = first_highest(low)
    sure = lead > tolerance
    mixed = ~(sure[:-1, :-1] & sure[:-1, 1:] & sure[1:, :-1] & sure[1:, 1:])
    for corner in (labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]):
        mixed |= corner != labels[:-1, :-1]
    return labels[:-1, :-1], mixed


def _blocks(wanted: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the wanted cells, some at a time."""
    row, column = wanted.nonzero()
    size = max(1, size)
    return [(row[start : start + size], column[start : start + size]) for start in range(0, len(row), size)]


def _enlarge(low: np.ndarray, row: np.ndarray, column: np.ndarray, stride: int) -> np.ndarray:
    """float32 (C, N, s, s): the pixels of the cells."""
    corner = (row * low.shape[2] + column)[:, None] + np.array([0, 1, low.shape[2], low.shape[2] + 1])
    corners = low.reshape(len(low), -1).take(corner, axis=1)
    along = (np.arange(stride, dtype=np.float32) + 0.5) / stride
    along = np.stack([1 - along, along])
    weights = (along[:, None, :, None] * along[None, :, None, :]).reshape(4, stride**2)
    return (corners.reshape(-1, 4) @ weights).reshape(len(low), len(row), stride, stride)


def _settle(logits: SemanticLogits, labels: np.ndarray, y: np.ndarray, x: np.ndarray, contenders: np.ndarray) -> None:
    """Set labels (H, W) at U pixels to what PyTorch's interpolation says; contenders are bool (C, U)."""
    stride, (height, width) = logits.stride, labels.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    y, x, contenders = y[inside], x[inside], contenders[:, inside]
    for start in (np.unique(y // stride) * stride).tolist():
        rows = slice(start, min(start + stride, height))
        some = ((y >= rows.start) & (y < rows.stop)).nonzero()[0]
        classes = contenders[:, some].any(axis=1).nonzero()[0]
        planes = (logits.rows(rows, slice(category, category + 1))[0].numpy() for category in classes.tolist())
        values = np.stack([plane[y[some] - start, x[some]] for plane in planes])
        labels[y[some], x[some]] = classes[values.argmax(axis=0)]


def first_highest(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First of the highest along axis 0, and its lead over the second highest value (0 where there are several).

    Returns:
        Labels in uint8 where that holds them, else in int64, and float32.
    """
    second = np.full_like(values[0], -np.inf)
    labels, highest = _climb(values, second)
    return labels, highest - second


def highest_labels(values: np.ndarray) -> np.ndarray:
    """The labels of :func:`first_highest`, in half of the time."""
    return _climb(values, None)[0]


def _climb(values: np.ndarray, second: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    # One class after the other is three times as fast as ``argmax``, which jumps through the memory.
    label_type = np.uint8 if len(values) <= 256 else np.int64
    highest, labels = values[0].copy(), np.zeros(values.shape[1:], dtype=label_type)
    lower = np.empty_like(highest)
    for category in range(1, len(values)):
        higher = (values[category] > highest).view(np.uint8)
        np.maximum(labels, higher * label_type(category), out=labels)
        if second is not None:
            np.minimum(highest, values[category], out=lower)
            np.maximum(second, lower, out=second)
        np.maximum(highest, values[category], out=highest)
    return labels, highest
