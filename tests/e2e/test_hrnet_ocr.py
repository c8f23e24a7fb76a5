"""HRNet-OCR from its published config, made small: training on generated scenes, scores, resuming, augmentation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_training import HEIGHT, WIDTH, job_environment, make_scenes

from panoptic_plugin.cli.train import main

CONFIG = (
    Path(__file__).resolve().parents[2]
    / "configs/Cityscapes-SemanticSegmentation/hrnet_ocr_W_48_os4_poly_120k_bs12_crop_512_1024.yaml"
)
SMALL = {
    "MODEL.WEIGHTS": "",
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.DEPTH": 4,
    "MODEL.HRNET.MODULES": [1, 1, 1],
    "MODEL.HRNET.BLOCKS": 1,
    "MODEL.SEM_SEG_HEAD.OCR.MID_CHANNELS": 16,
    "MODEL.SEM_SEG_HEAD.OCR.KEY_CHANNELS": 8,
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "ohem",
    "MODEL.SEM_SEG_HEAD.OHEM_MIN_KEPT": 500,
    "INPUT.MIN_SIZE_TRAIN": [HEIGHT],
    "INPUT.MAX_SIZE_TRAIN": WIDTH,
    "INPUT.MIN_SIZE_TEST": HEIGHT,
    "INPUT.MAX_SIZE_TEST": WIDTH,
    "INPUT.CROP.SIZE": [HEIGHT, WIDTH],
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 1,
}


def train(out: Path, *flags: str, **changes: object) -> dict:
    words = [str(word) for pair in {**SMALL, "OUTPUT_DIR": out, **changes}.items() for word in pair]
    assert main(["--config-file", str(CONFIG), "--num-gpus", "0", *flags, *words]) == 0
    return json.loads((out / "inference" / "metrics.json").read_text())["results"]


@pytest.mark.slow
def test_trains_evaluates_and_resumes(tmp_path):
    folder = make_scenes(tmp_path / "data", "cityscapes", num_train=2, num_val=2)
    out = tmp_path / "out"
    with job_environment(folder):
        train(out, **{"SOLVER.MAX_ITER": 2})
        first = torch.load(out / "model_final.pth", weights_only=True)["model"]
        scores = train(out, "--resume", **{"SOLVER.MAX_ITER": 4})
        augmented = train(out, "--resume", "--eval-only", **{"TEST.AUG.ENABLED": True, "TEST.AUG.SCALES": [0.5, 1.0]})
    last = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert first.keys() == last.keys()
    assert not torch.equal(first["sem_seg_head.predictor.weight"], last["sem_seg_head.predictor.weight"])
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    losses = [line for line in lines if "loss_sem_seg_aux" in line]
    assert losses and all(math.isfinite(line[name]) for line in losses for name in ("loss_sem_seg", "loss_sem_seg_aux"))
    assert set(scores) == {"sem_seg"} and 0 <= scores["sem_seg"]["mIoU"] <= 100
    assert 0 <= augmented["sem_seg"]["mIoU"] <= 100
