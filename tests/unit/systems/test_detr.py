"""DETR: names and numbers of weights, modules against textbook formulas, freezing, checkpoints."""

from __future__ import annotations

import argparse
import math

import pytest
import torch
from detr_models import batch_of, make_cfg, on_meta, small_cfg
from torch.nn import functional as F

from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.optim import build_optimizer
from panoptic_plugin.errors import CheckpointError, ConfigError
from panoptic_plugin.layers.sine_position import sine_positions
from panoptic_plugin.losses.query_masks import dice_loss, focal_mask_loss
from panoptic_plugin.systems.detr.mask_head import MaskAttention
from panoptic_plugin.systems.detr.matching import match
from panoptic_plugin.systems.detr.meta_arch import PanopticDETR, padding_of
from panoptic_plugin.systems.detr.weights import adapt_weights, to_native, to_official


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return PanopticDETR(small_cfg())


# Parameters that train and their number, of 250 (COCO) and 34 classes: printed by the official code and its users.
COUNTS = {
    "none": (42_676_888, 42_621_376, 267),
    "backbone": (19_444_376, 19_388_864, 225),
    "transformer": (2_080_920, 2_025_408, 43),
    "heads_only": (1_530_776, 1_475_264, 40),
    "attention": (14_707_352, 14_651_840, 153),
    "first_k": (10_762_904, 10_707_392, 135),
}


@pytest.mark.parametrize("policy", COUNTS)
def test_as_many_weights_train_as_the_policy_says(policy):
    coco = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 133, "DATASETS.TRAIN": ("coco_2017_train_panoptic",)}
    for place, changes in enumerate((coco, {"MODEL.DETR.NUM_CLASSES": 34})):
        model = on_meta(make_cfg(**{"MODEL.DETR.FREEZE": policy}, **changes))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert (sum(one.numel() for one in trained), len(trained)) == (COUNTS[policy][place], COUNTS[policy][2])


def test_the_second_stage_trains_the_mask_head_alone():
    model = on_meta(make_cfg(**{"MODEL.DETR.NUM_CLASSES": 34, "MODEL.DETR.FROZEN_WEIGHTS": "boxes.pth"}))
    trained = {name: one.numel() for name, one in model.named_parameters() if one.requires_grad}
    assert sum(trained.values()) == 1_333_657 and len(trained) == 32
    assert {name.partition(".")[0] for name in trained} == {"bbox_attention", "mask_head"}


@pytest.mark.parametrize(("depth", "dc5"), [(50, False), (50, True), (101, False)])
def test_official_names_and_back(depth, dc5):
    changes = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 133, "DATASETS.TRAIN": ("coco_2017_train_panoptic",)}
    model = on_meta(make_cfg(**changes, **{"MODEL.RESNETS.DEPTH": depth, "MODEL.DETR.DILATION": dc5}))
    state = model.state_dict()
    official = to_official(state)
    if depth == 50:
        assert len(official) == 490
        assert sum(parameter.numel() for parameter in model.parameters()) == 42_899_288
        buffers = sum(value.numel() for value in state.values()) - 42_899_288
        assert buffers == 106_240
    for name in (
        "detr.transformer.encoder.layers.5.self_attn.in_proj_weight",
        "detr.transformer.decoder.layers.0.multihead_attn.out_proj.bias",
        "detr.bbox_embed.layers.2.weight",
        "detr.backbone.0.body.conv1.weight",
        "detr.backbone.0.body.bn1.running_var",
        "detr.backbone.0.body.layer3.5.bn3.bias",
        "detr.backbone.0.body.layer4.0.downsample.1.running_mean",
        "mask_head.adapter3.weight",
        "bbox_attention.k_linear.bias",
    ):
        assert name in official
    assert official["detr.class_embed.weight"].shape == (251, 256)
    native = to_native(official)
    assert native.keys() == state.keys() and all(native[key] is state[key] for key in state)


def test_dc5_dilates_all_but_the_first_block():
    model = on_meta(make_cfg(**{"MODEL.DETR.DILATION": True}))
    stage = model.backbone.res5
    assert [block.conv2.dilation for block in stage] == [(1, 1), (2, 2), (2, 2)]
    assert all(block.conv2.stride == (1, 1) for block in stage)
    assert model.backbone.output_shape()["res5"].stride == 16


@pytest.mark.parametrize(
    ("wrap", "count"),
    [
        (lambda official: official, 0),
        (lambda official: {f"module.{key}": value for key, value in official.items()}, 0),
        (lambda official: {key.replace(".body.", ".backbone."): value for key, value in official.items()}, 0),
    ],
    ids=["hub", "module", "odd"],
)
def test_boxes_alone_fill_all_but_the_mask_head(small, wrap, count):
    boxes = {
        key.removeprefix("detr."): value for key, value in to_official(small.state_dict()).items() if "detr." in key
    }
    native = to_native(boxes)
    lacking = small.state_dict().keys() - native.keys()
    assert {key.partition(".")[0] for key in lacking} == {"bbox_attention", "mask_head"}


