"""Print how much memory the post-processing of scenes needs, as JSON: case -> MiB, null where that cannot be told."""

from __future__ import annotations

import json
import sys
from unittest import mock

import torch
from peak_memory import peak_mib

import panoptic_plugin  # noqa: F401
from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.panoptic_deeplab import group_labels

NUM_CLASSES = 6
LARGE, SMALL = (1024, 2048), (256, 512)
THINGS = {"some things": {4, 5}, "all things": set(range(NUM_CLASSES))}


def scene(size, num_centers, labels):
    """Labels (H, W), a heatmap with that many peaks, offsets to anywhere."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, NUM_CLASSES, (size[0] // 32, size[1] // 32), generator=generator)
    smooth = coarse.repeat_interleave(32, dim=0).repeat_interleave(32, dim=1)
    noise = torch.randint(0, NUM_CLASSES, size, generator=generator)
    heatmap = torch.zeros(size[0] * size[1])
    heatmap[torch.randperm(len(heatmap), generator=generator)[:num_centers]] = 0.9
    offsets = torch.randn((2, *size), generator=generator) * 30
    return smooth if labels == "smooth" else noise, heatmap.view(1, *size), offsets


def run(inputs, thing_ids):
    labels, heatmap, offsets = inputs
    arguments = {"thing_ids": thing_ids, "label_divisor": 1000, "stuff_area": 9}
    arguments |= {"threshold": 0.1, "nms_kernel": 7, "top_k": 200, "num_classes": NUM_CLASSES}
    return group_labels(labels, heatmap, offsets, **arguments)


def needed_mib(size, num_centers, labels, thing_ids):
    """The lowest of three looks: what is needed is needed each time, and a scattered heap only adds to it."""
    inputs = scene(size, num_centers, labels)
    run(scene((64, 64), 3, labels), thing_ids)  # what is loaded once is not counted
    found = [peak_mib(lambda: run(inputs, thing_ids)) for _ in range(3)]
    return None if None in found else min(found)


def main() -> None:
    found = {}
    for labels, things in (("smooth", "some things"), ("smooth", "all things"), ("noise", "all things")):
        for num_centers in (0, 1, 60, 400):
            found[f"{labels}, {things}, {num_centers}"] = needed_mib(LARGE, num_centers, labels, THINGS[things])
    with mock.patch.object(device, "is_cpu", lambda tensor: False):
        for num_centers in (1, 200):
            case = f"other devices, {num_centers}"
            found[case] = needed_mib(SMALL, num_centers, "smooth", THINGS["all things"])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
