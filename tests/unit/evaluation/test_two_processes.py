"""Two gloo processes evaluate as one, and both of them end when an image is missing."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

import panoptic_plugin  # noqa: F401
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.evaluator import ImageEvaluator
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth
from panoptic_plugin.evaluation.instance import CocoAP
from panoptic_plugin.evaluation.panoptic import PanopticQuality
from panoptic_plugin.evaluation.predictions import PredictionWriter
from panoptic_plugin.evaluation.semantic import MeanIoU

CLASSES = ["road", "sky", "person", "car", "absent"]
THINGS = frozenset({2, 3, 4})


def _evaluator(folder, saved):
    truth = PanopticGroundTruth(
        panoptic_json=Path(folder) / "gt.json",
        panoptic_root=Path(folder) / "gt",
        contiguous_ids={10: 0, 20: 1, 30: 2, 40: 3, 50: 4},
    )
    quality = PanopticQuality(class_names=CLASSES, thing_ids=THINGS, categories=range(5), label_divisor=1000)
    metrics = [quality, MeanIoU(class_names=CLASSES), CocoAP(class_names=CLASSES, thing_ids=THINGS)]
    writer = PredictionWriter(
        folder=Path(folder) / saved,
        ground_truth=truth,
        dataset_ids={category: 10 * (category + 1) for category in range(5)},
        label_divisor=1000,
    )
    return ImageEvaluator(ground_truth=truth, metrics=metrics, writer=writer, remedy="Score again")


def _work(rank, folder, shards):
    folder = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    inputs, outputs = pickle.loads((folder / "predictions.pkl").read_bytes())
    answers = []
    for number, shard in enumerate(shards):
        evaluator = _evaluator(folder, f"saved_{number}")
        for index in shard[rank]:
            if index == "damaged":
                continue
            if "damaged" in shard[rank]:
                (folder / "gt" / "003.png").write_bytes(b"")
            evaluator.process([inputs[index]], [outputs[index]])
        try:
            answers.append(evaluator.evaluate())
        except DatasetError as error:
            answers.append(str(error))
    (folder / f"answers_{rank}.pkl").write_bytes(pickle.dumps(answers))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(scene_set):
    folder = scene_set.folder
    (folder / "predictions.pkl").write_bytes(pickle.dumps((scene_set.inputs, scene_set.outputs)))
    alone = _evaluator(folder, "saved_alone")
    alone.process(scene_set.inputs, scene_set.outputs)
    expected = alone.evaluate()

    shards = [
        ([4, 1], [3, 0, 2, 4]),  # any order, one image on both
        ([0, 1, 2, 3, 4], []),  # nothing on one
        ([0, 2], [4]),  # images 8 and 10 are lost
        ([0, 1, 2], [4, 3, "damaged"]),  # the label of image 10 cannot be read any more
    ]
    multiprocessing.spawn(_work, args=(str(folder), shards), nprocs=2)
    first, second = (pickle.loads((folder / f"answers_{rank}.pkl").read_bytes()) for rank in (0, 1))
    assert repr(first[:2]) == repr([expected, expected])  # an undefined score, NaN, does not equal itself
    assert second[:2] == [None, None]
    assert "8, 10" in first[2] and first[2] == second[2]
    assert "1 of 5 images cannot be scored" in first[3] and "003.png" in first[3] and first[3] == second[3]
    texts = [(folder / name / "panoptic.json").read_text() for name in ("saved_alone", "saved_0", "saved_1", "saved_3")]
    assert len(set(texts)) == 1  # one process or two, and whatever becomes of the scores
    for picture in (folder / "saved_alone").rglob("*.png"):
        assert (folder / "saved_0" / picture.relative_to(folder / "saved_alone")).read_bytes() == picture.read_bytes()
