"""Discs and squares that touch, on a noisy ground: a panoptic set that eight channels learn in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_training import write_config

from panoptic_plugin.data.segments import measure_segments
from panoptic_plugin.structures import ids_to_rgb

SIZE = 64
CITIES = ("alder", "birch", "cedar", "dale")
CATEGORIES = [
    {"id": 1, "name": "ground", "isthing": 0},
    {"id": 2, "name": "disc", "isthing": 1},
    {"id": 3, "name": "square", "isthing": 1},
]
COLORS = {1: (70, 90, 70), 2: (200, 60, 40), 3: (50, 80, 210)}


def draw_scene(generator: np.random.Generator, squares: bool = True) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """uint8 RGB (S, S, 3), ids (S, S), and the category of each id."""
    y, x = np.mgrid[:SIZE, :SIZE]
    ids, categories = np.ones((SIZE, SIZE), np.int32), {1: 1}
    for number in range(2, 2 + int(generator.integers(3, 6))):
        (cy, cx), radius = generator.integers(9, SIZE - 9, 2), int(generator.integers(6, 10))
        categories[number] = int(generator.integers(2, 4)) if squares else 2
        square = np.maximum(abs(y - cy), abs(x - cx)) <= radius
        disc = (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
        ids[disc if categories[number] == 2 else square] = number
    colors = np.array([COLORS[categories.get(one, 1)] for one in range(ids.max() + 1)], np.float64)
    image = colors[ids] + generator.normal(0, 18, (SIZE, SIZE, 3))
    return image.clip(0, 255).astype(np.uint8), ids, categories


def write_shapes(root: Path, name: str, count: int, seed: int, squares: bool = True) -> dict[str, str]:
    """Write a set of scenes below ``root/name``; returns its entry of DATASETS.CUSTOM."""
    generator = np.random.default_rng(seed)
    folder = root / name
    for part in ("images", "panoptic"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    for number in range(count):
        image_id = f"{CITIES[number % len(CITIES)]}_{number:04d}"
        image, ids, categories = draw_scene(generator, squares)
        Image.fromarray(image).save(folder / "images" / f"{image_id}.png")
        Image.fromarray(ids_to_rgb(ids)).save(folder / "panoptic" / f"{image_id}.png")
        segments = [
            {"id": id_, "category_id": categories[id_], "iscrowd": 0, "area": shape.area, "bbox": shape.bbox}
            for id_, shape in measure_segments(ids).items()
        ]
        content["images"].append({"id": image_id, "file_name": f"{image_id}.png", "height": SIZE, "width": SIZE})
        content["annotations"].append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    (folder / "panoptic.json").write_text(json.dumps(content), encoding="utf-8")
    return {
        "NAME": name,
        "IMAGE_ROOT": str(folder / "images"),
        "PANOPTIC_JSON": str(folder / "panoptic.json"),
        "PANOPTIC_ROOT": str(folder / "panoptic"),
    }


def write_shapes_config(
    folder: Path, prefix: str, *, count: int = 24, iterations: int = 60, squares: bool = True, **changes: Any
) -> Path:
    """Generate training and val scenes and write the config of a network of eight channels for them."""
    entries = [write_shapes(folder / "data", f"{prefix}_{split}", number, seed, squares)
               for split, number, seed in (("train", count, 0), ("val", 4, 1))]  # fmt: skip
    return write_config(
        folder,
        DATASETS={"CUSTOM": entries, "TRAIN": [f"{prefix}_train"], "TEST": [f"{prefix}_val"]},
        MODEL__RESNETS__DEPTH=8,
        MODEL__SEM_SEG_HEAD__NUM_CLASSES=3,
        MODEL__INS_EMBED_HEAD__OFFSET_LOSS_WEIGHT=0.1,
        INPUT={
            "MIN_SIZE_TRAIN": [SIZE], "MAX_SIZE_TRAIN": SIZE, "MIN_SIZE_TEST": SIZE, "MAX_SIZE_TEST": SIZE,
            "CROP": {"SIZE": [SIZE, SIZE]}, "GAUSSIAN_SIGMA": 3,
        },
        SOLVER={"IMS_PER_BATCH": 4, "MAX_ITER": iterations, "WARMUP_ITERS": 5, "BASE_LR": 0.01},
        **changes,
    )  # fmt: skip
