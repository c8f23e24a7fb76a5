"""Faults of the original joint system, each by name: what it did, and that it does not happen here.

The original's rules are written here from their description, small and slow, to show that the scene would have caught
them.
"""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from grouping_scenes import SIGMA, THINGS, make_scene, predict, quality
from PIL import Image
from torch.nn import functional as F

from panoptic_plugin.config import get_cfg
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.build import build_evaluator
from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.panoptic import PanopticQuality
from panoptic_plugin.losses.instance_weights import InstanceWeightOptions, instance_factors, instance_weight_map
from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_outputs
from panoptic_plugin.postprocessing.semantic_grouping import GroupingOptions
from panoptic_plugin.structures import ids_to_rgb


def original_weights(true, predicted, groups, num_classes):
    """-sum_c true(c) log(predicted(c) + 1e-7) of the shares in each predicted instance, 0 everywhere else."""
    weights = np.zeros(true.shape)
    for group in np.unique(groups[groups > 0]):
        mask = groups == group
        shares = [np.bincount(each[mask], minlength=num_classes) / mask.sum() for each in (true, predicted)]
        weights[mask] = -(shares[0] * np.log(shares[1] + 1e-7)).sum()
    return weights


@pytest.mark.parametrize("mode", ["instance_ce", "hist_ce"])
def test_defect_1_weights_are_0_outside_of_predicted_instances_and_negative_on_perfect_ones(mode):
    true = torch.zeros((1, 12, 24), dtype=torch.int64)
    true[0, 3:9, 3:9], true[0, 3:9, 14:20] = 1, 1
    objects = torch.zeros_like(true)
    objects[0, 3:9, 3:9], objects[0, 3:9, 14:20] = 1, 2
    predicted, groups = true.clone(), objects.clone()
    predicted[objects == 2], groups[objects == 2] = 0, 0  # the second object is missed
    theirs = original_weights(true.numpy(), predicted.numpy(), groups.numpy(), 2)
    assert (theirs[groups.numpy() == 0] == 0).all() and theirs[objects.numpy() == 1].max() < 0

    logits = F.one_hot(predicted, 2).permute(0, 3, 1, 2).float() * 30
    options = InstanceWeightOptions(mode)
    arguments = {"logits": logits, "targets": true, "instance_ids": objects, "groups": groups}
    weights, factors = instance_weight_map(options, **arguments), instance_factors(options, **arguments)
    assert weights.min() > 0 and factors.min() >= 1
    if mode == "instance_ce":
        assert weights[objects == 2].min() > 2 * weights[objects == 1].max()
        assert (factors[true == 0] == 1).all()


def panoptic_quality(truth, ids):
    metric = PanopticQuality(
        class_names=["road", "person"], thing_ids=frozenset({1}), categories=[0, 1], label_divisor=1000
    )
    return metric.summarize([metric.count(truth, {"panoptic_seg": (torch.from_numpy(ids), None)})])


def test_defect_2_id_0_is_taken_for_void_and_pq_exceeds_100():
    """The first segment of class 0 has the id 0 there, which is void to panopticapi, and void is written as 0 too."""
    numbers = np.ones((20, 20), dtype=np.int32)
    numbers[5:10, 5:10], numbers[:3] = 2, 0
    segments = [{"id": n, "category_id": n - 1, "iscrowd": 0, "dataset_id": n} for n in (1, 2)]
    truth = Truth("1", numbers, segments)
    perfect = np.select([numbers == 1, numbers == 2], [0, 1001], -1).astype(np.int64)
    assert panoptic_quality(truth, perfect)["PQ"] == 100
    # Void is no segment of class 0: a prediction of nothing finds nothing.
    nothing = np.where(numbers == 2, 1001, -1).astype(np.int64)
    found = panoptic_quality(truth, nothing)
    assert found["PQ-road"] == 0 and found["PQ-person"] == 100
    random = np.random.default_rng(0)
    for _ in range(20):
        ids = random.choice([-1, 0, 1001, 1002], size=numbers.shape)
        values = panoptic_quality(truth, ids)
        assert all(0 <= value <= 100 for value in values.values())


