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


class MeanIoU:
    """mIoU, frequency weighted IoU, mean and overall pixel accuracy, and the IoU of each class.

    Args:
        class_names: by contiguous category id.
        label_divisor: used where a model gives a panoptic map and no ``sem_seg``.
    """

    task = "sem_seg"

    def __init__(self, *, class_names: Sequence[str], label_divisor: int = 1000):
        self._class_names = list(class_names)
        self._label_divisor = label_divisor

    def count(self, truth: Truth, output: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
        """The occupied cells of the image's confusion matrix: most of 133 x 133 are empty."""
        labels = predicted_labels(output, self._label_divisor)
        check_size(truth, labels.shape)
        num_classes = len(self._class_names)
        if labels.size and int(labels.max()) >= num_classes:
            raise DatasetError(
                f"the prediction for image {truth.image_id} holds category {int(labels.max())}, "
                f"the dataset has {num_classes}; compare MODEL.SEM_SEG_HEAD.NUM_CLASSES with the dataset"
            )
        cells = confusion(labels, truth.semantic, num_classes).ravel()
        return tuple((int(cell), int(cells[cell])) for cell in np.flatnonzero(cells))

    def summarize(self, records: Sequence[tuple[tuple[int, int], ...]]) -> dict[str, float]:
        size = len(self._class_names) + 1
        cells = np.zeros(size * size, dtype=np.int64)
        for record in records:
            for cell, pixels in record:
                cells[cell] += pixels
        return scores(cells.reshape(size, size), self._class_names)


def predicted_labels(output: Mapping[str, Any], label_divisor: int) -> np.ndarray:
    """Integer (H, W) of categories, negative where there is none: ``sem_seg`` logits (C, H, W) or a label map (H, W);
    the categories of ``panoptic_seg`` where there is neither."""
    semantic = output.get("sem_seg")
    if semantic is None:
        ids = output["panoptic_seg"][0].cpu().numpy()
        return np.where(ids < 0, -1, ids // label_divisor)
    if semantic.ndim == 2:
        return semantic.cpu().numpy()
    return (semantic.argmax(dim=0) if semantic.is_cuda else running_argmax(semantic)).cpu().numpy()


def running_argmax(logits: torch.Tensor) -> torch.Tensor:
    """argmax over the first dimension of (C, H, W), as int16 (H, W); the first of equal values wins.

    A running maximum reads memory in order; on a CPU it takes a quarter of the time of ``torch.argmax``.
    """
    best = logits[0].clone()
    labels = torch.zeros(logits.shape[1:], dtype=torch.int16, device=logits.device)
    for category in range(1, logits.shape[0]):
        labels.masked_fill_(logits[category] > best, category)
        torch.maximum(best, logits[category], out=best)
    return labels


def confusion(labels: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels by (true, predicted) class, int64 (C + 1, C + 1).

    Args:
        labels: int (H, W) predicted classes; outside 0 to C - 1 counts as "none", the last column.
        truth: int (H, W) true classes; outside 0 to C - 1 is ignored, the last row.
        num_classes: C.
    """
    size = num_classes + 1
    rows = np.where((truth < 0) | (truth >= num_classes), num_classes, truth).astype(np.int64)
    columns = np.where((labels < 0) | (labels >= num_classes), num_classes, labels)
    return np.bincount((rows * size + columns).ravel(), minlength=size * size).reshape(size, size)


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
