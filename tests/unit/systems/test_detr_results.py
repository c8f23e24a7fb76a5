"""Results of DETR: slots without a class, what is drawn and evaluated, attention maps, padding by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detr_models import batch_of, small_cfg

from panoptic_plugin.engine.label_maps import label_maps
from panoptic_plugin.systems.detr.meta_arch import PanopticDETR
from panoptic_plugin.systems.detr.results import QueryResults, Sizes
from panoptic_plugin.visualization.draw import draw_panoptic

SIZE = (8, 8)


def make_results(**changes):
    arguments = {
        "slots": {0: 7, 1: 8, 2: 24},
        "thing_ids": frozenset({2}),
        "num_slots": 30,
        "label_divisor": 1000,
        "keep_threshold": 0.5,
        "merge_arguments": {},
        "instance_threshold": 0.2,
        "predict_instances": True,
    }
    return QueryResults(**{**arguments, **changes})


def of_queries(results, slots, areas):
    """The result for queries that are sure of these slots and whose masks are these areas."""
    logits = torch.full((len(slots), 31), -5.0)
    masks = torch.full((len(slots), *SIZE), -5.0)
    for number, (slot, area) in enumerate(zip(slots, areas, strict=True)):
        logits[number, slot], masks[number][area] = 5.0, 5.0
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).expand(len(slots), -1)
    queries = torch.arange(len(slots)) + 90
    return results.of_image(logits, boxes, masks, Sizes(SIZE, SIZE, SIZE), queries=queries)


LEFT, RIGHT, TOP_RIGHT = np.s_[:, :4], np.s_[:, 4:], np.s_[:4, 4:]


@pytest.mark.parametrize("slot", [0, 9, 29])
def test_slots_without_a_class_are_void(slot):
    """A query may be sure of an id that no class has, however large; the official table has no entry for it."""
    result = of_queries(make_results(), [7, slot], [LEFT, RIGHT])
    ids = result["panoptic_seg"][0]
    assert (ids[LEFT] == 0).all() and (ids[RIGHT] == -1).all() and (result["sem_seg"][RIGHT] == -1).all()
    assert [one["category_id"] for one in result["segments_info"]] == [0]
    assert len(result["instances"]) == 0


def test_stuff_is_one_segment_and_things_are_numbered():
    result = of_queries(make_results(), [24, 8, 24], [LEFT, RIGHT, TOP_RIGHT])
    found = {one["id"]: one for one in result["segments_info"]}
    assert {key: (one["area"], one["isthing"], one["query"]) for key, one in found.items()} == {
        1000: (32, False, 91),
        2001: (32, True, 90),
    }
    assert found[1000]["score"] is None and found[2001]["score"] == pytest.approx(1, abs=0.01)
    assert all(type(one["isthing"]) is bool for one in result["segments_info"])
    # Instances are masks of their own: the third query's lies behind the stuff.
    assert result["instances"].pred_classes.tolist() == [2, 2]
    assert result["instances"].pred_masks[1].sum() == 16


def test_no_query_kept_is_void_everywhere():
    result = of_queries(make_results(), [], [])
    assert (result["panoptic_seg"][0] == -1).all() and result["segments_info"] == []
    assert result["instances"].pred_masks.shape == (0, *SIZE)


def test_padding_of_the_map_by_hand():
    """A cell is padding where its first pixel is, which is not ceil(size / stride) where sizes are no multiples."""
    model = PanopticDETR(small_cfg()).eval()
    padding = torch.zeros(1, 96, 101, dtype=torch.bool)
    padding[:, 70:], padding[..., 60:] = True, True
    with torch.no_grad():
        found = model.network.detect(torch.zeros(1, 3, 96, 101), padding).padding[0]
    # The rows' first pixels are 0, 32, 64, the columns' 0, 25, 50, 75; 60 / 32 rounded up would be two columns.
    assert found.tolist() == [[False, False, False, True]] * 3


@pytest.fixture(scope="module")
def sure():
    """A model that keeps all its queries."""
    torch.manual_seed(0)
    model = PanopticDETR(small_cfg(**{"MODEL.DETR.TEST.OBJECT_MASK_THRESHOLD": 0.0})).eval()
    model.detr.class_embed.bias.data[26] = 9.0  # cars
    return model


def run(model, *samples):
    with torch.no_grad():
        return model([{**sample, "height": 70, "width": 90} for sample in samples])


def test_attention_has_the_size_of_each_image_without_its_padding(sure):
    sure.keep_attention = True
    try:
        first, second = run(sure, batch_of((64, 128))[0], batch_of((128, 64))[0])
    finally:
        sure.keep_attention = False
    assert first["attention"]["encoder"].shape == (2, 4, 2, 4) and first["attention"]["decoder"].shape == (7, 2, 4)
    assert second["attention"]["encoder"].shape == (4, 2, 4, 2)
    for found in (first["attention"], second["attention"]):
        # What is cut off got no attention.
        assert found["encoder"].sum(axis=(2, 3)) == pytest.approx(1, abs=1e-5)
        assert found["decoder"].sum(axis=(1, 2)) == pytest.approx(1, abs=1e-5)
        assert found["queries"].tolist() == list(range(7))
    assert "attention" not in run(sure, batch_of((64, 64))[0])[0]


def test_results_can_be_drawn_and_are_numbers_of_python(sure):
    (result,) = run(sure, batch_of((64, 64))[0])
    assert result["segments_info"] and {one["category_id"] for one in result["segments_info"]} == {13}
    picture = draw_panoptic(
        np.full((70, 90, 3), 128, np.uint8),
        result["panoptic_seg"][0].numpy(),
        MetadataCatalog.get("cityscapes_fine_panoptic_val"),
        segments_info=result["segments_info"],
    )
    assert picture.shape == (70, 90, 3) and picture.std() > 1
    for segment in result["segments_info"]:
        assert [type(segment[key]) for key in ("id", "category_id", "area", "query", "score")] == [int] * 4 + [float]


def test_label_maps_are_there_already(sure):
    """Evaluation asks for labels in the place of logits where a model can give them; these are labels anyway."""
    with label_maps(sure, []):
        (result,) = run(sure, batch_of((64, 64))[0])
    assert result["sem_seg"].dtype == torch.int64 and result["sem_seg"].shape == (70, 90)
