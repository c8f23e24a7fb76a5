"""mIoU against Detectron2's SemSegEvaluator and cityscapesscripts, run live."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from panoptic_plugin.config import get_cfg
from panoptic_plugin.evaluation.build import build_evaluator
from panoptic_plugin.evaluation.semantic import confusion, running_argmax, scores
from panoptic_plugin.evaluation.semantic_predictions import FILE_NAME


def _label_maps(rng, classes, ignored):
    """Blocks of labels; the last two classes never occur in the truth, the last one nowhere."""
    maps = []
    for _ in range(4):
        truth = np.kron(rng.choice([*classes[:-2], ignored], (6, 9)), np.ones((5, 4), int))
        noise = rng.choice(classes[:-1], truth.shape)
        labels = np.where((rng.random(truth.shape) < 0.3) | (truth == ignored), noise, truth)
        maps.append((truth, labels))
    return maps


def test_equals_detectron2(tmp_path):
    from detectron2.evaluation import SemSegEvaluator

    rng = np.random.default_rng(0)
    names = [f"c{index}" for index in range(7)]
    records, outputs = [], []
    for index, (truth, labels) in enumerate(_label_maps(rng, list(range(7)), 255)):
        path = tmp_path / f"{index}.png"
        Image.fromarray(truth.astype(np.uint8)).save(path)
        records.append({"file_name": f"{index}.jpg", "sem_seg_file_name": str(path)})
        outputs.append({"sem_seg": torch.from_numpy(np.eye(7)[labels].transpose(2, 0, 1).astype(np.float32))})
    DatasetCatalog.register("miou_parity", lambda: records)
    MetadataCatalog.get("miou_parity").set(
        stuff_classes=names,
        ignore_label=255,
        evaluator_type="sem_seg",
        stuff_dataset_id_to_contiguous_id={10 * category: category for category in range(7)},
    )
    try:
        cfg = get_cfg()
        cfg.OUTPUT_DIR = str(tmp_path)
        cfg.TEST.SAVE_PREDICTIONS = True
        results = []
        reference = SemSegEvaluator("miou_parity", distributed=False, output_dir=str(tmp_path))
        for evaluator in (build_evaluator(cfg, "miou_parity"), reference):
            evaluator.reset()
            evaluator.process(records, outputs)
            results.append(evaluator.evaluate()["sem_seg"])
    finally:
        DatasetCatalog.remove("miou_parity")
        MetadataCatalog.pop("miou_parity")
    ours, theirs = results
    written = [json.loads((tmp_path / folder / FILE_NAME).read_text()) for folder in ("inference", ".")]
    assert written[0] == written[1] and len(written[0]) > 4
    for name in ("fwIoU", "mACC", "pACC"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12)
    # Version 0.6 and cityscapesscripts count a class that is only predicted as 0; Detectron2's main leaves it out.
    over_true_classes = np.mean([ours[f"IoU-{name}"] for name in names[:5]])
    rules = [pytest.approx(value, abs=1e-12) for value in (ours["mIoU"], over_true_classes)]
    assert theirs["mIoU"] in rules
    for name in names[:5]:
        assert ours[f"IoU-{name}"] == pytest.approx(theirs[f"IoU-{name}"], abs=1e-12)
    assert ours["IoU-c5"] == 0 and np.isnan(theirs["IoU-c5"])
    assert "IoU-c6" not in ours


def test_equals_cityscapesscripts(tmp_path):
    reference = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    labels = [label for label in reference.labels if not label.ignoreInEval]
    rng = np.random.default_rng(1)
    matrix = np.zeros((len(labels) + 1,) * 2, dtype=np.int64)
    predicted, true = [], []
    to_train_id = np.full(256, 255)
    for label in labels:
        to_train_id[label.id] = label.trainId
    # Label 4 ("static") is void; it is predicted in places too, which only a panoptic map with void can cause.
    for index, (truth, prediction) in enumerate(_label_maps(rng, [label.id for label in labels], 4)):
        prediction[:2] = 4
        for kind, ids, paths in (("pred", prediction, predicted), ("gtFine_labelIds", truth, true)):
            paths.append(str(tmp_path / f"aachen_{index:06d}_000019_{kind}.png"))
            Image.fromarray(ids.astype(np.uint8)).save(paths[-1])
        matrix += confusion(to_train_id[prediction], to_train_id[truth], len(labels))

    args = reference.args
    reference_args = {name: getattr(args, name) for name in ("evalInstLevelScore", "JSONOutput", "quiet")}
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    try:
        theirs = reference.evaluateImgLists(predicted, true, args)
    finally:
        for name, value in reference_args.items():
            setattr(args, name, value)
    names = [label.name for label in sorted(labels, key=lambda label: label.trainId)]
    ours = scores(matrix, names)
    assert ours["mIoU"] == pytest.approx(100 * theirs["averageScoreClasses"], abs=1e-12)
    for name in names:
        if f"IoU-{name}" in ours:
            assert ours[f"IoU-{name}"] == pytest.approx(100 * theirs["classScores"][name], abs=1e-12)
        else:
            assert np.isnan(theirs["classScores"][name])


def test_running_argmax_equals_argmax():
    logits = torch.randint(-3, 4, (300, 13, 17))  # many ties: the first one wins in both
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for num_classes in (1, 9, 300):
            some = logits[:num_classes].to(dtype)
            assert np.array_equal(running_argmax(some), some.argmax(dim=0).numpy())
    tall = torch.randn(3, 1000, 200)[:, :, ::2]  # more rows than are worked on at a time, and not contiguous
    assert np.array_equal(running_argmax(tall), tall.argmax(dim=0).numpy())
