"""The whole evaluator on a small dataset: completeness, independence of order, report."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from detectron2.data import MetadataCatalog

from panoptic_plugin.errors import ConfigError, DatasetError
from panoptic_plugin.evaluation.build import build_evaluator


def _evaluate(scene_set, order=None, **keys):
    evaluator = build_evaluator(scene_set.cfg, scene_set.name)
    for index in range(len(scene_set.inputs)) if order is None else order:
        evaluator.process([scene_set.inputs[index]], [scene_set.outputs[index]])
    return evaluator.evaluate()


def test_results_and_report(scene_set, caplog):
    with caplog.at_level("INFO"):
        results = _evaluate(scene_set)
    assert list(results) == ["panoptic_seg", "sem_seg", "segm"]
    assert 50 < results["panoptic_seg"]["PQ"] < 100
    assert 50 < results["sem_seg"]["mIoU"] < 100
    assert 0 < results["segm"]["AP"] < 100
    assert "PQ-absent" not in results["panoptic_seg"]
    assert "| All" in caplog.text and "#categories" in caplog.text and "mIoU" in caplog.text

    content = json.loads((scene_set.folder / "out/inference/metrics.json").read_text())
    assert content["schema_version"] == 1
    assert content["results"]["panoptic_seg"]["PQ"] == results["panoptic_seg"]["PQ"]
    absent = content["per_class"][4]
    assert {absent.pop(name) for name in ("class", "kind")} == {"absent", "thing"}
    assert absent == dict.fromkeys(("PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU", "AP", "AP50"))
    assert content["num_categories"] == {"All": 4, "Things": 2, "Stuff": 2}


def test_order_and_identical_duplicates_do_not_matter(scene_set):
    straight = _evaluate(scene_set)
    assert _evaluate(scene_set, order=[4, 2, 0, 3, 1, 2, 4]) == straight


def test_missing_images_are_all_named(scene_set):
    with pytest.raises(DatasetError, match=r"2 of 5 images have no prediction: 8, 10"):
        _evaluate(scene_set, order=[0, 2, 4])


def test_conflicting_duplicates_are_named(scene_set):
    evaluator = build_evaluator(scene_set.cfg, scene_set.name)
    evaluator.process(scene_set.inputs, scene_set.outputs)
    other = copy.deepcopy(scene_set.outputs[1])
    other["panoptic_seg"][0][:12] = -1
    evaluator.process(scene_set.inputs[1:2], [other])
    with pytest.raises(DatasetError, match="1 images have different predictions: 8"):
        evaluator.evaluate()


def test_size_mismatch_names_the_image(scene_set):
    evaluator = build_evaluator(scene_set.cfg, scene_set.name)
    output = {**scene_set.outputs[0], "panoptic_seg": (torch.zeros(5, 6, dtype=torch.int64), None)}
    evaluator.process(scene_set.inputs, [output, *scene_set.outputs[1:]])
    with pytest.raises(DatasetError, match=r"image 7: the prediction is 5x6 .* 24x40"):
        evaluator.evaluate()


def test_image_outside_the_ground_truth(scene_set):
    evaluator = build_evaluator(scene_set.cfg, scene_set.name)
    with pytest.raises(DatasetError, match="image 99 "):
        evaluator.process([{"image_id": 99, "file_name": "x.jpg"}], scene_set.outputs[:1])


def test_empty_predictions_score_0(scene_set):
    for output in scene_set.outputs:
        output["panoptic_seg"] = (torch.full((24, 40), -1), None)
        output["sem_seg"] = torch.full((24, 40), -1)
        output["instances"] = output["instances"][torch.zeros(len(output["instances"]), dtype=torch.bool)]
    results = _evaluate(scene_set)
    assert results["panoptic_seg"]["PQ"] == results["sem_seg"]["mIoU"] == results["segm"]["AP"] == 0


def test_things_only_dataset(scene_set):
    metadata = MetadataCatalog.get(scene_set.name)
    everything = {10: 0, 20: 1, 30: 2, 40: 3, 50: 4}
    MetadataCatalog.pop(scene_set.name)
    MetadataCatalog.get(scene_set.name).set(
        **{**metadata.as_dict(), "thing_dataset_id_to_contiguous_id": everything, "name": scene_set.name}
    )
    results = _evaluate(scene_set)
    assert math.isnan(results["panoptic_seg"]["PQ_st"])
    assert results["panoptic_seg"]["PQ_th"] == results["panoptic_seg"]["PQ"]
    content = json.loads((scene_set.folder / "out/inference/metrics.json").read_text())
    assert content["results"]["panoptic_seg"]["PQ_st"] is None


def test_disagreeing_png_and_json(scene_set):
    path = scene_set.folder / "gt.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["id"] = 123
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"000.png and .* disagree on image 7: .*\[123\].*\[10\]"):
        _evaluate(scene_set)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_unreadable_png(scene_set, damage):
    path = scene_set.folder / "gt" / "000.png"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(DatasetError, match="000.png"):
        _evaluate(scene_set)


def test_unknown_category(scene_set):
    path = scene_set.folder / "gt.json"
    path.write_text(path.read_text().replace('"category_id": 10,', '"category_id": 9999,'))
    with pytest.raises(DatasetError, match="category_id 9999"):
        _evaluate(scene_set)


def test_unknown_evaluator_type(scene_set):
    MetadataCatalog.get("scenes_of_no_type")
    with pytest.raises(ConfigError, match="evaluator_type None"):
        build_evaluator(scene_set.cfg, "scenes_of_no_type")


def test_saved_predictions_score_the_same(scene_set):
    reference = pytest.importorskip("panopticapi.evaluation")
    scene_set.cfg.TEST.SAVE_PREDICTIONS = True
    results = _evaluate(scene_set)
    folder = scene_set.folder / "out/inference"
    saved = json.loads((folder / "predictions/panoptic.json").read_text())
    predicted = {one["image_id"]: one for one in saved["annotations"]}
    truth = json.loads((scene_set.folder / "gt.json").read_text())
    for annotation in truth["annotations"]:
        for segment in annotation["segments_info"]:
            segment["area"] = int((scene_set.truth[annotation["file_name"]] == segment["id"]).sum())
    pairs = [(one, predicted[one["image_id"]]) for one in truth["annotations"]]
    categories = {one["id"]: one for one in truth["categories"]}
    pictures = folder / "predictions/panoptic"
    theirs = reference.pq_compute_single_core(0, pairs, scene_set.folder / "gt", pictures, categories)
    for suffix, isthing in (("", None), ("_th", True), ("_st", False)):
        assert results["panoptic_seg"]["PQ" + suffix] == 100 * theirs.pq_average(categories, isthing)[0]["pq"]


def test_boundary_quality_is_an_option(scene_set):
    assert not any(task.startswith("boundary") for task in _evaluate(scene_set))
    scene_set.cfg.TEST.BOUNDARY = True
    scene_set.cfg.TEST.BOUNDARY_DILATION = 0.03
    results = _evaluate(scene_set)
    assert 0 < results["boundary_panoptic_seg"]["PQ"] <= results["panoptic_seg"]["PQ"]
    assert 0 < results["boundary_sem_seg"]["mIoU"] < results["sem_seg"]["mIoU"]
    content = json.loads((scene_set.folder / "out/inference/metrics.json").read_text())
    assert content["results"]["boundary_panoptic_seg"]["PQ"] == results["boundary_panoptic_seg"]["PQ"]
