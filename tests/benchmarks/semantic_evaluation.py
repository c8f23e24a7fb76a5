"""Row "semantic evaluator": one image's logits or label map to its confusion matrix, with reading the truth.

Detectron2's ``SemSegEvaluator.process`` also encodes its prediction for a JSON file. Ours does so in the cases
"with codes"; an evaluation needs none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from measuring import interleaved
from postprocessing import enlarge
from scenes import smooth_scene

from panoptic_plugin.evaluation.ground_truth import SemanticGroundTruth
from panoptic_plugin.evaluation.rle import encode_labels
from panoptic_plugin.evaluation.semantic import MeanIoU, predicted_labels

DATASET = "benchmark_semantic_evaluation"
IMAGE = {"file_name": "image.jpg"}
# name: (size, objects, share of things, COCO's classes, ratio asked from logits, from a label map)
CASES = {
    "1024x2048x19": ((1024, 2048), 30, 0.2, False, 9, 20),
    "640x640x133": ((640, 640), 15, 0.5, True, None, None),
}


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case, output contract and whether the prediction is encoded."""
    for name, (size, num_objects, share, coco, asked, asked_of_map) in CASES.items():
        if quick:
            size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
        logits = enlarge(smooth_scene(size, num_objects, share, coco=coco).logits)
        labels = logits.argmax(dim=0).to(torch.uint8)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "truth.png")
            cv2.imwrite(path, true_labels(labels.numpy()))
            names = [f"class {category}" for category in range(len(logits))]
            theirs = reference_evaluator(path, names)
            ours = partial(evaluate_ours, SemanticGroundTruth(files={"image.jpg": path}), MeanIoU(class_names=names))
            for source, output, ratio in (("logits", logits, asked), ("label map", labels, asked_of_map)):
                for encode in (False, True):
                    yield {
                        "row": "semantic evaluator",
                        "case": f"{name}, from {source}" + (", with codes" if encode else ""),
                        "reference": "Detectron2",
                        "equality": "confusion matrix and, where made, codes",
                        "asked": ratio,
                        **interleaved(
                            partial(ours, {"sem_seg": output}, encode),
                            partial(evaluate_reference, theirs, logits),
                            compare,
                            rounds=rounds,
                        ),
                    }


def true_labels(labels: np.ndarray) -> np.ndarray:
    """Labels a little off the predicted ones, with void between."""
    truth = np.roll(labels, (3, 5), axis=(0, 1))
    truth[cv2.Laplacian(truth, cv2.CV_32F) != 0] = 255
    return truth


def reference_evaluator(path: str, names: list[str]) -> SemSegEvaluator:
    """Detectron2's evaluator of a dataset of one image."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        if DATASET in catalog.list():
            catalog.remove(DATASET)
    DatasetCatalog.register(DATASET, lambda: [{**IMAGE, "sem_seg_file_name": path}])
    MetadataCatalog.get(DATASET).set(stuff_classes=names, ignore_label=255)
    return SemSegEvaluator(DATASET, distributed=False)


def evaluate_reference(evaluator: SemSegEvaluator, logits: torch.Tensor) -> tuple[np.ndarray, dict[int, bytes]]:
    """(confusion, label -> code)."""
    evaluator.reset()
    evaluator.process([IMAGE], [{"sem_seg": logits}])
    codes = {one["category_id"]: one["segmentation"]["counts"].encode() for one in evaluator._predictions}
    return evaluator._conf_matrix, codes


def evaluate_ours(
    truth: SemanticGroundTruth, metric: MeanIoU, output: Mapping[str, torch.Tensor], encode: bool
) -> tuple[np.ndarray, dict[int, bytes] | None]:
    """(confusion, label -> code)."""
    labels = predicted_labels(output, 1000)
    record = metric.count(truth.load("image.jpg"), {"sem_seg": torch.from_numpy(labels)})
    size = len(metric.class_names) + 1
    cells = np.zeros(size * size, dtype=np.int64)
    cells[[cell for cell, _ in record]] = [pixels for _, pixels in record]
    return cells.reshape(size, size), encode_labels(labels) if encode else None


def compare(found: tuple[Any, Any], expected: tuple[Any, Any]) -> dict[str, Any]:
    """Equality of what both make; their matrix is the transpose of ours."""
    return {"equal": np.array_equal(found[0], expected[0].T) and found[1] in (None, expected[1])}
