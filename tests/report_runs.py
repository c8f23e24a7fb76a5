"""Run folders for tests of reports: what a training and an evaluation leave, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from panoptic_sets import write_set
from PIL import Image

from panoptic_plugin.structures import ids_to_rgb

CLASSES = ("ground", "cell", "wall")
LOG = """\
[11/21 03:47:47] panoptic.engine.setup INFO: Environment:
Python           3.11.7
torch            2.11.0+cu130
CPU threads      2
[11/21 03:47:47] panoptic.engine.setup INFO: Command line: panoptic train --config-file tiny.yaml
[11/21 03:47:48] d2.engine.train_loop INFO: Starting training from iteration 0
[11/21 03:58:00] panoptic.engine.checkpoint WARNING: a <warning>
[11/21 03:59:36] d2.engine.hooks INFO: Overall training speed: 598 iterations in 0:11:41 (1.1726 s / it)
[11/21 03:59:36] d2.engine.hooks INFO: Total training time: 0:11:43 (0:00:01 on hooks)
[11/21 03:59:39] d2.evaluation.evaluator INFO: Inference done 11/24. Dataloading: 0.0044 s/iter. Inference: 0.1905 \
s/iter. Eval: 0.0123 s/iter. Total: 0.2072 s/iter. ETA=0:00:02
"""
GROUND, WALL, CELL, OTHER_CELL = 10, 20, 30, 40


def true_map(number: int) -> np.ndarray:
    """48x64: ground, a wall, two cells, and a strip of void; cells move with ``number``."""
    ids = np.full((48, 64), GROUND, np.int32)
    ids[:8] = WALL
    ids[14:30, 6 + number : 26 + number] = CELL
    ids[34:44, 40:52] = OTHER_CELL
    ids[:, 62:] = 0
    return ids


def write_dataset(folder: Path, num_images: int = 4) -> Path:
    """A panoptic set in ``folder``; returns its JSON."""
    kinds = {GROUND: (3, 0), WALL: (21, 0), CELL: (7, 0), OTHER_CELL: (7, 0)}
    return write_set(folder, [(true_map(number), kinds) for number in range(num_images)])


def write_run(folder: Path, data: Path, name: str, *, shift: int = 2, rate: float = 0.01, num_images: int = 4) -> Path:
    """A complete run whose cells are predicted ``shift`` pixels too far right and one of them, now and then, not."""
    folder.mkdir(parents=True)
    entry = {"NAME": name, "IMAGE_ROOT": str(data / "images"), "PANOPTIC_JSON": str(data / "panoptic.json"),
             "PANOPTIC_ROOT": str(data / "panoptic")}  # fmt: skip
    config: dict[str, Any] = {
        "DATASETS": {"CUSTOM": [entry], "TEST": [name], "TRAIN": [name]},
        "SOLVER": {"BASE_LR": rate, "IMS_PER_BATCH": 2},
        "OUTPUT_DIR": str(folder),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "log.txt").write_text(LOG)
    lines = [
        {
            "iteration": i,
            "total_loss": 5 / (1 + i),
            "loss_center": 2 / (1 + i),
            "lr": rate,
            "time": 0.5,
            "data_time": 0.1,
        }
        for i in range(19, 100, 20)
    ]
    evaluations = [{"iteration": i, "panoptic_seg/PQ": i / 2.0, "sem_seg/mIoU": i / 1.5} for i in (50, 100)]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in (*lines, *evaluations)))
    write_predictions(folder / "inference", shift, num_images)
    scores = {"PQ": 61.2 - shift, "SQ": 80.0, "RQ": 76.0, "PQ_th": 50.0, "PQ_st": 80.0}
    results: dict[str, Any] = {
        "schema_version": 1,
        "dataset": name,
        "num_images": num_images,
        "results": {"panoptic_seg": scores, "sem_seg": {"mIoU": 70.0}, "segm": {"AP": 33.0, "AP50": None}},
        "per_class": [
            {"class": one, "kind": "thing" if one == "cell" else "stuff", "PQ": 50.0 + i, "IoU": 60.0 + i, "AP": None}
            for i, one in enumerate(CLASSES)
        ],
    }
    (folder / "inference" / "metrics.json").write_text(json.dumps(results))
    return folder


def write_predictions(folder: Path, shift: int, num_images: int) -> None:
    """``predictions/panoptic.json`` and its pictures; every second image lacks the small cell."""
    root = folder / "predictions" / "panoptic"
    root.mkdir(parents=True)
    annotations = []
    for number in range(num_images):
        ids = np.where(true_map(number) == 0, GROUND, true_map(number))
        cell = np.roll(ids == CELL, shift, axis=1)
        ids = np.where(cell, 3, np.where(ids == WALL, 2, np.where((ids == OTHER_CELL) & (number % 2 == 0), 4, 1)))
        ids[46:] = 0
        Image.fromarray(ids_to_rgb(ids)).save(root / f"{number + 1}.png")
        kinds = {1: 3, 2: 21, 3: 7, 4: 7}
        segments = [{"id": int(one), "category_id": kinds[int(one)]} for one in np.unique(ids) if one]
        annotations.append({"image_id": number + 1, "file_name": f"{number + 1}.png", "segments_info": segments})
    (folder / "predictions" / "panoptic.json").write_text(json.dumps({"annotations": annotations}))
