"""Instance segmentation AP, COCO's way and Cityscapes' way, from panoptic ground truth and in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.panoptic import check_size
from panoptic_plugin.structures import number_pixels

NAN = float("nan")


def predicted_instances(output: Mapping[str, Any], truth: Truth) -> list[tuple[int, float, np.ndarray]]:
    """(contiguous category, score, bool (H, W) mask) of each instance in a model's output; empty masks are left out."""
    instances = output.get("instances")
    if instances is None or len(instances) == 0:
        return []
    masks = instances.pred_masks.detach().cpu().numpy().astype(bool, copy=False)
    check_size(truth, masks.shape[1:])
    categories, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    return [
        (int(category), float(score), mask)
        for category, score, mask in zip(categories, scores, masks, strict=True)
        if mask.any()
    ]


class CocoAP:
    """Mask AP of pycocotools. The truth is made of the thing segments; crowd groups are COCO's crowds.

    Args:
        class_names: by contiguous category id.
        thing_ids: contiguous ids of the things.
    """

    task = "segm"

    def __init__(self, *, class_names: Sequence[str], thing_ids: frozenset[int]):
        self._class_names = list(class_names)
        self._thing_ids = thing_ids

    def count(self, truth: Truth, output: Mapping[str, Any]) -> tuple[Any, ...]:
        true = tuple(
            (segment["category_id"], segment["iscrowd"], _encode(truth.numbers == segment["id"]))
            for segment in truth.segments
            if segment["category_id"] in self._thing_ids and truth.areas[segment["id"]]
        )
        predicted = tuple((c, score, _encode(mask)) for c, score, mask in predicted_instances(output, truth))
        return truth.shape, true, predicted

    def summarize(self, records: Sequence[tuple[Any, ...]]) -> dict[str, float]:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        images, true, predicted = [], [], []
        for image_id, (shape, true_masks, predicted_masks) in enumerate(records, start=1):
            images.append({"id": image_id, "height": shape[0], "width": shape[1]})
            for category, iscrowd, counts in true_masks:
                true.append(_annotation(len(true) + 1, image_id, category, shape, counts, iscrowd=iscrowd))
            for category, score, counts in predicted_masks:
                predicted.append(_annotation(len(predicted) + 1, image_id, category, shape, counts, score=score))
        categories = [{"id": c, "name": self._class_names[c]} for c in sorted(self._thing_ids)]
        with contextlib.redirect_stdout(io.StringIO()):
            sides = []
            for annotations in (true, predicted):
                side = COCO()
                side.dataset = {"images": images, "categories": categories, "annotations": annotations}
                side.createIndex()
                sides.append(side)
            evaluation = COCOeval(*sides, iouType="segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return self._results(evaluation)

    def _results(self, evaluation: Any) -> dict[str, float]:
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        values = {name: _percent(value) for name, value in zip(names, evaluation.stats[:6], strict=True)}
        precision = evaluation.eval["precision"]  # (IoU threshold, recall, category, area, detections)
        for position, category in enumerate(evaluation.params.catIds):
            for prefix, curve in (("AP", precision[..., position, 0, -1]), ("AP50", precision[0, :, position, 0, -1])):
                known = curve[curve > -1]
                if known.size:
                    values[f"{prefix}-{self._class_names[category]}"] = 100 * float(known.mean())
        return values


def _percent(value: float) -> float:
    return 100 * float(value) if value > -1 else NAN  # COCO writes -1 where there is nothing to average


def _encode(mask: np.ndarray) -> bytes:
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


def _annotation(
    number: int, image_id: int, category: int, shape: tuple[int, int], counts: bytes, iscrowd: int = 0, **more: Any
) -> dict[str, Any]:
    rle = {"size": list(shape), "counts": counts}
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "segmentation": rle,
        "area": int(coco_mask.area(rle)),
        "iscrowd": iscrowd,
        **more,
    }


