"""Row "panoptic evaluator": from a model's id map and the ground truth's PNG to the counts of PQ.

Ours decodes the truth, matches, and keeps what became of each segment. The reference is Detectron2's
``COCOPanopticEvaluator.process``, which encodes the prediction as a PNG, and panopticapi's ``pq_compute_single_core``,
which decodes both. Writing the reference's PNG to a file and reading the JSON are not counted.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from measuring import cpu_ms, interleaved
from panopticapi.evaluation import pq_compute_single_core
from PIL import Image
from postprocessing import enlarge
from scenes import smooth_scene

from panoptic_plugin.evaluation import pq
from panoptic_plugin.evaluation.evaluator import ImageEvaluator
from panoptic_plugin.evaluation.panoptic import PanopticQuality
from panoptic_plugin.evaluation.panoptic_labels import PanopticLabels
from panoptic_plugin.evaluation.predictions import PredictionWriter
from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_outputs
from panoptic_plugin.structures import ids_to_rgb

CASES = {"1024x2048, 30": ((1024, 2048), 30, 0.07, False), "640x640, 15": ((640, 640), 15, 0.5, True)}
DIVISOR = 1000


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case."""
    for name, (size, num_objects, share, coco) in CASES.items():
        if quick:
            size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
        with tempfile.TemporaryDirectory() as folder:
            yield _record(name, Job(Path(folder), size, num_objects, share, coco), rounds)


def _record(case: str, job: Job, rounds: int) -> dict[str, Any]:
    figures = interleaved(job.ours, job.reference, job.compare, rounds=rounds)
    return {
        "row": "panoptic evaluator",
        "case": case,
        "reference": "Detectron2 and panopticapi",
        "equality": "counts, PQ within 1e-12",
        "asked": 5,
        **figures,
        "saving_ms": round(np.median([cpu_ms(job.save)[0] for _ in range(rounds)]), 2),
    }


class Job:
    """One image as a dataset of its own, its prediction, and both ways to score it."""

    def __init__(self, folder: Path, size: tuple[int, int], num_objects: int, share: float, coco: bool):
        scene = smooth_scene(size, num_objects, share, coco=coco)
        maps = (enlarge(part) for part in (scene.logits, scene.heatmap, scene.offsets))
        self.ids, self.info = panoptic_from_outputs(*maps, **scene.arguments)
        self.semantic = self.ids.div(DIVISOR, rounding_mode="floor").clamp(min=0)
        things = set(scene.arguments["thing_ids"])
        num_classes = max(things) + 1
        truth = np.roll(self.ids.numpy() + 1, 4, axis=1)  # 0 is void
        segments = [
            {"id": i, "category_id": (i - 1) // DIVISOR, "iscrowd": 0, "area": int((truth == i).sum())}
            for i in np.unique(truth[truth > 0]).tolist()
        ]
        self.annotation = {"image_id": 1, "file_name": "1.png", "segments_info": segments}
        self.categories = [{"id": c, "name": str(c), "isthing": int(c in things)} for c in range(num_classes)]
        content = {"images": [{"id": 1}], "annotations": [self.annotation], "categories": self.categories}
        (folder / "gt").mkdir()
        (folder / "predicted").mkdir()
        (folder / "gt.json").write_text(json.dumps(content))
        Image.fromarray(ids_to_rgb(truth)).save(folder / "gt" / "1.png")
        self.folder, self.name = folder, f"benchmark_{folder.name}"
        self.metadata = MetadataCatalog.get(self.name).set(
            panoptic_json=str(folder / "gt.json"),
            panoptic_root=str(folder / "gt"),
            thing_dataset_id_to_contiguous_id={c: c for c in things},
            stuff_dataset_id_to_contiguous_id={c: c for c in range(num_classes) if c not in things},
            stuff_classes=[one["name"] for one in self.categories],
            thing_classes=[one["name"] for one in self.categories],
            label_divisor=DIVISOR,
        )
        self.labels = PanopticLabels.of(self.metadata)
        self.inputs = [{"image_id": 1, "file_name": "1.jpg"}]
        self.outputs = [{"panoptic_seg": (self.ids, None)}]
        self.theirs = COCOPanopticEvaluator(self.name)

    def ours(self) -> dict[int, pq.Counts]:
        labels = self.labels
        quality = PanopticQuality(
            class_names=labels.class_names,
            thing_ids=labels.thing_ids,
            categories=range(len(labels.class_names)),
            label_divisor=DIVISOR,
        )
        evaluator = ImageEvaluator(ground_truth=labels.truth, metrics=[quality])
        evaluator.process(self.inputs, self.outputs)
        evaluator.evaluate()
        return quality.counts

    def reference(self) -> Any:
        self.theirs.reset()
        self.theirs.process(self.inputs, self.outputs)
        (prediction,) = self.theirs._predictions
        (self.folder / "predicted" / prediction["file_name"]).write_bytes(prediction["png_string"])
        pairs = [(self.annotation, {**prediction, "segments_info": [dict(s) for s in prediction["segments_info"]]})]
        categories = {one["id"]: one for one in self.categories}
        folders = str(self.folder / "gt"), str(self.folder / "predicted")
        with contextlib.redirect_stdout(io.StringIO()):
            return pq_compute_single_core(0, pairs, *folders, categories)

    def compare(self, found: dict[int, pq.Counts], expected: Any) -> dict[str, Any]:
        theirs = {c: (one.tp, one.fp, one.fn) for c, one in expected.pq_per_cat.items() if one.tp + one.fp + one.fn}
        ours = {c: (len(one.ious), one.fp, one.fn) for c, one in found.items()}
        average = expected.pq_average({one["id"]: one for one in self.categories}, None)[0]
        difference = abs(pq.average(found, range(len(self.categories))).pq - average["pq"])
        return {"equal": bool(ours == theirs and difference <= 1e-12), "pq_differs_by": float(difference)}

    def save(self) -> None:
        """Write one prediction as an evaluation does, and wait for it."""
        writer = PredictionWriter(
            folder=self.folder / "saved",
            ground_truth=self.labels.truth,
            dataset_ids=self.labels.contiguous_ids,
            label_divisor=DIVISOR,
        )
        writer.save("1", {**self.outputs[0], "segments_info": self.info, "sem_seg": self.semantic.to(torch.uint8)})
        writer.collect()
