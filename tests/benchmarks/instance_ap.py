"""Rows "Cityscapes instance AP" and "COCO instance AP": one image's instances to AP, with all that is read for it.

Cityscapes: Detectron2's ``CityscapesInstanceEvaluator``, one PNG an instance and cityscapesscripts. COCO: Detectron2's
conversion to run-length codes and pycocotools.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as cityscapes
import cv2
import numpy as np
from cityscapesscripts.helpers.labels import trainId2label
from detectron2.data import MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from measuring import interleaved
from postprocessing import enlarge
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import smooth_scene

from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.instance import CityscapesAP, CocoAP
from panoptic_plugin.postprocessing.instances import instances_of_panoptic
from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_outputs
from panoptic_plugin.structures import number_pixels

DATASET = "benchmark_instance_ap"
IMAGE_ID = "aachen_000000_000019"
NAMES = [trainId2label[category].name for category in range(19)]
THINGS = frozenset(range(11, 19))
DIVISOR = 1000
# name: (objects, share of things, ratio asked of Cityscapes AP)
CASES = {"30 instances": (30, 0.2, 15), "56 instances": (56, 0.3, 28)}
COCO_STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

Output = Mapping[str, Any]


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a rule, a scene and a form of the output: the panoptic map that comes with the masks, or masks."""
    size = (256, 512) if quick else (1024, 2048)
    for name, (num_objects, share, asked) in CASES.items():
        output, ids = segmentation(size, num_objects, share)
        truth = true_segments(ids)
        with tempfile.TemporaryDirectory() as folder:
            rules = {
                "Cityscapes": (*cityscapes_pair(Path(folder), ids, truth), asked),
                "COCO": (*coco_pair(truth), None),
            }
            for rule, (ours, theirs, asked_ratio) in rules.items():
                for form, given in (("", output), (", masks alone", {"instances": output["instances"]})):
                    yield {
                        "row": f"{rule} instance AP",
                        "case": f"{size[0]}x{size[1]}, {name}{form}",
                        "reference": "Detectron2, cityscapesscripts" if rule == "Cityscapes" else "pycocotools",
                        "equality": "every figure, bit for bit",
                        "asked": asked_ratio,
                        "instances": len(output["instances"]),
                        **interleaved(partial(ours, given), partial(theirs, given), compare, rounds=rounds),
                    }


def segmentation(size: tuple[int, int], num_objects: int, share: float) -> tuple[Output, np.ndarray]:
    """A model's output of a smooth scene, and true ids (H, W) that are a little off its own; 0 is void."""
    scene = smooth_scene(size, num_objects, share)
    ids, segments = panoptic_from_outputs(
        *map(enlarge, (scene.logits, scene.heatmap, scene.offsets)), **scene.arguments
    )
    output = {
        "panoptic_seg": (ids, None),
        "segments_info": segments,
        "instances": instances_of_panoptic(ids, segments),
    }
    true = np.roll(ids.numpy().clip(min=0), (2, 3), axis=(0, 1))
    true[:, -size[1] // 16 :] = 0
    return output, true


def true_segments(ids: np.ndarray) -> Truth:
    """The truth as the panoptic JSON and PNG would give it; the bicycles are one group."""
    ids = np.where(ids // DIVISOR == 18, 18 * DIVISOR, ids)
    listed = [one for one in np.unique(ids).tolist() if one]
    segments = [
        {"id": number, "category_id": one // DIVISOR, "iscrowd": int(one == 18 * DIVISOR), "dataset_id": one}
        for number, one in enumerate(listed, start=1)
    ]
    return Truth(IMAGE_ID, number_pixels(ids, listed), segments)


def cityscapes_pair(folder: Path, ids: np.ndarray, truth: Truth) -> tuple[Any, Any]:
    """(ours, reference): output -> {"AP", "AP50"}; the truth is in ``folder``."""
    city = folder / "aachen"
    city.mkdir()
    label_of = np.array([4] + [trainId2label[category].id for category in range(19)])
    category, number = np.where(ids > 0, ids // DIVISOR, -1), ids % DIVISOR
    labels = label_of[category + 1]
    is_object = (category >= 11) & (category < 18)
    cv2.imwrite(
        str(city / f"{IMAGE_ID}_gtFine_instanceIds.png"),
        np.where(is_object, labels * 1000 + number, labels).astype(np.uint16),
    )
    if DATASET in MetadataCatalog.list():
        MetadataCatalog.remove(DATASET)
    MetadataCatalog.get(DATASET).set(thing_classes=NAMES, gt_dir=str(folder))
    # Of a JSON file nobody reads; it fails on the integers of NumPy 2.
    cityscapes.writeDict2JSON = lambda content, path: None
    cityscapes.args.quiet = True
    logging.getLogger("detectron2.evaluation.cityscapes_evaluation").setLevel(logging.WARNING)
    metric = CityscapesAP(class_names=NAMES, gt_dir=folder)

    def ours(output: Output) -> dict[str, float]:
        found = metric.summarize([metric.count(truth, output)])
        return {name: found[name] for name in ("AP", "AP50")}

    def reference(output: Output) -> dict[str, float]:
        evaluator = CityscapesInstanceEvaluator(DATASET)
        evaluator.reset()
        evaluator.process([{"file_name": f"{IMAGE_ID}.png"}], [output])
        return dict(evaluator.evaluate()["segm"])

    return ours, reference


def coco_pair(truth: Truth) -> tuple[Any, Any]:
    """(ours, reference): output -> the twelve figures of pycocotools, -1 where there is nothing to average."""
    annotations = []
    for segment in truth.segments:
        if segment["category_id"] in THINGS:
            mask = truth.numbers == segment["id"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 0,
                    "category_id": segment["category_id"],
                    "segmentation": coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)),
                    "area": int(mask.sum()),
                    "iscrowd": segment["iscrowd"],
                    "bbox": [0, 0, 1, 1],
                }
            )
    true = COCO()
    true.dataset = {
        "images": [{"id": 0, "height": truth.shape[0], "width": truth.shape[1]}],
        "categories": [{"id": category, "name": NAMES[category]} for category in sorted(THINGS)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        true.createIndex()
    metric = CocoAP(class_names=NAMES, thing_ids=THINGS)

    def ours(output: Output) -> dict[str, float]:
        found = metric.summarize([metric.count(truth, output)])
        return {name: found[name] / 100 if found[name] == found[name] else -1 for name in COCO_STATS}

    def reference(output: Output) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            found = instances_to_coco_json(output["instances"], 0)
            for one in found:
                del one["bbox"]  # as Detectron2 does: pycocotools would take the area of the box for that of the mask
            evaluation = COCOeval(true, true.loadRes(found), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(
            zip(COCO_STATS, (100 * value / 100 if value > -1 else -1 for value in evaluation.stats), strict=True)
        )

    return ours, reference


def compare(found: Mapping[str, float], expected: Mapping[str, float]) -> dict[str, Any]:
    """Whether all figures are equal."""
    return {"equal": dict(found) == dict(expected), "AP": found["AP"], "AP50": found["AP50"]}
