"""Instance AP against Detectron2's COCOEvaluator path (pycocotools) and cityscapesscripts, run live."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image

from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.instance import CityscapesAP, CocoAP
from panoptic_plugin.structures import number_pixels

CLASSES = ["road", "person", "car", "bus"]
LABEL_IDS = [7, 24, 26, 28]


def _scene(rng, *, height=96, width=160):
    """Cityscapes instance ids (H, W): road, persons, cars, a group of cars, void, a caravan, a very small person."""
    ids = np.full((height, width), 7)
    kinds = [24001, 24002, 24003, 26001, 26002, 26, 4, 29001]
    for value in kinds:
        y, x = rng.integers(0, height - 25), rng.integers(0, width - 25)
        ids[y : y + rng.integers(12, 25), x : x + rng.integers(12, 25)] = value
    ids[2:6, 2:7] = 24009
    return ids


def _truth(image_id, ids):
    """What the panoptic JSON and PNG of that scene hold: void and caravans are in no segment."""
    segments, listed = [], []
    for value in np.unique(ids).tolist():
        label = value if value < 1000 else value // 1000
        if label in LABEL_IDS:
            listed.append(value)
            crowd = int(value < 1000 and label != 7)
            category = LABEL_IDS.index(label)
            segments.append({"id": len(listed), "category_id": category, "iscrowd": crowd, "dataset_id": value})
    return Truth(image_id, number_pixels(ids, listed), segments)


def _prediction(rng, ids):
    masks, classes, scores = [], [], []
    for value in np.unique(ids[ids >= 1000]).tolist() + [26, 4]:
        if value // 1000 == 29 or rng.random() < 0.2:
            continue
        masks.append(np.roll(ids == value, rng.integers(0, 4), axis=int(rng.integers(0, 2))))
        classes.append(LABEL_IDS.index(value // 1000) if value >= 1000 else 2)
        scores.append(round(float(rng.random()), 2))
    masks.append(np.zeros(ids.shape, bool))  # empty masks are skipped by both
    classes.append(1)
    scores.append(0.99)
    instances = Instances(ids.shape)
    instances.pred_masks = torch.from_numpy(np.stack(masks))
    instances.pred_classes, instances.scores = torch.tensor(classes), torch.tensor(scores, dtype=torch.float64)
    return {"instances": instances}


def _reference_averages(folder, scenes, outputs, monkeypatch):
    reference = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    # It writes matches.json to the working directory, which moreover fails on the integers of NumPy 2.4.
    monkeypatch.setattr(reference, "writeDict2JSON", lambda content, path: None)
    predicted, true = [], []
    for index, (ids, output) in enumerate(zip(scenes, outputs, strict=True)):
        true.append(str(folder / f"aachen_{index:06d}_000019_gtFine_instanceIds.png"))
        Image.fromarray(ids.astype(np.uint16)).save(true[-1])
        predicted.append(str(folder / f"aachen_{index:06d}_000019_pred.txt"))
        instances = output["instances"]
        with open(predicted[-1], "w") as file:
            for number in range(len(instances)):
                name = f"{index}_{number}.png"
                Image.fromarray(instances.pred_masks[number].numpy().astype(np.uint8) * 255).save(folder / name)
                label_id = LABEL_IDS[int(instances.pred_classes[number])]
                file.write(f"{name} {label_id} {float(instances.scores[number])!r}\n")
    for name, value in {
        "predictionPath": os.path.abspath(folder),
        "gtInstancesFile": str(folder / "gtInstances.json"),
        "JSONOutput": False,
        "quiet": True,
    }.items():
        monkeypatch.setattr(reference.args, name, value)
    return reference.evaluateImgLists(predicted, true, reference.args)["averages"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_cityscapes_ap_equals_cityscapesscripts(seed, tmp_path, monkeypatch):
    rng = np.random.default_rng(seed)
    scenes = [_scene(rng) for _ in range(3)]
    outputs = [_prediction(rng, ids) for ids in scenes]
    theirs = _reference_averages(tmp_path, scenes, outputs, monkeypatch)
    (tmp_path / "gt" / "aachen").mkdir(parents=True)
    for path in tmp_path.glob("*_instanceIds.png"):
        path.rename(tmp_path / "gt" / "aachen" / path.name)

    metric = CityscapesAP(class_names=CLASSES, gt_dir=tmp_path / "gt")
    records = [
        metric.count(_truth(f"aachen_{index:06d}_000019", ids), output)
        for index, (ids, output) in enumerate(zip(scenes, outputs, strict=True))
    ]
    ours = metric.summarize(records)
    assert ours["AP"] == 100 * theirs["allAp"]
    assert ours["AP50"] == 100 * theirs["allAp50%"]
    for name in ("person", "car"):
        assert ours[f"AP-{name}"] == 100 * theirs["classes"][name]["ap"]
    assert "AP-bus" not in ours and np.isnan(theirs["classes"]["bus"]["ap"])

    from_panoptic = CityscapesAP(class_names=CLASSES)
    records = [from_panoptic.count(_truth("x", ids), output) for ids, output in zip(scenes, outputs, strict=True)]
    assert from_panoptic.summarize(records)["AP"] == pytest.approx(ours["AP"], abs=5)  # caravans are void there


def test_cityscapes_ap_where_every_prediction_is_ignored():
    """Reference: IndexError when the only prediction of a class lies on void. Here the class scores 0."""
    ids = np.full((40, 40), 7)
    ids[:20, :20], ids[30:, 30:] = 24001, 4
    metric = CityscapesAP(class_names=CLASSES)
    instances = Instances(ids.shape)
    instances.pred_masks = torch.from_numpy((ids == 4)[None])
    instances.pred_classes, instances.scores = torch.tensor([1]), torch.tensor([0.9])
    results = metric.summarize([metric.count(_truth("x", ids), {"instances": instances})])
    assert results["AP"] == results["AP50"] == results["AP-person"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_coco_ap_equals_pycocotools_on_masks(seed, tmp_path):
    """The reference reads files with polygons of runs written by its own encoder, and its own loadRes."""
    import contextlib
    import io
    import json

    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    scenes = [_scene(rng) for _ in range(3)]
    outputs = [_prediction(rng, ids) for ids in scenes]
    true, predicted = [], []

    def rle(mask):
        runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": runs["size"], "counts": runs["counts"].decode()}

    for index, (ids, output) in enumerate(zip(scenes, outputs, strict=True)):
        for segment in _truth("x", ids).segments:
            if segment["category_id"] > 0:
                mask = ids == segment["dataset_id"]
                one = {"id": len(true) + 1, "image_id": index, "segmentation": rle(mask), "area": int(mask.sum())}
                true.append({**one, "category_id": segment["category_id"], "iscrowd": segment["iscrowd"], "bbox": []})
        instances = output["instances"]
        for number in range(len(instances)):
            one = {"image_id": index, "segmentation": rle(instances.pred_masks[number].numpy())}
            score, category = float(instances.scores[number]), int(instances.pred_classes[number])
            predicted.append({**one, "category_id": category, "score": score})
    content = {
        "images": [{"id": index, "height": 96, "width": 160} for index in range(3)],
        "categories": [{"id": category, "name": CLASSES[category]} for category in (1, 2, 3)],
        "annotations": true,
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "gt.json"))
        theirs = COCOeval(truth, truth.loadRes(predicted), "segm")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()

    metric = CocoAP(class_names=CLASSES, thing_ids=frozenset({1, 2, 3}))
    ours = metric.summarize([metric.count(_truth("x", i), o) for i, o in zip(scenes, outputs, strict=True)])
    for name, value in zip(("AP", "AP50", "AP75", "APs", "APm"), theirs.stats[:5], strict=True):
        assert ours[name] == (100 * value if value > -1 else pytest.approx(np.nan, nan_ok=True))


def test_coco_ap_without_predictions():
    ids = np.full((40, 40), 7)
    ids[:20, :20] = 24001
    metric = CocoAP(class_names=CLASSES, thing_ids=frozenset({1, 2, 3}))
    results = metric.summarize([metric.count(_truth("x", ids), {})])
    assert results["AP"] == results["AP-person"] == 0
    assert "AP-bus" not in results