class CityscapesAP:
    """AP and AP50 of cityscapesscripts' ``evalInstanceLevelSemanticLabeling``, without its files.

    Matching and averaging are its own functions; the overlaps they work on come from one count an instance.
    Where a class has objects and all its predictions are ignored the original fails; AP is 0 then.

    Args:
        class_names: by contiguous category id; Cityscapes' names.
        gt_dir: the folder of ``<city>/<image id>_gtFine_instanceIds.png``. Where such a file is missing, the
            instances of the panoptic truth are taken, which differ in the few pixels of caravans and trailers alone.

    Raises:
        DatasetError: none of Cityscapes' instance classes is among the names.
    """

    task = "segm"

    def __init__(self, *, class_names: Sequence[str], gt_dir: str | Path | None = None):
        from cityscapesscripts.helpers.labels import labels

        evaluated = {label.name: label.id for label in labels if label.hasInstances and not label.ignoreInEval}
        self._label_ids = {c: evaluated[name] for c, name in enumerate(class_names) if name in evaluated}
        # All eight classes stay in the average's array: leaving the undefined ones out would change its last digit.
        self._names = {label_id: name for name, label_id in evaluated.items()}
        self._void_ids = [label.id for label in labels if label.ignoreInEval]
        self._gt_dir = Path(gt_dir) if gt_dir else None
        if not self._label_ids:
            raise DatasetError(
                f"Cityscapes AP needs classes of Cityscapes ({', '.join(evaluated)}), the dataset has "
                f"{', '.join(class_names)}; use the evaluator type 'coco_panoptic_seg'"
            )

    def count(self, truth: Truth, output: Mapping[str, Any]) -> tuple[Any, ...]:
        """(true: (instance id, pixels) ..., predicted: (label id, score, pixels, void pixels, overlaps) ...)."""
        ids = self._instance_ids(truth)
        pixels_of = np.bincount(ids.ravel())
        values = np.flatnonzero(pixels_of)
        numbers = number_pixels(ids, values.tolist()) - 1
        void = np.isin(values, self._void_ids)
        label_of = np.where(values < 1000, values, values // 1000)
        true = tuple(
            (int(value), int(pixels_of[value])) for value in values if _label(value) in self._label_ids.values()
        )
        predicted = []
        for category, score, mask in predicted_instances(output, truth):
            label_id = self._label_ids.get(category)
            if label_id is None:
                continue
            inside = np.bincount(numbers[mask], minlength=len(values))
            same = np.flatnonzero((label_of == label_id) & (inside > 0))
            overlaps = tuple((int(values[one]), int(inside[one])) for one in same)
            predicted.append((label_id, score, int(inside.sum()), int(inside[void].sum()), overlaps))
        return true, tuple(predicted)

    def _instance_ids(self, truth: Truth) -> np.ndarray:
        if self._gt_dir is not None:
            path = self._gt_dir / truth.image_id.split("_")[0] / f"{truth.image_id}_gtFine_instanceIds.png"
            ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
            if ids is not None:
                check_size(truth, ids.shape[:2])
                return ids.astype(np.int64)
        table = np.zeros(len(truth.segments) + 1, dtype=np.int64)
        for segment in truth.segments:
            label_id = self._label_ids.get(segment["category_id"])
            if label_id is None:
                table[segment["id"]] = NOT_AN_INSTANCE
            else:
                table[segment["id"]] = label_id if segment["iscrowd"] else label_id * 1000 + segment["id"]
        return table[truth.numbers]

    def summarize(self, records: Sequence[tuple[Any, ...]]) -> dict[str, float]:
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as reference

        names = list(self._names.values())
        args = SimpleNamespace(
            overlaps=reference.args.overlaps,
            minRegionSizes=reference.args.minRegionSizes,
            distanceThs=reference.args.distanceThs,
            distanceConfs=reference.args.distanceConfs,
            distanceAvailable=False,
            instLabels=names,
        )
        matches = {position: self._matches(record) for position, record in enumerate(records)}
        precision = np.array(
            [[[_one_precision(reference, matches, args, name, t) for t in args.overlaps] for name in names]]
        )
        if np.isnan(precision).all():
            return {"AP": NAN, "AP50": NAN}
        averages = reference.computeAverages(precision, args)
        results = {"AP": 100 * float(averages["allAp"]), "AP50": 100 * float(averages["allAp50%"])}
        for name in names:
            values = averages["classes"][name]
            if not np.isnan(values["ap"]):
                results[f"AP-{name}"] = 100 * float(values["ap"])
                results[f"AP50-{name}"] = 100 * float(values["ap50%"])
        return results

    def _matches(self, record: tuple[Any, ...]) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """One image in the shape that ``evaluateMatches`` reads."""
        true, predicted = record
        sides: dict[str, dict[str, list[dict[str, Any]]]] = {
            side: {name: [] for name in self._names.values()} for side in ("groundTruth", "prediction")
        }
        objects = {}
        for instance_id, pixels in true:
            one = {"instID": instance_id, "pixelCount": pixels, "medDist": -1, "distConf": 0.0, "matchedPred": []}
            objects[instance_id] = one
            sides["groundTruth"][self._names[_label(instance_id)]].append(one)
        for label_id, score, pixels, void, overlaps in predicted:
            found = {"confidence": score, "pixelCount": pixels, "voidIntersection": void}
            matched = [{**objects[instance_id], "intersection": shared} for instance_id, shared in overlaps]
            for instance_id, shared in overlaps:
                objects[instance_id]["matchedPred"].append({**found, "intersection": shared})
            sides["prediction"][self._names[label_id]].append({**found, "matchedGt": matched})
        return sides


NOT_AN_INSTANCE = 11  # Cityscapes' building: a label that is neither void nor an instance


def _label(instance_id: int) -> int:
    """Cityscapes writes label * 1000 + number for an object and the bare label for a group or stuff."""
    return int(instance_id) if instance_id < 1000 else int(instance_id) // 1000


def _one_precision(reference: Any, matches: Mapping[Any, Any], args: Any, name: str, overlap: float) -> float:
    one = SimpleNamespace(**{**vars(args), "instLabels": [name], "overlaps": np.array([overlap])})
    try:
        return float(reference.evaluateMatches(matches, one)[0, 0, 0])
    except IndexError:
        # It reads the last element of the sorted scores, and there is none when all predictions are ignored.
        return 0.0
