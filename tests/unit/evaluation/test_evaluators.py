"""The whole evaluator on a small dataset: completeness, independence of order, report."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from panoptic_plugin.errors import ConfigError, DatasetError
from panoptic_plugin.evaluation.build import build_evaluator, panoptic_evaluator
from panoptic_plugin.evaluation.fingerprint import config_sha256, dataset_fingerprint
from panoptic_plugin.evaluation.panoptic_labels import PanopticLabels
from panoptic_plugin.evaluation.saved import SavedPredictions, score_saved
from panoptic_plugin.structures import ids_to_rgb


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


@pytest.mark.parametrize(
    ("system", "section"),
    [
        ("PluginPanopticDeepLab", "PANOPTIC_DEEPLAB.PREDICT_INSTANCES"),
        ("PluginEfficientPS", "SOLOV2.PREDICT_INSTANCES"),
        ("PanopticDETR", "DETR.TEST.INSTANCE_ON"),
    ],
)
def test_no_ap_of_a_model_whose_instances_are_off(scene_set, system, section):
    cfg = scene_set.cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = system, True
    with_ap = build_evaluator(cfg, scene_set.name)
    cfg.merge_from_list([f"MODEL.{section}", False])
    without = build_evaluator(cfg, scene_set.name)
    assert [part.task for part in with_ap._metrics] == ["panoptic_seg", "sem_seg", "segm"]
    assert [part.task for part in without._metrics] == ["panoptic_seg", "sem_seg"]


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


def test_the_metric_of_instances_is_a_choice(scene_set):
    cfg = scene_set.cfg.clone()
    cfg.defrost()
    cfg.TEST.INSTANCE_METRIC = "pascal"
    with pytest.raises(ConfigError, match="INSTANCE_METRIC is 'pascal', expected one of dataset, coco"):
        build_evaluator(cfg, scene_set.name)


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


def _rescored(scene_set, predictions):
    labels = PanopticLabels.of(MetadataCatalog.get(scene_set.name))
    evaluator = panoptic_evaluator(
        labels, dataset_name=scene_set.name, folder=None, with_instances=predictions.has_scores
    )
    return score_saved(evaluator, predictions, labels.contiguous_ids, labels.thing_ids)


def test_predictions_read_back_score_the_same(scene_set):
    results = _evaluate(scene_set)
    assert 0 < results["segm"]["AP"] < 100
    assert _rescored(scene_set, SavedPredictions(scene_set.folder / "out")) == results


def test_saving_can_be_left_out(scene_set):
    results = _evaluate(scene_set)
    scene_set.cfg.TEST.SAVE_PREDICTIONS = False
    scene_set.cfg.OUTPUT_DIR = str(scene_set.folder / "bare")
    assert _evaluate(scene_set) == results
    assert not (scene_set.folder / "bare/inference/predictions").exists()
    assert json.loads((scene_set.folder / "bare/inference/metrics.json").read_text())["predictions"] is None


def test_predictions_are_written_before_scoring_and_taken_away_before_the_next(scene_set):
    label = scene_set.folder / "gt" / "001.png"
    whole = label.read_bytes()
    label.write_bytes(whole[:40])
    with pytest.raises(DatasetError, match=r"1 of 5 images cannot be scored: .*001.png.*panoptic evaluate --predict"):
        _evaluate(scene_set)
    label.write_bytes(whole)
    saved = scene_set.folder / "out/inference/predictions"
    results = _rescored(scene_set, SavedPredictions(saved))
    assert results == _evaluate(scene_set)
    evaluator = build_evaluator(scene_set.cfg, scene_set.name)
    evaluator.reset()
    assert not (saved / "panoptic.json").exists() and (saved / "panoptic").is_dir()
    assert not list(saved.rglob(".*")), "no temporary file is left"


def test_missing_images_leave_the_other_predictions(scene_set):
    with pytest.raises(DatasetError, match="have no prediction: 8, 10.*panoptic evaluate"):
        _evaluate(scene_set, order=[0, 2, 4])
    predictions = SavedPredictions(scene_set.folder / "out/inference")
    assert predictions.image_ids == ["7", "9", "11"]
    with pytest.raises(DatasetError, match="2 of 5 images have no prediction: 8, 10"):
        _rescored(scene_set, predictions)


def test_batches_do_not_matter(scene_set):
    straight = _evaluate(scene_set)
    evaluator = build_evaluator(scene_set.cfg, scene_set.name)
    evaluator.process(scene_set.inputs[:3], scene_set.outputs[:3])
    evaluator.process(scene_set.inputs[3:], scene_set.outputs[3:])
    assert evaluator.evaluate() == straight


def test_per_image_file_adds_up(scene_set):
    results = _evaluate(scene_set)
    folder = scene_set.folder / "out/inference"
    content = json.loads((folder / "metrics.json").read_text())
    lines = [json.loads(line) for line in (folder / "per_image.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == [7, 8, 9, 10, 11]
    for category, row in enumerate(content["per_class"]):
        found = [line["categories"].get(str(category), {}) for line in lines]
        sums = {key: sum(one.get(key, 0) for one in found) for key in ("tp", "fp", "fn", "iou_sum")}
        assert [sums["tp"], sums["fp"], sums["fn"]] == [row[key] or 0 for key in ("TP", "FP", "FN")]
        if row["PQ"] is not None:
            weight = sums["tp"] + (sums["fp"] + sums["fn"]) / 2
            assert row["PQ"] == pytest.approx(100 * sums["iou_sum"] / weight, abs=1e-9)
            assert row["PQ"] == results["panoptic_seg"][f"PQ-{row['class']}"]
    for line, (name, ids) in zip(lines, scene_set.truth.items(), strict=True):
        assert line["label"] == name
        for segment in line["segments"]:
            if segment["true_id"] is None:
                continue
            rows, columns = (ids == segment["true_id"]).nonzero()
            box = [columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()]
            assert (segment["area"], segment["bbox"]) == (len(rows), box)
    pixels = json.loads((folder / "confusion.json").read_text())["pixels"]
    assert sum(map(sum, pixels)) == 5 * 24 * 40


def test_one_pixel_makes_a_prediction_another(scene_set):
    """Also where no count changes: a pixel of void truth."""
    evaluator = build_evaluator(scene_set.cfg, scene_set.name)
    evaluator.process(scene_set.inputs, scene_set.outputs)
    other = copy.deepcopy(scene_set.outputs[2])
    other["panoptic_seg"][0][-1, -1] = 0
    evaluator.process(scene_set.inputs[2:3], [other])
    with pytest.raises(DatasetError, match="1 images have different predictions: 9"):
        evaluator.evaluate()


def test_fingerprint_follows_content_and_sizes(scene_set):
    files = PanopticLabels.of(MetadataCatalog.get(scene_set.name)).truth.files
    before = dataset_fingerprint(*files)
    assert dataset_fingerprint(*files) == before
    files[1][0].write_bytes(files[1][0].read_bytes() + b"x")
    changed = dataset_fingerprint(*files)
    files[0].write_text(files[0].read_text() + " ")
    assert len({before, changed, dataset_fingerprint(*files)}) == 3


def test_config_hash_leaves_out_where_a_run_lies(scene_set):
    cfg = scene_set.cfg
    before = config_sha256(cfg)
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = "elsewhere", "w.pth"
    assert config_sha256(cfg) == before
    cfg.SEED = 5
    assert config_sha256(cfg) != before


def test_truth_without_instances_has_no_ap(scene_set):
    path = scene_set.folder / "gt.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        ids = scene_set.truth[annotation["file_name"]]
        stuff = np.where(np.isin(ids, [10, 20]), ids, 0)
        Image.fromarray(ids_to_rgb(stuff)).save(scene_set.folder / "gt" / annotation["file_name"])
        annotation["segments_info"] = [one for one in annotation["segments_info"] if one["id"] in (10, 20)]
    path.write_text(json.dumps(content))
    results = _evaluate(scene_set)
    assert math.isnan(results["segm"]["AP"]) and results["panoptic_seg"]["PQ_st"] > 50
    content = json.loads((scene_set.folder / "out/inference/metrics.json").read_text())
    assert content["results"]["segm"]["AP"] is None


def test_a_predicted_segment_of_id_0_counts(scene_set):
    """Of class 0, instance 0: 0 is void on disk, so saved ids begin with 1."""
    results = _evaluate(scene_set)
    assert results["panoptic_seg"]["PQ-road"] > 50
    saved = json.loads((scene_set.folder / "out/inference/predictions/panoptic.json").read_text())
    assert min(one["id"] for annotation in saved["annotations"] for one in annotation["segments_info"]) == 1


def test_the_tables_show_boundaries_and_the_limit_of_instances(scene_set, caplog):
    scene_set.cfg.TEST.BOUNDARY = True
    evaluator = build_evaluator(scene_set.cfg, scene_set.name)
    evaluator.reset()
    one = scene_set.outputs[0]["instances"]
    assert len(one) > 0
    scene_set.outputs[0]["instances"] = Instances.cat([one[:1]] * 103)
    evaluator.process(scene_set.inputs, scene_set.outputs)
    evaluator.evaluate()
    assert "Boundary" in evaluator.on_results.tables and "Boundary mIoU" in evaluator.on_results.tables
    folder = scene_set.folder / "out/inference"
    content = json.loads((folder / "metrics.json").read_text())
    assert content["instances"]["dropped"] == 3
    assert f"{content['instances']['predicted']} predicted, 3 of them beyond" in (folder / "ap_res.txt").read_text()


def test_a_model_of_classes_alone_gives_miou_on_a_panoptic_dataset(scene_set, caplog):
    expected = _evaluate(scene_set)["sem_seg"]
    scene_set.cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    evaluator = build_evaluator(scene_set.cfg, scene_set.name)
    assert "mIoU alone is computed" in caplog.text
    evaluator.process(scene_set.inputs, [{"sem_seg": output["sem_seg"]} for output in scene_set.outputs])
    assert evaluator.evaluate() == {"sem_seg": expected}
    folder = scene_set.folder / "out/inference"
    content = json.loads((folder / "metrics.json").read_text())
    assert list(content["results"]) == ["sem_seg"] and content["per_class"][0]["IoU"] == expected["IoU-road"]
    saved = json.loads((folder / "sem_seg_predictions.json").read_text())
    assert {one["category_id"] for one in saved} == {10, 20, 30, 40}
