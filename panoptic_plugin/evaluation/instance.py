"""Instance segmentation AP, COCO's way and Cityscapes' way, from panoptic ground truth and in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation import cityscapes_ap, coco_ap
from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.overlaps import Overlaps, instance_overlaps
from panoptic_plugin.evaluation.panoptic import check_size

NAN = float("nan")
NOTHING = {"predicted": 0, "dropped": 0}
Record = tuple[Any, ...]


def checked_overlaps(truth: Truth, values: np.ndarray, output: Mapping[str, Any]) -> Overlaps:
    """:func:`instance_overlaps` of ``values`` (H, W), a map of the truth; raises DatasetError for another size."""
    instances = output.get("instances")
    if instances is not None and len(instances):
        check_size(truth, instances.pred_masks.shape[1:])
    if output.get("segments_info"):
        check_size(truth, output["panoptic_seg"][0].shape)
    return instance_overlaps(values, output)


class CocoAP:
    """Mask AP and AR of pycocotools. The truth is made of the thing segments; crowd groups are COCO's crowds.

    Args:
        class_names: by contiguous category id.
        thing_ids: contiguous ids of the things.

    Attributes:
        counts: of the last summary: ``predicted`` instances, and of those ``dropped``, the least sure ones beyond 100
            of a category in an image, which COCO leaves out.
    """

    task = "segm"
    counts: dict[str, int] = NOTHING

    def __init__(self, *, class_names: Sequence[str], thing_ids: frozenset[int]):
        self._class_names = list(class_names)
        self._categories = sorted(thing_ids)

    def count(self, truth: Truth, output: Mapping[str, Any]) -> Record:
        """(image id, true: (category, is a crowd, pixels) ..., predicted: (category, score, pixels, overlaps) ...).

        Overlaps are (position among the true ones, pixels shared) with those of the same category.
        """
        found = checked_overlaps(truth, truth.numbers, output)
        column_of = {value: column for column, value in enumerate(found.values.tolist())}
        true, columns = [], []
        for segment in truth.segments:
            column = column_of.get(segment["id"])
            if column is not None and segment["category_id"] in self._categories:
                true.append((int(segment["category_id"]), bool(segment["iscrowd"]), int(found.areas[column])))
                columns.append(column)
        predicted = []
        for category, score, row in zip(found.categories.tolist(), found.scores.tolist(), found.shared, strict=True):
            shared = row[columns].tolist()
            overlaps = tuple((at, shared[at]) for at, one in enumerate(true) if shared[at] and one[0] == category)
            predicted.append((category, score, int(row.sum()), overlaps))
        return truth.image_id, tuple(true), tuple(predicted)

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        per_category: dict[int, list[coco_ap.Matches]] = {category: [] for category in self._categories}
        for _, true, predicted in sorted(records, key=lambda record: _as_pycocotools_sorts(record[0])):
            present = {one[0] for one in (*true, *predicted)}
            for category in present & per_category.keys():
                per_category[category].append(_match_category(category, true, predicted))
        self.counts = _count_predictions(records)
        curves = coco_ap.accumulate(list(per_category.values()))
        precision, recall = curves.precision, curves.recall
        values = {
            "AP": coco_ap.mean(precision[..., 0]),
            "AP50": coco_ap.mean(precision[coco_ap.IOU_THRESHOLDS == 0.5, ..., 0]),
            "AP75": coco_ap.mean(precision[coco_ap.IOU_THRESHOLDS == 0.75, ..., 0]),
            **{f"AP{size}": coco_ap.mean(precision[..., area]) for area, size in enumerate("sml", start=1)},
            **{f"AR{n}": coco_ap.mean(recall[..., 0, column]) for column, n in enumerate(coco_ap.MAX_DETECTIONS)},
            **{f"AR{size}": coco_ap.mean(recall[..., area, -1]) for area, size in enumerate("sml", start=1)},
        }
        for position, category in enumerate(self._categories):
            curve, name = precision[:, :, position, 0], self._class_names[category]
            if (curve > -1).any():
                values[f"AP-{name}"] = coco_ap.mean(curve)
                values[f"AP50-{name}"] = coco_ap.mean(curve[0])
        return {name: 100 * value if value == value else NAN for name, value in values.items()}


def _count_predictions(records: Sequence[Record]) -> dict[str, int]:
    """The ``counts`` of :class:`CocoAP`."""
    per_image = [Counter(one[0] for one in predicted) for _, _, predicted in records]
    numbers = [number for counter in per_image for number in counter.values()]
    return {
        "predicted": sum(numbers),
        "dropped": sum(max(0, number - coco_ap.MAX_DETECTIONS[-1]) for number in numbers),
    }


def _as_pycocotools_sorts(image_id: str) -> tuple[int, int, str]:
    """Numbers by value, then texts: the order of images decides between predictions of equal score."""
    return (0, int(image_id), "") if image_id.isdecimal() else (1, 0, image_id)


def _match_category(category: int, true: Sequence[Record], predicted: Sequence[Record]) -> coco_ap.Matches:
    own = [position for position, one in enumerate(true) if one[0] == category]
    column_of = {position: column for column, position in enumerate(own)}
    rows = [one for one in predicted if one[0] == category]
    shared = np.zeros((len(rows), len(own)), dtype=np.int64)
    for row, (*_, overlaps) in enumerate(rows):
        for position, pixels in overlaps:
            shared[row, column_of[position]] = pixels
    return coco_ap.match(
        np.array([score for _, score, _, _ in rows], dtype=np.float64),
        np.array([area for _, _, area, _ in rows], dtype=np.int64),
        shared,
        np.array([true[position][2] for position in own], dtype=np.int64),
        np.array([true[position][1] for position in own], dtype=bool),
    )


class CityscapesAP:
    """AP and AP50 of cityscapesscripts' ``evalInstanceLevelSemanticLabeling``, without its files.

    Where a class has objects and all its predictions are ignored the original fails; AP is 0 then.

    Args:
        class_names: by contiguous category id; Cityscapes' names.
        gt_dir: the folder of ``<city>/<image id>_gtFine_instanceIds.png``. Where such a file is missing, the
            instances of the panoptic truth are taken, which differ in the few pixels of caravans and trailers alone.

    Raises:
        DatasetError: none of Cityscapes' instance classes is among the names.

    Attributes:
        counts: of the last summary: ``predicted`` instances; none are ``dropped``, there is no limit.
    """

    task = "segm"
    counts: dict[str, int] = NOTHING

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

    def count(self, truth: Truth, output: Mapping[str, Any]) -> Record:
        """(true: (instance id, pixels) ..., predicted: (label id, score, pixels, void pixels, overlaps) ...).

        Overlaps are (instance id, pixels shared) with objects and groups of the same label.
        """
        found = checked_overlaps(truth, self._instance_ids(truth), output)
        labels = np.where(found.values < FIRST_ID, found.values, found.values // FIRST_ID)
        is_object = np.isin(labels, list(self._label_ids.values()))
        true = zip(found.values[is_object].tolist(), found.areas[is_object].tolist(), strict=True)
        areas = found.shared.sum(axis=1)
        void = found.shared[:, np.isin(found.values, self._void_ids)].sum(axis=1)
        predicted = []
        for row in np.flatnonzero(areas):  # the original skips empty masks
            label = self._label_ids.get(int(found.categories[row]))
            if label is not None:
                same = np.flatnonzero((labels == label) & (found.shared[row] > 0))
                overlaps = zip(found.values[same].tolist(), found.shared[row, same].tolist(), strict=True)
                score = float(found.scores[row])
                predicted.append((label, score, int(areas[row]), int(void[row]), tuple(overlaps)))
        return tuple(true), tuple(predicted)

    def _instance_ids(self, truth: Truth) -> np.ndarray:
        if self._gt_dir is not None:
            path = self._gt_dir / truth.image_id.split("_")[0] / f"{truth.image_id}_gtFine_instanceIds.png"
            ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
            if ids is not None:
                check_size(truth, ids.shape[:2])
                return ids
        table = np.zeros(len(truth.segments) + 1, dtype=np.int32)
        for segment in truth.segments:
            label_id = self._label_ids.get(segment["category_id"])
            if label_id is None:
                table[segment["id"]] = NOT_AN_INSTANCE
            else:
                table[segment["id"]] = label_id if segment["iscrowd"] else label_id * FIRST_ID + segment["id"]
        return table[truth.numbers]

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        self.counts = {"predicted": sum(len(predicted) for _, predicted in records), "dropped": 0}
        precision = np.array([cityscapes_ap.class_precision(class_record(records, label)) for label in self._names])
        if np.isnan(precision).all():
            return {"AP": NAN, "AP50": NAN}
        at_half = np.isclose(cityscapes_ap.OVERLAPS, 0.5)
        results = {"AP": float(np.nanmean(precision)), "AP50": float(np.nanmean(precision[:, at_half]))}
        for name, values in zip(self._names.values(), precision, strict=True):
            if not np.isnan(values).any():
                results[f"AP-{name}"] = float(np.average(values))
                results[f"AP50-{name}"] = float(values[at_half][0])
        return {name: 100 * value for name, value in results.items()}


FIRST_ID = cityscapes_ap.FIRST_INSTANCE_ID
NOT_AN_INSTANCE = 11  # Cityscapes' building: a label that is neither void nor an instance


def class_record(records: Sequence[Record], label: int) -> cityscapes_ap.ClassRecord:
    """The records of :class:`CityscapesAP` of all images, for one of its labels."""
    true_areas: list[int] = []
    is_group: list[bool] = []
    predictions: list[tuple[float, int, int]] = []
    pairs: list[tuple[int, int, int]] = []
    for true, predicted in records:
        position_of = {}
        for instance_id, area in true:
            if label in (instance_id, instance_id // FIRST_ID):
                position_of[instance_id] = len(true_areas)
                true_areas.append(area)
                is_group.append(instance_id < FIRST_ID)
        for found_label, score, area, void, overlaps in predicted:
            if found_label == label:
                pairs += [(len(predictions), position_of[instance_id], shared) for instance_id, shared in overlaps]
                predictions.append((score, area, void))
    scores, areas, void = np.array(predictions, dtype=np.float64).reshape(-1, 3).T
    return cityscapes_ap.ClassRecord(
        true_areas=np.array(true_areas, dtype=np.int64),
        is_group=np.array(is_group, dtype=bool),
        scores=scores,
        areas=areas.astype(np.int64),
        void=void.astype(np.int64),
        pairs=np.array(pairs, dtype=np.int64).reshape(-1, 3),
    )
