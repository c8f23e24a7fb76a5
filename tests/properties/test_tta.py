"""Views of any size and shape, mirrored or not, of a network that is right about each give the scene exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perfect_network import perfect_network, scene_image

from panoptic_plugin.systems.panoptic_deeplab.tta import PluginPanopticDeepLabWithTTA


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(80, 160), st.integers(80, 200)),
    scales=st.lists(st.sampled_from([0.5, 0.75, 0.8, 1.0, 1.25, 1.5, 2.0]), min_size=1, max_size=3),
    flip=st.booleans(),
    divisibility=st.sampled_from([0, 16]),
)
def test_ids_of_the_scene_come_out_of_any_views(size, scales, flip, divisibility):
    model, sample = perfect_network(size_divisibility=divisibility), {"image": scene_image(*size)}
    expected = model([sample])[0]
    options = {"SCALES": scales, "MIN_SIZES": [], "MAX_SIZE": 4000, "FLIP": flip}
    found = PluginPanopticDeepLabWithTTA(model, options)([sample])[0]
    true_ids, ids = expected["panoptic_seg"][0], found["panoptic_seg"][0]
    assert segments(found) == segments(expected)
    if 1.0 in scales and len(set(scales)) == 1:
        assert torch.equal(ids, true_ids)
    # Other sizes know edges to a pixel of theirs only. Elsewhere each segment is one of the scene, though centers of
    # nearly the same height may be numbered in another order.
    inside = ~near_edges(true_ids)
    pairs = torch.stack([true_ids[inside], ids[inside]]).unique(dim=1)
    assert pairs.shape[1] == len(expected["segments_info"])
    assert torch.equal(pairs[0] // 1000, pairs[1] // 1000)


def near_edges(ids: torch.Tensor) -> torch.Tensor:
    """Pixels with another id within two pixels."""
    values = ids.float()[None, None]
    low, high = -torch.nn.functional.max_pool2d(-values, 5, 1, 2), torch.nn.functional.max_pool2d(values, 5, 1, 2)
    return (low != high)[0, 0]


def segments(output) -> list[int]:
    """Categories of the segments: how many things there are, and which stuff."""
    return sorted(segment["category_id"] for segment in output["segments_info"])


@pytest.mark.parametrize("flip", [False, True])
def test_instances_keep_their_numbers(flip):
    model, sample = perfect_network(), {"image": scene_image(96, 160)}
    options = {"SCALES": [0.5, 1.0, 2.0], "MIN_SIZES": [], "MAX_SIZE": 4000, "FLIP": flip}
    found, expected = PluginPanopticDeepLabWithTTA(model, options)([sample])[0], model([sample])[0]
    for one in expected["instances"].pred_masks:
        overlaps = (found["instances"].pred_masks & one).sum((1, 2)) / one.sum()
        assert overlaps.max() > 0.97 and (overlaps > 0.03).sum() == 1
