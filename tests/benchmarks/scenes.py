"""Smooth scenes: what a network that works well would put out, without the network."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

STRIDE = 4


@dataclass(frozen=True)
class Scene:
    """One image's outputs at 1/4 of its size, and what the post-processing has to know.

    Attributes:
        logits: float32 (C, H/4, W/4).
        heatmap: float32 (1, H/4, W/4).
        offsets: float32 (2, H/4, W/4) in pixels of the image.
        arguments: keyword arguments of ``panoptic_from_outputs``.
    """

    logits: torch.Tensor
    heatmap: torch.Tensor
    offsets: torch.Tensor
    arguments: dict


def smooth_scene(
    size: tuple[int, int], num_objects: int, thing_share: float, *, coco: bool = False, seed: int = 0
) -> Scene:
    """Elliptic objects on a background of regions. Boundaries, centers and offsets are smooth and a little wrong.

    Args:
        size: (height, width), multiples of 64.
        num_objects: objects; close ones may hide each other or share a center.
        thing_share: of the image that objects cover together, without overlap.
        coco: 133 classes and a window of 41 pixels instead of 19 and 7.
        seed: of the scene.
    """
    random = np.random.default_rng(seed)
    num_classes, first_thing = (133, 53) if coco else (19, 11)
    height, width = size[0] // STRIDE, size[1] // STRIDE
    grid_yx = np.mgrid[:height, :width].astype(np.float32)
    logits = _blobs(random, (num_classes, height, width), 16)
    logits[first_thing:] -= 4
    heatmap, offsets = np.zeros((height, width), np.float32), _blobs(random, (2, height, width), 8) * 0.5
    radius = np.sqrt(height * width * thing_share / num_objects / np.pi)
    for number, center_yx in enumerate(_spread(random, num_objects, height, width)):
        to_center = center_yx[:, None, None] - grid_yx
        stretch = random.uniform(0.7, 1.4)
        distance = np.hypot(to_center[0] * stretch, to_center[1] / stretch) / radius
        category = first_thing + number % (num_classes - first_thing)
        logits[category] += 12 / (1 + np.exp(np.clip((distance - 1) * 8, -30, 30)))
        heatmap = np.maximum(heatmap, random.uniform(0.3, 1) * np.exp(-(to_center**2).sum(axis=0) / 8))
        offsets = np.where(distance < 1.2, to_center * STRIDE + _blobs(random, (2, height, width), 8), offsets)
    arguments = {
        "thing_ids": range(first_thing, num_classes),
        "label_divisor": 1000,
        "stuff_area": 4096 if coco else 2048,
        "threshold": 0.1,
        "nms_kernel": 41 if coco else 7,
        "top_k": 200,
    }
    maps = (logits, heatmap[None], offsets.astype(np.float32))
    return Scene(*(torch.from_numpy(part) for part in maps), arguments)


def _blobs(random: np.random.Generator, shape: tuple[int, int, int], scale: int) -> np.ndarray:
    """Smooth noise of about unit variance, float32."""
    coarse = random.normal(size=(shape[0], shape[1] // scale + 2, shape[2] // scale + 2)).astype(np.float32)
    return np.stack([cv2.resize(plane, shape[:0:-1], interpolation=cv2.INTER_CUBIC) for plane in coarse])


def _spread(random: np.random.Generator, num: int, height: int, width: int) -> np.ndarray:
    """Positions (num, 2) that keep apart, each of some random ones the furthest from those before, and inside: along
    the border a peak would be enlarged to a plateau, for each pixel of which Detectron2 makes a center."""
    chosen = random.uniform(3, (height - 4, width - 4), (1, 2))
    while len(chosen) < num:
        tried = random.uniform(3, (height - 4, width - 4), (8, 2))
        gap = np.linalg.norm(tried[:, None] - chosen, axis=2).min(axis=1)
        chosen = np.append(chosen, tried[gap.argmax()][None], axis=0)
    return chosen.astype(np.float32)
