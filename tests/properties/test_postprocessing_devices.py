"""The way that a GPU takes, PyTorch's operators only, against the one on NumPy and OpenCV: the same results, and no
waiting for the device that grows with the number of instances. Run on a CPU, where ``device.is_cpu`` is made False."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from panoptic_plugin.postprocessing import device, grouping, merge
from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.instances import instances_of_panoptic
from panoptic_plugin.postprocessing.merge import thing_table
from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_semantic
from panoptic_plugin.postprocessing.semantic import SemanticLogits, classify

NUM_CLASSES, THINGS = 7, (4, 5, 6)
ARGUMENTS = {"thing_ids": THINGS, "label_divisor": 1000, "stuff_area": 9, "threshold": 0.1, "top_k": 200}
seeds = st.integers(0, 2**31)
sizes = st.one_of(st.tuples(st.integers(1, 12), st.integers(1, 12)), st.sampled_from([(1, 40), (40, 1), (1, 1)]))


@contextmanager
def other_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "is_cpu", lambda tensor: False)
        yield patch


def outputs(seed, size, stride, kind):
    """Logits at 1 / stride of the size, heatmap and offsets. Those of the kind "few" have ties everywhere."""
    generator = torch.Generator().manual_seed(seed)
    large = (size[0] * stride, size[1] * stride)
    if kind == "few":
        logits = torch.randint(-1, 2, (NUM_CLASSES, *size), generator=generator).float()
        heatmap = torch.randint(0, 5, (1, *large), generator=generator) / 4
        return logits, heatmap, torch.randint(-20, 21, (2, *large), generator=generator) / 2
    logits, heatmap = (
        torch.randn((NUM_CLASSES, *size), generator=generator),
        torch.rand((1, *large), generator=generator),
    )
    return logits, heatmap, torch.randn((2, *large), generator=generator) * 9


def whole(logits, heatmap, offsets, stride, nms_kernel):
    source = SemanticLogits(logits, stride=stride)
    semantic = classify(source, thing_table(THINGS, NUM_CLASSES, logits.device))
    panoptic, segments = panoptic_from_semantic(source, semantic, heatmap, offsets, nms_kernel=nms_kernel, **ARGUMENTS)
    return semantic, panoptic, segments, instances_of_panoptic(panoptic, segments, semantic.pixels)


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, st.sampled_from([1, 2, 4]), st.sampled_from(["few", "random"]), st.integers(1, 7))
def test_both_ways_give_the_same(seed, size, stride, kind, nms_kernel):
    """Every pixel, mask, box, class, area and center is equal; logarithms and means are, to their last places."""
    inputs = outputs(seed, size, stride, kind)
    semantic, panoptic, segments, instances = whole(*inputs, stride, nms_kernel)
    with other_device() as patch:
        patch.setattr(grouping, "DISTANCES_AT_A_TIME", 500)
        patch.setattr(merge, "PIXELS_AT_A_TIME", 101)
        other_semantic, other_panoptic, other_segments, other_instances = whole(*inputs, stride, nms_kernel)
    assert torch.equal(semantic.labels, other_semantic.labels)
    assert torch.equal(semantic.pixels, other_semantic.pixels)
    torch.testing.assert_close(semantic.top, other_semantic.top, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(semantic.log_sum, other_semantic.log_sum, atol=1e-6, rtol=1e-6)
    assert torch.equal(panoptic, other_panoptic)
    for segment, other in zip(segments, other_segments, strict=True):
        assert segment | {"score": 0} == other | {"score": 0}
        assert segment["score"] == (None if other["score"] is None else pytest.approx(other["score"], abs=1e-6))
    assert torch.equal(instances.pred_masks, other_instances.pred_masks)
    assert torch.equal(instances.pred_boxes.tensor, other_instances.pred_boxes.tensor)
    assert torch.equal(instances.pred_classes, other_instances.pred_classes)


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, st.integers(1, 9), st.integers(1, 30), st.sampled_from(["few", "random"]))
def test_both_ways_find_the_same_centers(seed, size, nms_kernel, top_k, kind):
    heatmap = outputs(seed, size, 4, kind)[1]
    centers, heights = find_centers(heatmap, 0.1, nms_kernel, top_k)
    with other_device():
        others, other_heights = find_centers(heatmap, 0.1, nms_kernel, top_k)
    assert torch.equal(centers, others) and torch.equal(heights, other_heights)


class Waits(TorchFunctionMode):
    """Counts what makes the host wait for a GPU: values that Python sees, and tensors whose size depends on values."""

    PYTHON = {"tolist", "cpu", "numpy", "item", "__int__", "__bool__", "__float__", "__index__", "to"}

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self.PYTHON and (name != "to" or "cpu" in map(str, args[1:])):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class DispatchedWaits(TorchDispatchMode):
    OPERATORS = ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique", "unique", "item", "equal")

    def __init__(self, counts: Counter) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if any(name.startswith(operator) for operator in self.OPERATORS):
            self.counts[name] += 1
        if name in ("index", "index_put_") and any(part is not None and part.dtype == torch.bool for part in args[1]):
            self.counts[name + " with a mask"] += 1
        return func(*args, **(kwargs or {}))


def waits_of(num_centers):
    """Counts of one image whose heatmap has so many peaks."""
    size = (64, 96)
    logits, _, offsets = outputs(0, (16, 24), 4, "random")
    heatmap = torch.zeros(size)
    heatmap[::4, ::4] = (torch.arange(16 * 24).view(16, 24) < num_centers) * 0.9
    with other_device(), Waits() as waits, DispatchedWaits(waits.counts):
        segments = whole(logits, heatmap[None], offsets, 4, 3)[2]
    assert num_centers == 0 or sum(segment["isthing"] for segment in segments) > num_centers // 2
    return waits.counts


def test_the_host_waits_as_often_whatever_the_number_of_instances():
    few, many = waits_of(3), waits_of(190)
    assert few == many
    assert sum(few.values()) <= 40
    assert few["nonzero"] > 0 and few["tolist"] > 0, "nothing was counted"
