"""The panoptic fusion gives every pixel the id that the procedure written out gives it."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_fusion import literal_fusion
from torch.nn import functional as F

from panoptic_plugin.postprocessing.fusion import fuse

NUM_CLASSES = 5
# Float32 against float64: what was so close may go either way.
UNDECIDED = 1e-4
sizes = st.one_of(st.tuples(st.integers(1, 48), st.integers(1, 48)), st.sampled_from([(1, 200), (200, 1), (1, 1)]))
# A category at least is stuff: without any, the procedure has nothing to give to pixels outside of all boxes.
thing_sets = st.sets(st.integers(0, NUM_CLASSES - 1), max_size=NUM_CLASSES - 1).map(sorted)
options = st.fixed_dictionaries(
    {
        "thing_ids": thing_sets,
        "score_threshold": st.sampled_from([0.0, 0.3, 0.7]),
        "overlap_threshold": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        "stuff_area": st.sampled_from([0, 20, 300]),
        "mask_logit_scale": st.sampled_from([0.5, 1.0, 4.0]),
        "outside": st.sampled_from(["neg_inf", "zero"]),
        "box_margin": st.sampled_from([0.0, 0.1, 0.25, 3.0]),
        "center_semantic": st.booleans(),
        "fill_void": st.booleans(),
    }
)


@given(seed=st.integers(0, 2**31), size=sizes, num_masks=st.integers(0, 7), level=st.sampled_from([-8, 0, 8]),
       chosen=options)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_every_pixel_has_the_id_of_the_literal_procedure(seed, size, num_masks, level, chosen):
    generator = torch.Generator().manual_seed(seed)
    semantic = _smooth(NUM_CLASSES, size, generator) * 4 + level
    masks = _smooth(num_masks, size, generator) * 6 - 2
    things = chosen["thing_ids"] or [0]
    categories = torch.tensor(things)[torch.randint(len(things), (num_masks,), generator=generator)]
    scores = torch.rand(num_masks, generator=generator)
    arguments = {"label_divisor": 1000, **chosen}
    expected, stack = literal_fusion(semantic.double(), masks.double(), categories, scores, **arguments)
    found = fuse(semantic, masks, categories, scores, **arguments, return_logits=True)
    torch.testing.assert_close(found.logits.double(), stack, rtol=1e-5, atol=UNDECIDED)
    assert torch.equal(found.ids[_is_decided(stack)], expected[_is_decided(stack)])
    assert torch.equal(found.ids, fuse(semantic, masks, categories, scores, **arguments).ids)
    ids, areas = found.ids.unique(return_counts=True)
    present = dict(zip(ids.tolist(), areas.tolist(), strict=True))
    present.pop(-1, None)
    assert {segment["id"]: segment["area"] for segment in found.segments} == present


def _smooth(count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Float (count, H, W): blobs, with a little noise so that no two values are equal."""
    coarse = torch.randn(1, count, size[0] // 8 + 2, size[1] // 8 + 2, generator=generator)
    noise = torch.randn(count, *size, generator=generator)
    if not count:
        return noise
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[0] + 0.05 * noise


def _is_decided(stack: torch.Tensor) -> torch.Tensor:
    if len(stack) == 1:
        return torch.ones(stack.shape[1:], dtype=torch.bool)
    first, second = stack.topk(2, dim=0).values
    return first - second > UNDECIDED