def street_set(tmp_path, name, segments_of):
    """A registered set of one image: road, its markings and a lane of the same class, a car, no bus."""
    ids = np.full((40, 60), 10)
    ids[:5], ids[20:22], ids[30:34] = 40, 11, 12
    ids[24:29, 10:20] = 20001
    (tmp_path / "gt").mkdir(exist_ok=True)
    Image.fromarray(ids_to_rgb(ids)).save(tmp_path / "gt" / "street_7.png")
    categories = {10: "road", 11: "marking", 12: "lane", 20: "car", 30: "bus", 40: "sky"}
    content = {
        "images": [{"id": "street_7", "file_name": "street_7.jpg", "height": 40, "width": 60}],
        "categories": [{"id": c, "name": n, "isthing": int(c in (20, 30))} for c, n in categories.items()],
        "annotations": [
            {"image_id": "street_7", "file_name": "street_7.png", "segments_info": segments_of(np.unique(ids).tolist())}
        ],
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    MetadataCatalog.get(name).set(
        thing_dataset_id_to_contiguous_id={20: 1, 30: 2},
        stuff_dataset_id_to_contiguous_id={10: 0, 11: 0, 12: 0, 40: 3},
        stuff_classes=["road", "car", "bus", "sky"],
        thing_classes=["road", "car", "bus", "sky"],
        panoptic_json=str(tmp_path / "gt.json"),
        panoptic_root=str(tmp_path / "gt"),
        evaluator_type="coco_panoptic_seg",
    )
    return ids


def segments_of(ids):
    return [{"id": i, "category_id": i // 1000 if i > 1000 else i, "iscrowd": 0} for i in ids]


def evaluate(tmp_path, name, ids, **keys):
    """A perfect prediction, with the classes of the network, of which all three raw classes of a road are one."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.DATASETS.TEST = (name,)
    cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES = True
    for key, value in keys.items():
        cfg.TEST[key] = value
    classes = np.select([ids == 20001, ids == 40], [1, 3], 0)
    panoptic = torch.from_numpy(np.where(classes == 1, 1001, classes * 1000))
    instances = Instances(ids.shape)
    instances.pred_masks = torch.from_numpy(ids == 20001)[None]
    instances.pred_classes, instances.scores = torch.tensor([1]), torch.tensor([0.7])
    evaluator = build_evaluator(cfg, name)
    evaluator.reset()
    evaluator.process(
        [{"image_id": "street_7", "file_name": "street_7.jpg", "height": 40, "width": 60}],
        [{"sem_seg": torch.from_numpy(classes), "panoptic_seg": (panoptic, None), "instances": instances}],
    )
    return evaluator.evaluate()


@pytest.fixture
def street(tmp_path, monkeypatch, request):
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path / "cache"))
    name = f"street_of_{request.node.name}"
    yield tmp_path, name, street_set(tmp_path, name, segments_of)
    MetadataCatalog.pop(name)


def test_defect_3_stuff_of_several_raw_labels_gives_a_perfect_prediction_pq_0(street):
    tmp_path, name, ids = street
    results = evaluate(tmp_path, name, ids)
    assert results["panoptic_seg"]["PQ-road"] == results["panoptic_seg"]["PQ"] == 100


def test_defect_4_all_instances_have_the_score_1():
    scenes = [make_scene(seed, "all") for seed in range(8)]
    outputs = [predict(scene, GroupingOptions()) for scene in scenes]
    equal = [predict(scene, GroupingOptions(), constant_score=True) for scene in scenes]
    assert quality(scenes, outputs)["AP"] > quality(scenes, equal)["AP"] + 1
    for scene, output in zip(scenes, outputs, strict=True):
        probability = scene.logits.softmax(dim=0)
        for segment in (one for one in output["segments_info"] if one["isthing"]):
            mask = output["panoptic_seg"][0] == segment["id"]
            y, x = segment["center_yx"]  # a detected center, not the middle of the mask
            expected = probability[segment["category_id"]][mask].mean() * scene.heatmap[0, y, x]
            assert segment["score"] == pytest.approx(float(expected), rel=1e-5)
            centers, _ = find_centers(scene.heatmap, 0.1, 7, 200)
            assert [y, x] in centers.tolist()


def test_defect_5_ap_res_is_appended_in_the_working_directory_and_absent_classes_count_as_minus_1(street, monkeypatch):
    tmp_path, name, ids = street
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for _ in range(2):
        results = evaluate(tmp_path, name, ids)
    assert not list((tmp_path / "elsewhere").iterdir())
    (file,) = (tmp_path / "out").rglob("ap_res.txt")
    text = file.read_text()
    assert text.startswith("# Instance segmentation") and name in text
    assert text.count("AR100") == 1 and text.count("\ncar") == 1
    assert "-1" not in text.replace("\n#", "").split("class")[1] and "-100" not in text
    (absent,) = [line.split() for line in text.splitlines() if line.startswith("bus")]
    assert absent == ["bus", "n/a", "n/a"]
    assert results["segm"]["AP"] == pytest.approx(100)
    content = json.loads(file.with_name("metrics.json").read_text())
    assert content["instances"] == {"predicted": 1, "dropped": 0}
    assert next(one for one in content["per_class"] if one["class"] == "bus")["AP"] is None


def test_defect_6_caches_are_pickles_under_a_fixed_name_that_know_nothing_of_the_data(street):
    tmp_path, name, ids = street
    file = tmp_path / "panoptic_val.json"
    expected = evaluate(tmp_path, name, ids, CACHE="off")
    assert evaluate(tmp_path, name, ids, PANOP_JSON=str(file)) == expected
    # The key decides where it is read from, and images have the ids of the data set.
    assert [one["image_id"] for one in json.loads(file.read_text())["annotations"]] == ["street_7"]
    changed = street_set(tmp_path, name, lambda ids: segments_of([i for i in ids if i]))
    change_one_pixel(tmp_path, changed)
    with pytest.raises(DatasetError, match="made of other labels"):
        evaluate(tmp_path, name, ids, PANOP_JSON=str(file))
    assert evaluate(tmp_path, name, ids) != expected
    file.write_bytes(pickle.dumps({"annotations": []}))
    with pytest.raises(DatasetError, match="pickle"):
        evaluate(tmp_path, name, ids, PANOP_JSON=str(file))


def change_one_pixel(tmp_path, ids):
    ids[24, 10] = 10
    Image.fromarray(ids_to_rgb(ids)).save(tmp_path / "gt" / "street_7.png")


def original_grouping(labels, heatmap, offsets):
    """Class by class, with the centers whose own pixel is of that class; without one the class is void."""
    centers, _ = find_centers(heatmap, 0.1, 7, 200)
    found = np.full(labels.shape, -1)
    for category in THINGS:
        own = [c for c in centers.tolist() if labels[c[0], c[1]] == category]
        for y, x in np.argwhere(labels == category) if own else []:
            target = np.array([y, x]) + offsets[:, y, x]
            found[y, x] = category * 1000 + 1 + int(np.argmin([math.dist(target, c) for c in own]))
    return found


@pytest.mark.parametrize("mode", ["majority", "semantic_map", "class_strict"])
def test_defect_7_a_center_on_another_class_loses_the_object(mode):
    labels = torch.zeros((20, 30), dtype=torch.int64)
    labels[5:15, 5:25] = 3
    labels[:, 14:17] = 1  # a pole in front of the car, where its center is
    heatmap, offsets = torch.zeros((1, 20, 30)), torch.zeros((2, 20, 30))
    heatmap[0, 10, 15] = 0.9
    grid = torch.stack(torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij"))
    offsets[:] = torch.tensor([10, 15])[:, None, None] - grid
    theirs = original_grouping(labels.numpy(), heatmap, offsets.numpy())
    assert (theirs[labels == 3] == -1).all()
    ids, segments = panoptic_from_outputs(
        F.one_hot(labels, 6).permute(2, 0, 1).float() * 5, heatmap, offsets,
        thing_ids=THINGS, label_divisor=1000, stuff_area=0, threshold=0.1, nms_kernel=7, top_k=200,
        grouping=GroupingOptions(mode, sigma=SIGMA),
    )  # fmt: skip
    assert torch.equal(ids == 3001, labels == 3)
    assert [one["score"] is not None for one in segments if one["isthing"]] == [True]
