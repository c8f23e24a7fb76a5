"""Scores by image that are kept on disk equal those of the evaluation they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from shape_scenes import write_shapes

from panoptic_plugin.data.catalog import register_panoptic_dataset
from panoptic_plugin.evaluation.build import panoptic_evaluator
from panoptic_plugin.evaluation.panoptic_labels import PanopticLabels
from panoptic_plugin.tuning.image_scores import ImageRecords, read_images, write_images
from panoptic_plugin.tuning.objective import figures_of, score_of


def shifted_output(truth, shift):
    """The truth, moved to the right, as a model's output dict."""
    ids = torch.from_numpy(np.roll(truth.numbers, shift, axis=1))
    segments = [
        {"id": one["id"], "category_id": one["category_id"], "isthing": one["category_id"] > 0,
         "score": 0.5 + 0.1 * one["id"], "area": int((ids == one["id"]).sum())}
        for one in truth.segments
    ]  # fmt: skip
    return {"panoptic_seg": (ids, segments), "segments_info": segments, "sem_seg": torch.from_numpy(truth.semantic)}


@pytest.mark.parametrize("objective", ["PQ", "PQ_AP"])
def test_all_images_once_give_the_score_of_the_evaluation(objective, tmp_path):
    name = f"image_scores_{objective}"
    entry = write_shapes(tmp_path, name, 5, 3)
    register_panoptic_dataset(
        name, image_root=entry["IMAGE_ROOT"], panoptic_json=entry["PANOPTIC_JSON"], panoptic_root=entry["PANOPTIC_ROOT"]
    )
    labels = PanopticLabels.of(MetadataCatalog.get(name))
    kept = []
    evaluator = panoptic_evaluator(labels, dataset_name=name, folder=None, with_instances=True)
    evaluator.on_results = lambda evaluated: kept.append(ImageRecords.of(evaluated))
    for number, image_id in enumerate(labels.truth.image_ids):
        truth = labels.truth.load(image_id)
        evaluator.process([{"image_id": image_id}], [shifted_output(truth, number)])
    results = evaluator.evaluate()
    write_images(tmp_path / "images.json", kept[0])
    scores = read_images(tmp_path / "images.json", labels, objective)
    once = np.ones((1, 5), np.int64)
    assert scores.score(once)[0] == pytest.approx(score_of(objective, results))
    assert set(figures_of(results)) == {"PQ", "PQ things", "PQ stuff", "mIoU", "AP"}
    of_first, of_last = scores.score(np.array([[5, 0, 0, 0, 0], [0, 0, 0, 0, 5]]))
    assert of_first == pytest.approx(100, abs=1) and of_last < of_first
