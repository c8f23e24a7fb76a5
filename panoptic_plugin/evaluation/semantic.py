"""Mean IoU of semantic segmentation from one confusion matrix.

Equal to ``SemSegEvaluator`` of Detectron2 0.6 and, for the Cityscapes classes, to cityscapesscripts'
``evalPixelLevelSemanticLabeling``. Detectron2's main differs in one case: a class that is predicted and never there
does not count into its mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.panoptic import check_size
from panoptic_plugin.evaluation.runs import pixels_by_pair, shared_runs

# Values of one class worked on at a time: with the running maximum and the labels they stay in a second-level cache.
PIXELS_AT_A_TIME = 1 << 15


class MeanIoU:
    """mIoU, frequency weighted IoU, mean and overall pixel accuracy, and the IoU of each class.

    Args:
        class_names: by contiguous category id.
        label_divisor: used where a model gives a panoptic map and no ``sem_seg``.
    """

    task = "sem_seg"

    def __init__(self, *, class_names: Sequence[str], label_divisor: int = 1000):
        self.class_names = list(class_names)
        self._label_divisor = label_divisor

    def count(self, truth: Truth, output: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
        """The occupied cells of the image's confusion matrix: most of 133 x 133 are empty."""
        labels = predicted_labels(output, self._label_divisor)
        check_size(truth, labels.shape)
        num_classes = len(self.class_names)
        if labels.size and int(labels.max()) >= num_classes:
            raise DatasetError(
                f"the prediction for image {truth.image_id} holds category {int(labels.max())}, "
                f"the dataset has {num_classes}; compare MODEL.SEM_SEG_HEAD.NUM_CLASSES with the dataset"
            )
        true, category_of = true_categories(truth, num_classes)
        cells = confusion(labels, true, num_classes, category_of).ravel()
        return tuple((int(cell), int(cells[cell])) for cell in np.flatnonzero(cells))

    def summarize(self, records: Sequence[tuple[tuple[int, int], ...]]) -> dict[str, float]:
        size = len(self.class_names) + 1
        cells = np.zeros(size * size, dtype=np.int64)
        for record in records:
            for cell, pixels in record:
                cells[cell] += pixels
        return scores(cells.reshape(size, size), self.class_names)


def predicted_labels(output: Mapping[str, Any], label_divisor: int) -> np.ndarray:
    """Integer (H, W) of categories, negative where there is none: ``sem_seg`` logits (C, H, W) or a label map (H, W);
    the categories of ``panoptic_seg`` where there is neither."""
    semantic = output.get("sem_seg")
    if semantic is None:
        ids = output["panoptic_seg"][0].cpu().numpy()
        return np.where(ids < 0, -1, ids // label_divisor)
    if semantic.ndim == 2:
        return semantic.cpu().numpy()
    if semantic.device.type == "cpu":
        return running_argmax(semantic)
    # Labels are narrowed before they leave the device.
    return semantic.argmax(dim=0).to(torch.int16).cpu().numpy()


def running_argmax(logits: torch.Tensor) -> np.ndarray:
    """argmax over the first dimension of floats (C, H, W) on the CPU; the first of equal values wins.

    A running maximum over some rows at a time reads memory in order and once; ``torch.argmax`` takes ten times as long.

    Returns:
        (H, W) of uint8 where that holds the classes, else int64.
    """
    num_classes, height, width = logits.shape
    label_type = np.uint8 if num_classes <= 256 else np.int64
    labels = np.zeros((height, width), dtype=label_type)
    rows = max(1, PIXELS_AT_A_TIME // max(width, 1))
    for start in range(0, height, rows):
        # NumPy has no bfloat16; the wider type keeps order and ties.
        part = logits[:, start : start + rows]
        values = (part if part.dtype in (torch.float32, torch.float64) else part.float()).detach().numpy()
        highest, found = values[0].copy(), labels[start : start + rows]
        for category in range(1, num_classes):
            higher = (values[category] > highest).view(np.uint8)
            np.maximum(found, higher * label_type(category), out=found)
            np.maximum(highest, values[category], out=highest)
    return labels


def true_categories(truth: Truth, num_classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """A map (H, W), and the category of each of its values; None where the values are categories.

    Void has no category from 0 to ``num_classes`` - 1.
    """
    if truth.label_map is not None:
        if 0 <= truth.ignore_label < num_classes:  # a label that is both ignored and a class's is ignored
            return np.where(truth.label_map == truth.ignore_label, -1, truth.label_map.astype(np.int32)), None
        return truth.label_map, None
    table = np.full(len(truth.segments) + 1, -1, dtype=np.int64)
    for segment in truth.segments:
        table[segment["id"]] = segment["category_id"]
    return truth.numbers, table


def confusion(
    labels: np.ndarray, truth: np.ndarray, num_classes: int, category_of: np.ndarray | None = None
) -> np.ndarray:
    """Pixels by (true, predicted) class, int64 (C + 1, C + 1).

    Args:
        labels: int (H, W) predicted classes; outside 0 to C - 1 counts as "none", the last column.
        truth: int (H, W) true classes; outside 0 to C - 1 is ignored, the last row.
        num_classes: C.
        category_of: int (V,), where ``truth`` holds values from 0 to V - 1 of which this is the class.
    """
    (columns, rows), lengths = shared_runs(labels, truth)
    rows = rows if category_of is None else category_of[rows]
    rows, columns = (
        np.where((one < 0) | (one >= num_classes), num_classes, one.astype(np.int64)) for one in (rows, columns)
    )
    return pixels_by_pair(rows, columns, lengths, (num_classes + 1, num_classes + 1))


def scores(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Scores in percent from a confusion matrix (C + 1, C + 1) of :func:`confusion`.

    A class that is predicted without being there has IoU 0; one that neither is there nor is predicted has none.
    """
    counted = matrix[:-1].astype(np.float64)  # the last row is ignored truth
    correct = counted[:, :-1].diagonal()
    true, predicted = counted.sum(axis=1), counted[:, :-1].sum(axis=0)
    union = true + predicted - correct
    occurs, is_true = union > 0, true > 0
    iou = np.full(len(correct), np.nan)
    iou[occurs] = correct[occurs] / union[occurs]
    accuracy = correct[is_true] / true[is_true]
    total = true.sum()
    results = {
        "mIoU": _mean(iou[occurs]),
        "fwIoU": float((iou[is_true] * (true[is_true] / total)).sum()) if total else float("nan"),
        "mACC": _mean(accuracy),
        "pACC": float(correct.sum() / total) if total else float("nan"),
    }
    per_class = {f"IoU-{name}": iou[index] for index, name in enumerate(class_names) if occurs[index]}
    return {name: 100 * float(value) for name, value in {**results, **per_class}.items()}


def _mean(values: np.ndarray) -> float:
    return float(values.sum() / len(values)) if len(values) else float("nan")
