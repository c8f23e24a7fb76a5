"""Semantic predictions as Detectron2 writes them: one JSON, a run-length code a class of each image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.rle import encode_labels
from panoptic_plugin.evaluation.semantic import predicted_labels
from panoptic_plugin.files import replace_file

FILE_NAME = "sem_seg_predictions.json"


class SemanticPredictions:
    """Writes ``sem_seg_predictions.json``, the file of Detectron2's ``SemSegEvaluator``; gives no score.

    Args:
        folder: receives the file.
        dataset_ids: contiguous category -> the id to write; empty where they are the same.
    """

    task = "predictions"

    def __init__(self, *, folder: Path, dataset_ids: Mapping[int, int]):
        self._folder = folder
        self._dataset_ids = dict(dataset_ids)

    def count(self, truth: Truth, output: Mapping[str, Any]) -> tuple[Any, ...]:
        """(file name, (height, width), (category, code) ...)."""
        labels = predicted_labels(output, 1)
        codes = ((category, code) for category, code in encode_labels(labels).items() if category >= 0)
        return truth.image_id, labels.shape, tuple(codes)

    def summarize(self, records: Sequence[tuple[Any, ...]]) -> dict[str, float]:
        content = [
            {
                "file_name": file_name,
                "category_id": self._dataset_ids.get(category, category),
                "segmentation": {"size": list(size), "counts": code.decode()},
            }
            for file_name, size, codes in records
            for category, code in codes
        ]
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._folder / FILE_NAME, json.dumps(content))
        return {}
