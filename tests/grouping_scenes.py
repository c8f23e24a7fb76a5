"""Scenes with the mistakes that networks make, to compare ways of grouping: touching objects behind and in front of
poles, with offsets that leak into neighbours, patches of another class, missing and spurious centers, soft borders."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.instance import CocoAP
from panoptic_plugin.evaluation.panoptic import PanopticQuality
from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_outputs
from panoptic_plugin.postprocessing.semantic_grouping import GroupingOptions
from panoptic_plugin.systems.base import panoptic_output

SIZE = (128, 256)
CLASSES = ["ground", "pole", "person", "car", "bus", "rider"]
THINGS = frozenset({2, 3, 4, 5})
MODES = ("clean", "leak", "patches", "missing centers", "leak and patches", "all")
SIGMA = 4.0  # of the Gaussians on the centers, and so of the grouping
WRONG = {"calibrated": 0.5, "overconfident": 0.9}  # probability that a wrong pixel gives its wrong class


@dataclass
class Scene:
    """What a network puts out, (C, H, W), (1, H, W), (2, H, W), and the truth."""

    logits: torch.Tensor
    heatmap: torch.Tensor
    offsets: torch.Tensor
    truth: Truth


def make_scene(seed: int, mode: str, confidence: str = "calibrated") -> Scene:
    """One scene; the same seed gives the same objects in every mode."""
    numbers, segments, centers = _objects(np.random.default_rng([seed, 0]))
    random = np.random.default_rng([seed, 1])
    classes = np.array([0, *(one["category_id"] for one in segments)])[numbers]
    labels, towards = classes.copy(), numbers.copy()
    things = [one for one in segments if one["category_id"] in THINGS]
    if mode in ("leak", "leak and patches", "all"):
        _leak(random, towards, things, centers)
    if mode in ("patches", "leak and patches", "all"):
        _flicker(random, labels, numbers, things)
    probabilities = _probabilities(random, labels, classes, WRONG[confidence])
    heights = {one["id"]: float(random.uniform(0.5, 1)) for one in things}
    if mode in ("missing centers", "all"):
        heights = {one: height for one, height in heights.items() if random.random() > 0.15}
    heatmap = np.zeros(SIZE, np.float32)
    peaks = [(centers[one], height) for one, height in heights.items()]
    if mode == "all":
        probabilities = np.stack([cv2.GaussianBlur(plane, (0, 0), 1.5) for plane in probabilities])
        peaks += [(random.uniform(8, (SIZE[0] - 8, SIZE[1] - 8)), 0.3) for _ in range(2)]
    grid = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    for (y, x), height in peaks:
        squared = (grid[0] - round(float(y))) ** 2 + (grid[1] - round(float(x))) ** 2
        heatmap = np.maximum(heatmap, height * np.exp(-squared / (2 * SIGMA**2)))
    target = np.zeros((len(segments) + 1, 2), np.float32)
    for one, place in centers.items():
        target[one] = place
    # A leaking offset is a mixture of the two centers, more of the wrong one.
    share = np.where(towards == numbers, 0, random.uniform(0.5, 1, len(segments) + 1)[numbers])
    points_to = target[numbers] + share[..., None] * (target[towards] - target[numbers])
    offsets = points_to.transpose(2, 0, 1) - grid + random.normal(scale=1.5, size=(2, *SIZE))
    offsets[:, ~np.isin(classes, list(THINGS))] = 0
    maps = (np.log(probabilities + 1e-8), heatmap[None], offsets)
    truth = Truth(str(seed), numbers, segments)
    return Scene(*(torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in maps), truth)


def _objects(random):
    """Numbers (H, W) of segments, the segments, and the center (y, x) of each thing."""
    numbers, categories, middles = np.ones(SIZE, np.int32), [0], []
    while len(categories) < 8:
        middle = (int(random.integers(15, SIZE[1] - 15)), int(random.integers(15, SIZE[0] - 15)))
        axes = (int(random.integers(14, 32)), int(random.integers(14, 32)))
        if any(np.hypot(middle[0] - x, middle[1] - y) < 32 for x, y in middles):
            continue
        middles.append(middle)
        categories.append(int(random.integers(2, 6)))
        cv2.ellipse(numbers, middle, axes, 0, 0, 360, len(categories), -1)
    categories.append(1)
    for x in random.integers(5, SIZE[1] - 5, 3):
        numbers[:, x : x + 4] = len(categories)
    segments, centers, final = [], {}, np.zeros_like(numbers)
    for number, category in enumerate(categories, start=1):
        mask = numbers == number
        if category in THINGS and mask.sum() < 60:  # hidden: belongs to the ground
            final[mask] = 1
            continue
        segments.append({"id": len(segments) + 1, "category_id": category, "iscrowd": 0, "dataset_id": number})
        final[mask] = len(segments)
        if category in THINGS:
            centers[len(segments)] = tuple(np.argwhere(mask).mean(axis=0))
    return final, segments, centers


def _leak(random, towards, things, centers):
    """Parts of most objects point to the center of the nearest other object."""
    for one in things:
        others = [other for other in things if other["id"] != one["id"]]
        if not others or random.random() < 0.3:
            continue
        here = np.array(centers[one["id"]])
        nearest = min(others, key=lambda other: float(np.hypot(*(np.array(centers[other["id"]]) - here))))
        there = np.array(centers[nearest["id"]])
        mask = towards == one["id"]
        way = (there - here) / max(float(np.hypot(*(there - here))), 1e-6)
        along = (np.mgrid[: SIZE[0], : SIZE[1]] - here[:, None, None]).transpose(1, 2, 0) @ way
        limit = np.quantile(along[mask], random.uniform(0.55, 0.9))
        towards[mask & (along > limit)] = nearest["id"]


def _flicker(random, labels, numbers, things):
    """One or two patches of each object are of another thing class."""
    for one in things:
        inside = np.argwhere(numbers == one["id"])
        for _ in range(random.integers(1, 3)):
            y, x = inside[random.integers(len(inside))]
            patch = np.zeros(SIZE, np.uint8)
            cv2.circle(patch, (int(x), int(y)), int(random.integers(3, 7)), 1, -1)
            wrong = random.choice([c for c in sorted(THINGS) if c != one["category_id"]])
            labels[(patch > 0) & (numbers == one["id"])] = wrong


def _probabilities(random, labels, classes, wrong):
    """(C, H, W), 0.85 on a right class; ``wrong`` on a wrong one, and most of the rest on the right one."""
    num = len(CLASSES)
    probabilities = random.uniform(0.5, 1, (num, *SIZE))
    probabilities *= 0.15 / probabilities.sum(axis=0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    probabilities[labels, rows, columns] += np.where(labels == classes, 0.85, 0)
    is_wrong = labels != classes
    at = (rows[is_wrong], columns[is_wrong])
    probabilities[:, is_wrong] *= (1 - wrong) / 2 / 0.15
    probabilities[(classes[at], *at)] += (1 - wrong) / 2
    probabilities[(labels[at], *at)] += wrong
    return probabilities / probabilities.sum(axis=0)


def predict(scene: Scene, options: GroupingOptions, score: str = "both", constant_score: bool = False):
    """The result of a model that sees the scene."""
    ids, segments = panoptic_from_outputs(
        scene.logits, scene.heatmap, scene.offsets,
        thing_ids=THINGS, label_divisor=1000, stuff_area=16, threshold=0.1, nms_kernel=7, top_k=200,
        grouping=options, score=score,
    )  # fmt: skip
    if constant_score:
        segments = [{**one, "score": 1.0 if one["isthing"] else None} for one in segments]
    return panoptic_output(scene.logits, ids, segments, predict_instances=True)


def quality(scenes, outputs) -> dict[str, float]:
    """PQ of things, AP and AR in percent."""
    panoptic = PanopticQuality(
        class_names=CLASSES, thing_ids=THINGS, categories=range(len(CLASSES)), label_divisor=1000
    )
    instance = CocoAP(class_names=CLASSES, thing_ids=THINGS)
    found = panoptic.summarize([panoptic.count(s.truth, o) for s, o in zip(scenes, outputs, strict=True)])
    precise = instance.summarize([instance.count(s.truth, o) for s, o in zip(scenes, outputs, strict=True)])
    return {"PQ_th": found["PQ_th"], "AP": precise["AP"], "AR": precise["AR100"]}
