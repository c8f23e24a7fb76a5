"""Grouping by class and offset on hand-made pictures of 10 x 10 pixels, its options, and its keys."""

from __future__ import annotations

import pytest
import torch
from panoptic_deeplab_models import smooth_image, tiny_config

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_outputs
from panoptic_plugin.postprocessing.semantic_grouping import GroupingOptions
from panoptic_plugin.systems.grouping import grouping_arguments

GROUND, CAR, RIDER = range(3)
MAP = GroupingOptions("semantic_map", sigma=2.0)


def picture(labels, centers, sure=0.9, threshold=0.1):
    """Logits, heatmap, and offsets that point to the center nearest of those given; ``centers`` are (y, x, height)."""
    labels = torch.as_tensor(labels)
    size = labels.shape
    probabilities = torch.full((3, *size), (1 - sure) / 2).scatter(0, labels[None], sure)
    heatmap, offsets = torch.zeros((1, *size)), torch.zeros((2, *size))
    for y, x, height in centers:
        heatmap[0, y, x] = height
    return probabilities.log(), heatmap, offsets


def point_to(offsets, mask, y, x):
    rows, columns = torch.meshgrid(torch.arange(mask.shape[0]), torch.arange(mask.shape[1]), indexing="ij")
    offsets[0][mask] = (y - rows).float()[mask]
    offsets[1][mask] = (x - columns).float()[mask]


def run(parts, grouping=MAP, top_k=20, **arguments):
    return panoptic_from_outputs(
        *parts, thing_ids={CAR, RIDER}, label_divisor=1000, stuff_area=0, threshold=0.1, nms_kernel=3, top_k=top_k,
        grouping=grouping, **arguments,
    )  # fmt: skip


def test_a_center_on_an_occluder_keeps_its_object():
    labels = torch.zeros((10, 10), dtype=torch.int64)
    labels[2:8, 1:9] = CAR
    labels[:, 4:6] = GROUND  # a pole through the middle, where the center is
    parts = picture(labels, [(5, 5, 0.8)])
    point_to(parts[2], labels == CAR, 5, 5)
    ids, segments = run(parts)
    assert torch.equal(ids == CAR * 1000 + 1, labels == CAR)
    assert segments[-1]["center_yx"] == (5, 5)


def test_a_flickering_patch_is_no_instance_and_becomes_of_the_class_of_its_group():
    labels = torch.zeros((10, 10), dtype=torch.int64)
    labels[1:9, 1:9] = CAR
    labels[4:6, 4:6] = RIDER  # the center lies on it
    parts = picture(labels, [(4, 4, 0.8)])
    point_to(parts[2], labels > 0, 4, 4)
    for mode in ("semantic_map", "class_strict"):
        ids, segments = run(parts, GroupingOptions(mode, sigma=2.0))
        assert torch.equal(ids == CAR * 1000 + 1, labels > 0)
        assert [one["category_id"] for one in segments] == [GROUND, CAR]


def test_of_two_touching_objects_each_gets_what_leaked_to_the_other():
    labels = torch.zeros((10, 10), dtype=torch.int64)
    labels[2:8, :5], labels[2:8, 5:] = CAR, RIDER
    parts = picture(labels, [(5, 2, 0.8), (5, 7, 0.8)])
    point_to(parts[2], labels == CAR, 5, 2)
    point_to(parts[2], labels == RIDER, 5, 7)
    parts[2][1][2:8, 4] = 1.0  # the car's last column points to x = 5, nearer to the rider's 7 than to its own 2
    plain, _ = run(parts, GroupingOptions())
    assert (plain[2:8, 4] == RIDER * 1000 + 1).all()
    ids, _ = run(parts)
    assert torch.equal(ids == CAR * 1000 + 1, labels == CAR)
    assert torch.equal(ids == RIDER * 1000 + 1, labels == RIDER)


def test_without_a_center_things_are_void():
    labels = torch.full((10, 10), CAR)
    ids, segments = run(picture(labels, []))
    assert (ids == -1).all() and not segments


def test_a_single_pixel():
    labels = torch.full((1, 1), RIDER)
    ids, segments = run(picture(labels, [(0, 0, 0.5)]))
    assert ids.tolist() == [[RIDER * 1000 + 1]]
    assert segments[0]["score"] == pytest.approx(0.45)


def test_more_centers_than_top_k():
    labels = torch.full((10, 10), CAR)
    labels[:, 5:] = RIDER
    parts = picture(labels, [(y, x, 0.2 + 0.1 * x / 10) for y in (0, 3, 6, 9) for x in (0, 3, 6, 9)])
    _, segments = run(parts, top_k=3)
    assert len([one for one in segments if one["isthing"]]) == 3


