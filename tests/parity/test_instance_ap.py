"""COCO's AP and AR against pycocotools, run live on its own run-length codes: every figure equal, bit for bit."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from instance_scenes import CLASSES, THINGS, instance_ids, map_output, masks_output, truth_of
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_plugin.evaluation.instance import CocoAP

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def _code(mask):
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def _reference(scenes, outputs, folder):
    """COCOeval of the dataset, by way of the file it reads and its own loadRes."""
    true, predicted, images = [], [], []
    for index, (ids, output) in enumerate(zip(scenes, outputs, strict=True)):
        images.append({"id": index, "height": ids.shape[0], "width": ids.shape[1]})
        for segment in truth_of("x", ids).segments:
            if segment["category_id"] in THINGS:
                mask = ids == segment["dataset_id"]
                one = {"id": len(true) + 1, "image_id": index, "segmentation": _code(mask), "area": int(mask.sum())}
                true.append({**one, "category_id": segment["category_id"], "iscrowd": segment["iscrowd"], "bbox": []})
        instances = output["instances"]
        for number in range(len(instances)):
            one = {"image_id": index, "segmentation": _code(instances.pred_masks[number].numpy())}
            score, category = float(instances.scores[number]), int(instances.pred_classes[number])
            predicted.append({**one, "category_id": category, "score": score})
    categories = [{"id": category, "name": CLASSES[category]} for category in sorted(THINGS)]
    (folder / "gt.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": true}))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "gt.json"))
        evaluation = COCOeval(truth, truth.loadRes(predicted), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _assert_equal(scenes, outputs, folder):
    theirs = _reference(scenes, outputs, folder)
    metric = CocoAP(class_names=CLASSES, thing_ids=THINGS)
    pairs = enumerate(zip(scenes, outputs, strict=True))
    records = [metric.count(truth_of(str(index), ids), output) for index, (ids, output) in pairs]
    ours = metric.summarize(records)
    for name, value in zip(STATS, theirs.stats, strict=True):
        assert ours[name] == (100 * value if value > -1 else pytest.approx(np.nan, nan_ok=True)), name
    for position, category in enumerate(sorted(THINGS)):
        curve = theirs.eval["precision"][:, :, position, 0, -1]
        if (curve > -1).any():
            assert ours[f"AP-{CLASSES[category]}"] == 100 * np.mean(curve[curve > -1])
            assert ours[f"AP50-{CLASSES[category]}"] == 100 * np.mean(curve[0][curve[0] > -1])
        else:
            assert f"AP-{CLASSES[category]}" not in ours
    assert repr(metric.summarize(records[::-1])) == repr(ours)  # as text, because NaN does not equal itself
    return ours


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_on_masks(seed, tmp_path):
    rng = np.random.default_rng(seed)
    scenes = [instance_ids(rng) for _ in range(12 if seed == 0 else 3)]  # image 10 comes before image 2 as a text
    outputs = [masks_output(rng, ids) for ids in scenes]
    _assert_equal(scenes, outputs, tmp_path)


def test_equals_pycocotools_for_all_sizes(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [np.kron(instance_ids(rng, height=60, width=60), np.ones((zoom, zoom), int)) for zoom in (1, 2, 5, 6)]
    ours = _assert_equal(scenes, [masks_output(rng, ids) for ids in scenes], tmp_path)
    assert not np.isnan([ours[name] for name in STATS]).any()


def test_equals_pycocotools_with_more_than_100_predictions(tmp_path):
    rng = np.random.default_rng(1)
    scenes = [instance_ids(rng, height=40, width=50) for _ in range(2)]
    outputs = [masks_output(rng, ids, copies=60) for ids in scenes]
    assert all((output["instances"].pred_classes == 1).sum() > 100 for output in outputs)
    _assert_equal(scenes, outputs, tmp_path)


def test_equals_pycocotools_on_panoptic_maps(tmp_path):
    rng = np.random.default_rng(2)
    scenes = [instance_ids(rng) for _ in range(4)]
    _assert_equal(scenes, [map_output(rng, ids) for ids in scenes], tmp_path)


def test_without_predictions():
    ids = np.full((40, 40), 7)
    ids[:20, :20] = 24001
    metric = CocoAP(class_names=CLASSES, thing_ids=THINGS)
    results = metric.summarize([metric.count(truth_of("x", ids), {})])
    assert results["AP"] == results["AR100"] == results["AP-person"] == 0
    assert "AP-bus" not in results
