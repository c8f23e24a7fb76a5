"""The post-processing gives every pixel the id that a literal implementation gives it, on scenes of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.projects.panoptic_deeplab import post_processing
from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from panoptic_plugin.postprocessing import device, grouping, merge
from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.grouping import nearest_of_all
from panoptic_plugin.postprocessing.nearest_cells import make_cells
from panoptic_plugin.postprocessing.panoptic_deeplab import group_labels

NUM_CLASSES, DIVISOR, VOID = 6, 1000, -1
seeds = st.integers(0, 2**31)
sizes = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from([(1, 300), (300, 1), (1, 1), (120, 90)])
)
thing_sets = st.one_of(
    st.sets(st.integers(0, NUM_CLASSES - 1)), st.sampled_from([set(), set(range(NUM_CLASSES)), {NUM_CLASSES - 1}])
)
scenes = st.sampled_from(["blobs", "stripes", "noise", "one class"])
offset_kinds = st.sampled_from(["zero", "half pixels", "random", "to a center", "far", "not finite"])
heatmap_kinds = st.sampled_from(["empty", "few values", "random", "smooth"])
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
thorough = settings(max_examples=150, deadline=None)


def literal(labels, heatmap, offsets, *, thing_ids, stuff_area, threshold, nms_kernel, top_k):
    """Distances of all pixels to all centers, then one mask after the other."""
    centers, _ = find_centers(heatmap.float(), threshold, nms_kernel, top_k)
    is_thing = torch.isin(labels, torch.tensor(sorted(thing_ids), dtype=torch.int64))
    instances = torch.zeros_like(labels)
    if len(centers):
        grid = torch.stack(torch.meshgrid(*(torch.arange(side) for side in labels.shape), indexing="ij"))
        instances = (literal_nearest(centers, grid + offsets.float()) + 1) * is_thing
    panoptic, numbers = torch.full_like(labels, VOID), [0] * NUM_CLASSES
    for instance in instances.unique().tolist():
        mask = instances == instance
        if instance:
            category = int(torch.mode(labels[mask]).values)
            numbers[category] += 1
            panoptic[mask] = category * DIVISOR + numbers[category]
    for category in set(range(NUM_CLASSES)) - thing_ids:
        mask = labels == category
        if mask.sum() >= stuff_area:
            panoptic[mask] = category * DIVISOR
    return panoptic


def literal_nearest(centers, targets):
    """First of the nearest centers (K, 2) to the targets (2, ...).

    NumPy rounds roots correctly, as the reduction behind ``torch.norm`` does; ``torch.sqrt`` may be off by one place.
    """
    squared = torch.stack([(y - targets[0]) ** 2 + (x - targets[1]) ** 2 for y, x in centers.float()])
    return torch.from_numpy(np.sqrt(squared.numpy())).argmin(dim=0)


def make_labels(kind, size, generator):
    if kind == "noise":
        return torch.randint(0, NUM_CLASSES, size, generator=generator)
    if kind == "stripes":
        return (torch.arange(size[0] * size[1]).view(size) // max(1, size[1] // 3)) % NUM_CLASSES
    if kind == "one class":
        return torch.full(size, int(torch.randint(0, NUM_CLASSES, (1,), generator=generator)))
    coarse = torch.randn((1, NUM_CLASSES, 3, 3), generator=generator)
    return F.interpolate(coarse, size=size, mode="bicubic")[0].argmax(dim=0)


def make_heatmap(kind, size, generator):
    if kind == "empty":
        return torch.full((1, *size), 0.05)
    if kind == "few values":
        return torch.randint(0, 5, (1, *size), generator=generator) / 4
    if kind == "random":
        return torch.rand((1, *size), generator=generator)
    return F.interpolate(torch.rand((1, 1, 6, 6), generator=generator), size=size, mode="bicubic")[0]


def make_offsets(kind, size, generator):
    offsets = torch.randn((2, *size), generator=generator) * 8
    if kind == "zero":
        return torch.zeros((2, *size))
    if kind == "half pixels":
        return offsets.mul(2).round().div(2)
    if kind == "far":
        return offsets * 200
    if kind == "not finite":
        return torch.where(offsets > 8, torch.tensor([torch.nan, torch.inf]).view(2, 1, 1), offsets)
    if kind == "to a center":
        grid = torch.stack(torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij"))
        return torch.tensor(size).view(2, 1, 1) // 2 - grid.float()
    return offsets


@thorough
@given(seeds, sizes, thing_sets, scenes, heatmap_kinds, offset_kinds, dtypes, st.integers(1, 9), st.integers(1, 30))
def test_every_pixel_equals_the_literal_implementation(
    seed, size, thing_ids, scene, heatmap_kind, offset_kind, dtype, nms_kernel, top_k
):
    generator = torch.Generator().manual_seed(seed)
    labels = make_labels(scene, size, generator)
    heatmap = make_heatmap(heatmap_kind, size, generator).to(dtype)
    offsets = make_offsets(offset_kind, size, generator).to(dtype)
    arguments = {"thing_ids": thing_ids, "threshold": 0.1, "nms_kernel": nms_kernel, "top_k": top_k, "stuff_area": 9}
    found = group_labels(labels, heatmap, offsets, num_classes=NUM_CLASSES, label_divisor=DIVISOR, **arguments)
    assert torch.equal(found.panoptic, literal(labels, heatmap, offsets, **arguments))


@settings(max_examples=50, deadline=None)
@given(seeds, thing_sets, scenes, offset_kinds, st.integers(1, 60))
def test_every_pixel_equals_detectron2(seed, thing_ids, scene, offset_kind, num_centers):
    """On heatmaps without plateaus and ties at the last place, where Detectron2's centers are right."""
    generator = torch.Generator().manual_seed(seed)
    size = (48, 80)
    labels = make_labels(scene, size, generator)
    heatmap = torch.zeros(size[0] * size[1])
    heatmap[torch.randperm(len(heatmap), generator=generator)[:num_centers]] = torch.linspace(0.2, 0.9, num_centers)
    heatmap = heatmap.view(1, *size)
    offsets = make_offsets(offset_kind, size, generator)
    arguments = {"label_divisor": DIVISOR, "stuff_area": 9, "threshold": 0.1, "nms_kernel": 3, "top_k": 200}
    expected, _ = get_panoptic_segmentation(
        labels[None], heatmap.clone(), offsets, thing_ids=thing_ids, void_label=VOID, **arguments
    )
    found = group_labels(labels, heatmap, offsets, num_classes=NUM_CLASSES, thing_ids=thing_ids, **arguments)
    assert torch.equal(found.panoptic, expected[0])


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 300), st.sampled_from([20, 300, 2500]), st.sampled_from(["grid", "random", "line"]))
def test_nearest_center_with_ties(seed, num_centers, side, layout):
    """Centers on a grid or line have many points that are equally far from several, or nearly so."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randint(0, side, (num_centers, 2), generator=generator)
    if layout == "grid":
        centers = centers // 16 * 16
    if layout == "line":
        centers[:, 0] = side // 2
    targets = torch.randint(-2 * side, 4 * side, (2, 1500), generator=generator) / 2
    targets[:, ::5] += torch.randn((2, 300), generator=generator) * 1e-4
    cells = make_cells(centers.float().numpy(), (side, side))
    found = cells.look_up(*(target[None] for target in targets.numpy()))[0].astype(np.int64)
    undecided = found < 0
    found[undecided] = cells.compare(-1 - found[undecided], *targets.numpy()[:, undecided])
    found = torch.from_numpy(found)
    assert torch.equal(found, literal_nearest(centers, targets))
    assert torch.equal(found, torch.norm(centers[:, None] - targets.T, dim=-1).argmin(dim=0))
    assert torch.equal(found, nearest_of_all(centers.float(), *targets))


@pytest.mark.parametrize("num_classes", [NUM_CLASSES, 300])
def test_neither_blocks_nor_types_change_the_result(monkeypatch, num_classes):
    generator = torch.Generator().manual_seed(0)
    labels, heatmap = make_labels("blobs", (60, 70), generator), make_heatmap("random", (60, 70), generator)
    offsets = make_offsets("random", (60, 70), generator)
    arguments = {"thing_ids": {1, 2, 3}, "threshold": 0.1, "nms_kernel": 5, "top_k": 200, "stuff_area": 9}
    expected = literal(labels, heatmap, offsets, **arguments)
    monkeypatch.setattr(grouping, "PIXELS_AT_A_TIME", 101)
    monkeypatch.setattr(merge, "PIXELS_AT_A_TIME", 103)
    for dtype in (torch.int64, torch.uint8, torch.int32):
        found = group_labels(
            labels.to(dtype), heatmap, offsets, num_classes=num_classes, label_divisor=DIVISOR, **arguments
        )
        assert torch.equal(found.panoptic, expected)


def test_not_contiguous_inputs():
    generator = torch.Generator().manual_seed(0)
    labels, heatmap = make_labels("blobs", (60, 70), generator), make_heatmap("random", (60, 70), generator)
    offsets = make_offsets("random", (60, 70), generator)
    arguments = {"thing_ids": {1, 2, 3}, "threshold": 0.1, "nms_kernel": 5, "top_k": 200, "stuff_area": 9}
    cut = [part[..., 3:50, 5:60] for part in (labels, heatmap, offsets)]
    found = group_labels(*cut, num_classes=NUM_CLASSES, label_divisor=DIVISOR, **arguments)
    assert torch.equal(found.panoptic, literal(*cut, **arguments))


@settings(max_examples=40, deadline=None)
@given(seeds, sizes, thing_sets, scenes, heatmap_kinds, offset_kinds, dtypes, st.integers(1, 9), st.integers(1, 30))
def test_the_way_of_other_devices_gives_the_same(
    seed, size, thing_ids, scene, heatmap_kind, offset_kind, dtype, nms_kernel, top_k
):
    """PyTorch's operators, as on a GPU, with few distances at a time."""
    generator = torch.Generator().manual_seed(seed)
    labels = make_labels(scene, size, generator)
    heatmap = make_heatmap(heatmap_kind, size, generator).to(dtype)
    offsets = make_offsets(offset_kind, size, generator).to(dtype)
    arguments = {"thing_ids": thing_ids, "threshold": 0.1, "nms_kernel": nms_kernel, "top_k": top_k, "stuff_area": 9}
    arguments |= {"num_classes": NUM_CLASSES, "label_divisor": DIVISOR}
    expected = group_labels(labels, heatmap, offsets, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "is_cpu", lambda tensor: False)
        patch.setattr(grouping, "DISTANCES_AT_A_TIME", 1000)
        found = group_labels(labels, heatmap, offsets, **arguments)
    assert torch.equal(found.centers, expected.centers)
    assert torch.equal(found.panoptic, expected.panoptic)
    assert found.segments == expected.segments


@settings(max_examples=50, deadline=None)
@given(seeds, sizes, thing_sets, scenes, heatmap_kinds, offset_kinds, dtypes)
def test_every_pixel_equals_detectron2_with_the_same_centers(
    seed, size, thing_ids, scene, heatmap_kind, offset_kind, dtype
):
    """On every other kind of scene: Detectron2 is given our centers, because its own are mended here."""
    generator = torch.Generator().manual_seed(seed)
    labels = make_labels(scene, size, generator)
    heatmap = make_heatmap(heatmap_kind, size, generator).to(dtype)
    offsets = make_offsets(offset_kind, size, generator).to(dtype)
    arguments = {"label_divisor": DIVISOR, "stuff_area": 9, "threshold": 0.1, "nms_kernel": 3, "top_k": 20}
    found = group_labels(labels, heatmap, offsets, num_classes=NUM_CLASSES, thing_ids=thing_ids, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(post_processing, "find_instance_center", lambda *_, **__: found.centers)
        expected, _ = get_panoptic_segmentation(
            labels[None], heatmap.float(), offsets.float(), thing_ids=thing_ids, void_label=VOID, **arguments
        )
    assert torch.equal(found.panoptic, expected[0])