def test_wrapped_models_are_recognised(small):
    """The official Detectron2 wrapper: everything below "detr.", the backbone under Detectron2's names."""
    state = small.state_dict()
    wrapped = {}
    for key, value in state.items():
        if key.startswith("backbone."):
            wrapped["detr.detr.backbone.0." + key] = value
        else:
            wrapped["detr." + key] = value
    wrapped["criterion.empty_weight"] = torch.ones(35)
    assert to_native(wrapped).keys() == state.keys()


def test_a_training_checkpoint_with_its_options_loads(small, tmp_path):
    options = argparse.Namespace(lr=1e-4, masks=True)
    torch.save({"model": to_official(small.state_dict()), "args": options, "epoch": 3}, tmp_path / "official.pth")
    model = PanopticDETR(small_cfg())
    PluginCheckpointer(model, eval_only=True).load(str(tmp_path / "official.pth"))
    for key, value in small.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_a_second_stage_without_its_detector_is_an_error(small, tmp_path):
    weights = {key: value for key, value in small.state_dict().items() if "decoder.layers.1" not in key}
    torch.save({"model": weights}, tmp_path / "boxes.pth")
    model = PanopticDETR(small_cfg(**{"MODEL.DETR.FROZEN_WEIGHTS": "boxes.pth"}))
    with pytest.raises(CheckpointError, match="do not train and must be loaded.*decoder.layers.1"):
        PluginCheckpointer(model).load(str(tmp_path / "boxes.pth"))


def test_heads_of_other_classes_start_anew_or_by_name():
    native = to_official(on_meta(make_cfg(**{"MODEL.DETR.NUM_CLASSES": 34})).state_dict())
    arguments = {
        "num_slots": 34,
        "names_of_slots": {24: "person", 26: "car", 7: "road", 33: "bicycle", 4: "unheard of"},
    }
    coco = {key: torch.zeros(1) for key in native}
    coco["detr.class_embed.weight"] = torch.arange(251.0)[:, None].expand(-1, 4)
    coco["detr.class_embed.bias"] = torch.arange(251.0)
    anew = adapt_weights(coco, head_init="random", **arguments)
    assert not any("class_embed" in key for key in anew) and len(anew) == len(coco) - 2
    named = adapt_weights(coco, head_init="by_name", **arguments)["detr.class_embed.bias"]
    assert named[[24, 26, 7, 33, 34]].tolist() == [1, 3, 149, 2, 250] and len(named) == 35


def test_positions_are_sines_of_rows_and_columns():
    padding = torch.zeros(1, 3, 5, dtype=torch.bool)
    padding[0, :, 4] = True
    found = sine_positions(padding, 8)[0]
    for y in range(3):
        for x in range(4):
            row, column = 2 * math.pi * (y + 1) / (3 + 1e-6), 2 * math.pi * (x + 1) / (4 + 1e-6)
            expected = []
            for angle in (row, column):
                for pair in range(2):
                    wave = angle / 10000 ** (2 * pair / 4)
                    expected += [math.sin(wave), math.cos(wave)]
            assert found[:, y, x] == pytest.approx(expected, abs=1e-5)


def test_attention_maps_sum_to_one_over_heads_and_cells():
    torch.manual_seed(0)
    attention = MaskAttention(16, 4)
    queries, memory = torch.randn(3, 16), torch.randn(16, 2, 5)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[:, 4] = True
    with torch.no_grad():
        found = attention(queries, memory, padding)
    assert found.shape == (3, 4, 2, 5) and not found[..., 4].any()
    assert found.sum(dim=(1, 2, 3)) == pytest.approx([1, 1, 1])
    key = F.linear(memory.flatten(1).T, attention.k_linear.weight, attention.k_linear.bias).T
    query = attention.q_linear(queries)
    by_hand = torch.stack([(query[:, h * 4 : h * 4 + 4] / 2) @ key[h * 4 : h * 4 + 4] for h in range(4)], dim=1)
    by_hand = by_hand.masked_fill(padding.flatten(), -math.inf)
    assert torch.allclose(found.flatten(1), by_hand.flatten(1).softmax(dim=1), atol=1e-6)


def test_mask_losses_by_hand():
    logits, targets = torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    p = logits.sigmoid()
    dice = 1 - (2 * (p * targets).sum() + 1) / (p.sum() + 2 + 1)
    assert dice_loss(logits, targets, 2.0) == pytest.approx(float(dice) / 2)
    right = torch.where(targets == 1, p, 1 - p)
    alpha = torch.where(targets == 1, 0.25, 0.75)
    focal = (-alpha * (1 - right) ** 2 * right.log()).mean()
    assert focal_mask_loss(logits, targets, 4.0) == pytest.approx(float(focal) / 4)


