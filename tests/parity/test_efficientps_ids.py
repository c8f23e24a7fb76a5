"""A perfect network's results, through our evaluators and through Detectron2's own: everything 100."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator, COCOPanopticEvaluator
from PIL import Image

from panoptic_plugin import get_cfg
from panoptic_plugin.data.datasets.builtin import register_builtin_datasets
from panoptic_plugin.data.synthesize import SynthesisOptions, synthesize
from panoptic_plugin.evaluation.build import build_evaluator
from panoptic_plugin.structures import rgb_to_ids
from panoptic_plugin.systems.efficientps.results import MaskResults
from panoptic_plugin.systems.efficientps.solov2_masks import SOLOv2Masks

NAME = "cityscapes_fine_panoptic_val"
THINGS = range(11, 19)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Iterator[list[tuple[dict, dict]]]:
    """(dataset dict, result) of both images of a generated Cityscapes."""
    root = tmp_path_factory.mktemp("data")
    synthesize(root, SynthesisOptions(num_train=1, num_val=2, height=96, width=192, seed=3), num_workers=1)
    register_builtin_datasets(str(root))
    yield [(record, _result(record)) for record in DatasetCatalog.get(NAME)]
    register_builtin_datasets()


def _result(record: dict) -> dict:
    """What a network without a mistake gives; every part is that of the system but the logits."""
    ids = torch.from_numpy(rgb_to_ids(np.array(Image.open(record["pan_seg_file_name"]))).astype(np.int64))
    semantic = torch.full((19, *ids.shape), -8.0)
    masks, classes = [], []
    for segment in record["segments_info"]:
        place, category = ids == segment["id"], segment["category_id"]
        semantic[category][place] = 8.0
        if category in THINGS and not segment["iscrowd"]:
            masks.append(torch.where(place, 8.0, -8.0))
            classes.append(category - THINGS[0])
    scores = torch.linspace(0.9, 0.6, len(masks))
    size = (ids.shape[0], ids.shape[1])
    results = MaskResults(
        thing_ids=THINGS,
        label_divisor=MetadataCatalog.get(NAME).label_divisor,
        mask_threshold=0.5,
        predict_instances=True,
        return_fused_logits=False,
        fusion_arguments={"score_threshold": 0.3, "stuff_area": 1},
    )
    found = SOLOv2Masks(torch.stack(masks), torch.tensor(classes), scores)
    return results.of_image(semantic, found, image_size=size, padded_size=size, size=size)


def test_the_scenes_hold_things_of_several_categories(results):
    categories = {one["category_id"] for _, result in results for one in result["segments_info"] if one["isthing"]}
    assert len(categories) >= 3 and categories <= set(THINGS)
    assert any(segment["iscrowd"] for record, _ in results for segment in record["segments_info"])


def test_panoptic_quality_of_detectron2(results, tmp_path):
    evaluator = COCOPanopticEvaluator(NAME, str(tmp_path))
    scores = _evaluate(evaluator, results)["panoptic_seg"]
    assert [scores[key] for key in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")] == [100.0] * 5
    written = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    things, stuff = (
        {own: theirs for theirs, own in MetadataCatalog.get(NAME).get(f"{kind}_dataset_id_to_contiguous_id").items()}
        for kind in ("thing", "stuff")
    )
    for annotation, (_, result) in zip(written, results, strict=True):
        found = {segment["id"] - 1: segment["category_id"] for segment in annotation["segments_info"]}
        expected = {one["id"]: (things if one["isthing"] else stuff)[one["category_id"]]
                    for one in result["segments_info"]}  # fmt: skip
        assert found == expected  # Detectron2 adds 1 to ids, since 0 is void there


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_instances_and_classes_of_detectron2(results, monkeypatch):
    pixels = _evaluate(CityscapesSemSegEvaluator(NAME), results)["sem_seg"]
    assert pixels["IoU"] == 100.0 and pixels["IoU_sup"] == 100.0
    instance = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    # It writes matches.json to the working directory, which moreover fails on the integers of NumPy 2.4.
    monkeypatch.setattr(instance, "writeDict2JSON", lambda content, path: None)
    masks = _evaluate(CityscapesInstanceEvaluator(NAME), results)["segm"]
    assert masks["AP"] == 100.0 and masks["AP50"] == 100.0


def test_our_evaluators(results, tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    scores = _evaluate(build_evaluator(cfg, NAME), results)
    assert [scores["panoptic_seg"][key] for key in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")] == [100.0] * 5
    assert scores["sem_seg"]["mIoU"] == 100.0
    assert scores["segm"]["AP"] == 100.0 and scores["segm"]["AP50"] == 100.0


def _evaluate(evaluator, results) -> dict:
    evaluator.reset()
    for record, result in results:
        ids, segments = result["panoptic_seg"]
        evaluator.process([record], [{**result, "panoptic_seg": (ids.clone(), segments)}])
    return evaluator.evaluate()