def test_scores_are_those_of_the_center_or_the_class_or_both():
    labels = torch.full((4, 4), CAR)
    parts = picture(labels, [(1, 1, 0.5)], sure=0.8)
    scores = {name: run(parts, score=name)[1][0]["score"] for name in ("both", "semantic", "center")}
    assert scores == pytest.approx({"both": 0.4, "semantic": 0.8, "center": 0.5})
    assert run(parts, GroupingOptions(), score="center")[1][0]["score"] == pytest.approx(0.5)


def far_and_unlikely():
    labels = torch.zeros((10, 10), dtype=torch.int64)
    labels[:3, :3], labels[7:, 7:] = CAR, RIDER
    parts = picture(labels, [(1, 1, 0.8)])
    point_to(parts[2], labels == CAR, 1, 1)
    return labels, parts


def test_void_radius_leaves_out_what_points_elsewhere_and_is_of_another_class():
    labels, parts = far_and_unlikely()
    ids, segments = run(parts)
    assert (ids[7:, 7:] == CAR * 1000 + 1).all()  # never void by default
    options = GroupingOptions("semantic_map", sigma=2.0, void_radius=5.0)
    ids, segments = run(parts, options)
    assert (ids[7:, 7:] == -1).all() and (ids[:3, :3] == CAR * 1000 + 1).all()
    assert [one["area"] for one in segments] == [82, 9]
    assert segments[1]["score"] == pytest.approx(0.9 * 0.8)
    assert torch.equal(run(parts, GroupingOptions(void_radius=5.0))[0], ids)


@pytest.mark.parametrize("with_center", [True, False])
def test_spawn_makes_an_instance_of_a_class_without_a_center(with_center):
    labels, parts = far_and_unlikely()
    if not with_center:
        parts[1].zero_()
    point_to(parts[2], labels == RIDER, 8, 8)
    ids, segments = run(parts, GroupingOptions("semantic_map", sigma=2.0, spawn_area=9, spawn_radius=3.0))
    assert (ids[7:, 7:] == RIDER * 1000 + 1).all() and (ids[:3, :3] == CAR * 1000 + 1).all()
    assert segments[-1]["center_yx"] == (8, 8)
    ids, _ = run(parts, GroupingOptions("semantic_map", sigma=2.0, spawn_area=10, spawn_radius=3.0))
    assert not (ids == RIDER * 1000 + 1).any()


@pytest.mark.parametrize(
    "wrong", [{"mode": "nearest"}, {"vote": "loud"}, {"sigma": 0.0}, {"weight": -1.0}, {"void_radius": float("nan")}]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GroupingOptions(**wrong)


def test_keys_become_options_and_are_checked():
    cfg = tiny_config()
    assert grouping_arguments(cfg) == {
        "grouping": GroupingOptions(sigma=float(cfg.INPUT.GAUSSIAN_SIGMA)), "score": "both"
    }  # fmt: skip
    cfg.MODEL.PANOPTIC_DEEPLAB.GROUPING.merge_from_list(["MODE", "semantic_map", "LAMBDA", 2.0, "SIGMA", 4.0])
    found = grouping_arguments(cfg)["grouping"]
    assert (found.mode, found.weight, found.sigma) == ("semantic_map", 2.0, 4.0)
    assert found.scaled(2).sigma == 8.0
    for key, value in (("MODE", "nearest"), ("VOTE", "loud"), ("ITERS", -1)):
        wrong = cfg.clone()
        wrong.MODEL.PANOPTIC_DEEPLAB.GROUPING[key] = value
        with pytest.raises(ConfigError, match=f"GROUPING.{key}"):
            grouping_arguments(wrong)
    cfg.MODEL.PANOPTIC_DEEPLAB.SCORE = "loud"
    with pytest.raises(ConfigError, match="SCORE"):
        grouping_arguments(cfg)


def test_a_model_groups_by_its_keys_with_and_without_logits():
    """Label maps from logits at stride 4, of which only what grouping looks at is enlarged, give the same."""
    from detectron2.modeling import build_model
    from panoptic_deeplab_models import make_it_see

    cfg = tiny_config()
    cfg.MODEL.PANOPTIC_DEEPLAB.GROUPING.MODE = "semantic_map"
    model = build_model(cfg).eval()
    image = smooth_image(64, 128, seed=1)
    make_it_see(model, image)
    assert model.grouping.mode == "semantic_map"
    found = {}
    for return_logits in (True, False):
        model.return_logits = return_logits
        with torch.no_grad():
            found[return_logits] = model([{"image": image, "height": 64, "width": 128}])[0]
    assert (found[True]["panoptic_seg"][0] != found[False]["panoptic_seg"][0]).sum() <= 2
    assert len(found[True]["segments_info"]) == len(found[False]["segments_info"])