def test_matching_takes_the_cheapest_pairs():
    boxes = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9]])
    logits = torch.zeros(3, 3)
    queries, segments = match(logits, boxes, torch.tensor([1, 0]), boxes[[1, 0]])
    assert dict(zip(queries.tolist(), segments.tolist(), strict=True)) == {0: 1, 1: 0}
    assert [len(part) for part in match(logits, boxes, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))] == [0, 0]
    boxes[1, 2] = math.nan  # the trainer names iteration and images where a loss is not finite
    assert match(logits, boxes, torch.tensor([1]), boxes[:1])[0].tolist() == [1]


def test_masks_of_matched_queries_train_as_all_do(small):
    torch.manual_seed(3)
    batch = batch_of((64, 64), (48, 80))
    gradients = []
    for queries in ("matched", "all"):
        small.criterion.mask_queries = queries
        small.zero_grad()
        losses = small.train()(batch)
        sum(losses.values()).backward()
        gradients.append(
            (losses["loss_mask"].item(), losses["loss_dice"].item(), small.mask_head.lay1.weight.grad.clone())
        )
    small.criterion.mask_queries = "matched"
    assert gradients[0][:2] == pytest.approx(gradients[1][:2], rel=1e-5)
    assert torch.allclose(gradients[0][2], gradients[1][2], atol=1e-6)


def test_images_without_segments_train(small):
    small.zero_grad()
    losses = small.train()(batch_of((64, 64), num_segments=0))
    assert losses.keys() >= {"loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice", "loss_ce_0"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    # Several processes wait for the gradient of every weight.
    assert all(one.grad is not None for one in small.parameters() if one.requires_grad)


def test_scalars_that_are_no_losses_stay_out_of_the_total(small):
    losses = small.train()(batch_of((64, 64)))
    assert all(name.startswith("loss_") for name in losses)


def test_padding_changes_nothing_but_rounding(small):
    """Cells beyond an image are not attended to: one image gives the same alone on the same canvas."""
    small.eval()
    image = batch_of((64, 64))[0]["image"]
    alone = small.images([{"image": image}])
    pair = small.images([{"image": image}, {"image": torch.zeros(3, 64, 96, dtype=torch.uint8)}])
    with torch.no_grad():
        first = small.network.detect(F.pad(alone.tensor, (0, 32)), padding_of(pair)[:1])
        both = small.network.detect(pair.tensor, padding_of(pair))
    assert torch.allclose(first.logits[:, 0], both.logits[:, 0], atol=1e-5)
    assert torch.allclose(first.boxes[:, 0], both.boxes[:, 0], atol=1e-5)


def test_cells_are_padding_by_their_nearest_pixel(small):
    padding = torch.zeros(1, 64, 70, dtype=torch.bool)
    padding[..., 60:] = True
    with torch.no_grad():
        outputs = small.eval().network.detect(torch.zeros(1, 3, 64, 70), padding)
    expected = F.interpolate(padding[:, None].float(), size=outputs.memory.shape[-2:], mode="nearest")[:, 0].bool()
    assert torch.equal(outputs.padding, expected)


def test_results_have_the_format_of_all_systems(small):
    small.eval()
    small.results.keep_threshold = 0.0
    sample = {**batch_of((64, 64))[0], "height": 50, "width": 70}
    with torch.no_grad():
        (result,) = small([sample])
    small.results.keep_threshold = 0.85
    ids, nothing = result["panoptic_seg"]
    assert ids.shape == result["sem_seg"].shape == (50, 70) and ids.dtype == torch.int64 and nothing is None
    for segment in result["segments_info"]:
        assert int((ids == segment["id"]).sum()) == segment["area"]
        assert segment["id"] // 1000 == segment["category_id"] and type(segment["isthing"]) is bool
    assert result["instances"].pred_masks.shape[1:] == (50, 70)


def test_the_backbone_has_a_rate_of_its_own(small):
    cfg = small_cfg(**{"SOLVER.OPTIMIZER": "ADAMW", "SOLVER.BASE_LR": 1e-4, "SOLVER.BACKBONE_MULTIPLIER": 0.1})
    optimizer = build_optimizer(cfg, small)
    inside = {id(one) for one in small.backbone.parameters()}
    for group in optimizer.param_groups:
        for one in group["params"]:
            assert group["lr"] == pytest.approx(1e-5 if id(one) in inside else 1e-4)
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    assert held == {id(one) for one in small.parameters() if one.requires_grad}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"MODEL.DETR.NUM_CLASSES": 20}, "category ids .20, 21.*at least 34"),
        ({"MODEL.DETR.HIDDEN_DIM": 40}, "multiple of 16"),
        ({"MODEL.DETR.FREEZE": "attentoin"}, "Did you mean 'attention'"),
        ({"MODEL.DETR.HEAD_INIT": "name"}, "expected one of random, by_name"),
        ({"MODEL.DETR.FROZEN_WEIGHTS": "x", "MODEL.MASK_ON": False}, "MODEL.MASK_ON True"),
        ({"MODEL.DETR.DILATION": True}, "DEPTH 50, 101 or 152"),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        on_meta(small_cfg(**changes))
