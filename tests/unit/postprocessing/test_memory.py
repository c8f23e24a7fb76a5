"""The memory of the post-processing is bounded whatever the scene: no K x H x W tensor, on any way it takes."""

from __future__ import annotations

import ctypes

import pytest
import torch
from peak_memory import peak_mib

from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.panoptic_deeplab import group_labels

MIB_ASKED = 64
NUM_CLASSES = 6
SIZE = (1024, 2048)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@pytest.fixture(autouse=True)
def large_blocks_are_given_back():
    """Let glibc give each large block back at once: what it keeps for later depends on all that ran before."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("the system does not tell the highest memory of a process")
    mallopt(M_MMAP_THRESHOLD, 1 << 18)
    yield
    # What glibc arrives at by itself in a program that uses large blocks.
    mallopt(M_MMAP_THRESHOLD, 1 << 25)
    mallopt(M_TRIM_THRESHOLD, 1 << 26)


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


def needed_mib(function):
    """The lowest of three looks: what is needed is needed each time, and a scattered heap only adds to it."""
    found = [peak_mib(function) for _ in range(3)]
    if None in found:
        pytest.skip("the system does not tell the highest memory of a process")
    return min(found)


@pytest.mark.parametrize("num_centers", [0, 1, 60, 400])
@pytest.mark.parametrize("labels, thing_ids", [("smooth", {4, 5}), ("smooth", set(range(6))), ("noise", set(range(6)))])
def test_memory_of_a_large_image(num_centers, labels, thing_ids):
    inputs = scene(SIZE, num_centers, labels)
    run(scene((64, 64), 3, labels), thing_ids)  # what is loaded once is not counted
    needed = needed_mib(lambda: run(inputs, thing_ids))
    panoptic = SIZE[0] * SIZE[1] * 8 / 2**20
    assert panoptic <= needed <= MIB_ASKED


@pytest.mark.parametrize("num_centers", [1, 200])
def test_memory_of_the_way_of_other_devices(monkeypatch, num_centers):
    monkeypatch.setattr(device, "is_cpu", lambda tensor: False)
    inputs = scene((256, 512), num_centers, "smooth")
    run(scene((64, 64), 3, "smooth"), set(range(6)))
    needed = needed_mib(lambda: run(inputs, set(range(6))))
    # All distances at once would be 100 MiB a step for 200 centers.
    assert needed <= MIB_ASKED
