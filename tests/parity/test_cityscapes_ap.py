"""Cityscapes instance AP against cityscapesscripts, run live on its files: every figure equal, bit for bit."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from instance_scenes import CLASSES, LABEL_IDS, instance_ids, map_output, masks_output, truth_of
from PIL import Image

from panoptic_plugin.evaluation.instance import CityscapesAP

reference = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")


def _reference_averages(folder, scenes, outputs, monkeypatch):
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


def _assert_equal(scenes, outputs, folder, monkeypatch):
    theirs = _reference_averages(folder, scenes, outputs, monkeypatch)
    (folder / "gt" / "aachen").mkdir(parents=True)
    for path in folder.glob("*_instanceIds.png"):
        path.rename(folder / "gt" / "aachen" / path.name)
    metric = CityscapesAP(class_names=CLASSES, gt_dir=folder / "gt")
    records = [
        metric.count(truth_of(f"aachen_{index:06d}_000019", ids), output)
        for index, (ids, output) in enumerate(zip(scenes, outputs, strict=True))
    ]
    ours = metric.summarize(records)
    assert ours["AP"] == 100 * theirs["allAp"]
    assert ours["AP50"] == 100 * theirs["allAp50%"]
    for name in ("person", "car"):
        assert ours[f"AP-{name}"] == 100 * theirs["classes"][name]["ap"]
        assert ours[f"AP50-{name}"] == 100 * theirs["classes"][name]["ap50%"]
    assert "AP-bus" not in ours and np.isnan(theirs["classes"]["bus"]["ap"])
    assert metric.summarize(records[::-1]) == ours
    return ours


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_equals_cityscapesscripts_on_masks(seed, tmp_path, monkeypatch):
    rng = np.random.default_rng(seed)
    scenes = [instance_ids(rng) for _ in range(3)]
    outputs = [masks_output(rng, ids) for ids in scenes]
    ours = _assert_equal(scenes, outputs, tmp_path, monkeypatch)
    assert ours["AP50"] > 0

    from_panoptic = CityscapesAP(class_names=CLASSES)
    records = [from_panoptic.count(truth_of("x", ids), output) for ids, output in zip(scenes, outputs, strict=True)]
    assert from_panoptic.summarize(records)["AP"] == pytest.approx(ours["AP"], abs=5)  # caravans are void there


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_equals_cityscapesscripts_on_panoptic_maps(seed, tmp_path, monkeypatch):
    rng = np.random.default_rng(seed)
    scenes = [instance_ids(rng) for _ in range(3)]
    _assert_equal(scenes, [map_output(rng, ids) for ids in scenes], tmp_path, monkeypatch)


def test_where_every_prediction_is_ignored():
    """Reference: IndexError when the only prediction of a class lies on void. Here the class scores 0."""
    ids = np.full((40, 40), 7)
    ids[:20, :20], ids[30:, 30:] = 24001, 4
    metric = CityscapesAP(class_names=CLASSES)
    instances = Instances(ids.shape)
    instances.pred_masks = torch.from_numpy((ids == 4)[None])
    instances.pred_classes, instances.scores = torch.tensor([1]), torch.tensor([0.9])
    results = metric.summarize([metric.count(truth_of("x", ids), {"instances": instances})])
    assert results["AP"] == results["AP50"] == results["AP-person"] == 0


def test_without_objects_nothing_is_defined():
    metric = CityscapesAP(class_names=CLASSES)
    results = metric.summarize([metric.count(truth_of("x", np.full((9, 9), 7)), {})])
    assert list(results) == ["AP", "AP50"] and np.isnan(list(results.values())).all()
