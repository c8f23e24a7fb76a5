"""What trains in DETR: parameter groups, clipping, frozen parts, losses by hand, numbers gone wrong."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from detr_models import batch_of, make_cfg, on_meta, small_cfg

from panoptic_plugin import load_config
from panoptic_plugin.engine.optim import build_gradient_clipper, build_optimizer
from panoptic_plugin.engine.train_step import TrainStep
from panoptic_plugin.systems.detr.matching import corners, match
from panoptic_plugin.systems.detr.meta_arch import SCALAR_PERIOD, PanopticDETR

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "DETR"


@pytest.mark.parametrize(
    ("config", "overrides", "groups"),
    [
        ("detr_R_50_coco_boxes.yaml", ["MODEL.MASK_ON", True], {1e-4: (225, 19_444_376), 1e-5: (42, 23_232_512)}),
        ("detr_R_50_coco_panoptic.yaml", [], {1e-4: (32, 1_333_657)}),
    ],
    ids=["stage 1", "stage 2"],
)
def test_groups_of_the_published_recipes(config, overrides, groups):
    """Rates and weight decay of every tensor, norms and biases too, as in the official training."""
    cfg = load_config(CONFIGS / config, ["MODEL.DEVICE", "cpu", *overrides])
    optimizer = build_optimizer(cfg, on_meta(cfg))
    assert type(optimizer) is torch.optim.AdamW
    found: dict[float, tuple[int, int]] = {}
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 1e-4
        rate = float(f"{group['lr']:.3g}")
        tensors, numbers = found.get(rate, (0, 0))
        found[rate] = (tensors + len(group["params"]), numbers + sum(one.numel() for one in group["params"]))
    assert found == groups


def test_gradients_are_clipped_by_one_norm_over_all():
    cfg = load_config(CONFIGS / "detr_R_50_coco_boxes.yaml")
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    build_gradient_clipper(cfg)([first, second])
    assert first.grad.tolist() == pytest.approx([0.06, 0], rel=1e-4)
    assert second.grad.tolist() == pytest.approx([0, 0.08], rel=1e-4)


FROZEN_PARTS = {
    "none": ("backbone.stem.", "backbone.res2."),
    "backbone": ("backbone.",),
    "transformer": ("backbone.", "detr.transformer."),
    "heads_only": ("backbone.", "detr.transformer.", "detr.input_proj.", "detr.query_embed."),
    "first_k": ("backbone.", "detr.transformer.encoder.layers.0.", "detr.transformer.decoder.layers.0."),
    "second stage": ("backbone.", "detr."),
}


@pytest.mark.parametrize("policy", FROZEN_PARTS)
def test_after_two_steps_frozen_tensors_are_as_before_and_all_others_are_not(policy):
    changes = {"MODEL.DETR.FROZEN_WEIGHTS": "x"} if policy == "second stage" else {"MODEL.DETR.FREEZE": policy}
    recipe = {"SOLVER.OPTIMIZER": "ADAMW", "SOLVER.WEIGHT_DECAY_NORM": 1e-4, "SOLVER.CLIP_GRADIENTS.ENABLED": True}
    cfg = small_cfg(**changes, **recipe, **{"SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model", "MODEL.DETR.FREEZE_K": 1})
    torch.manual_seed(0)
    model = PanopticDETR(cfg).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer, clip = build_optimizer(cfg, model), build_gradient_clipper(cfg)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(batch_of((64, 64))).values()).backward()
        clip([one for one in model.parameters() if one.requires_grad])
        optimizer.step()
    buffers = {name for name, _ in model.named_buffers() if name in before}
    unchanged = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert {name for name in before if name.startswith(FROZEN_PARTS[policy])} | buffers == unchanged


def test_frozen_attention_is_that_of_the_transformer_alone():
    model = on_meta(make_cfg(**{"MODEL.DETR.NUM_CLASSES": 34, "MODEL.DETR.FREEZE": "attention"}))
    frozen = [name for name in model.frozen_names if not name.startswith("backbone.")]
    assert len(frozen) == 18 * 4 and all("self_attn" in name or "multihead_attn" in name for name in frozen)
    assert all(one.requires_grad for one in model.bbox_attention.parameters())


def giou(one, other):
    """Generalised IoU of two boxes (4,), cxcywh."""
    one, other = corners(one), corners(other)
    inner = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0).prod()
    union = (one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - inner
    hull = (torch.maximum(one[2:], other[2:]) - torch.minimum(one[:2], other[:2])).prod()
    return inner / union - (hull - union) / hull


@pytest.mark.parametrize("seed", range(10))
def test_the_assignment_is_the_cheapest_of_all(seed):
    """Costs by hand: L1 and generalised IoU of boxes, minus the probability of the class."""
    random = torch.Generator().manual_seed(seed)
    boxes, wanted = (torch.rand(count, 4, generator=random) * 0.3 + 0.2 for count in (5, 3))
    logits, labels = torch.randn(5, 4, generator=random) * 3, torch.randint(0, 3, (3,), generator=random)

    def cost(query, segment):
        l1 = (boxes[query] - wanted[segment]).abs().sum()
        return float(5 * l1 - 2 * giou(boxes[query], wanted[segment]) - logits[query].softmax(0)[labels[segment]])

    totals = {
        queries: sum(cost(query, segment) for segment, query in enumerate(queries))
        for queries in itertools.permutations(range(5), 3)
    }
    queries, segments = match(logits, boxes, labels, wanted)
    found = tuple(int(query) for _, query in sorted(zip(segments.tolist(), queries.tolist(), strict=True)))
    assert totals[found] == pytest.approx(min(totals.values()), abs=1e-5)


def test_losses_of_classes_and_boxes_by_hand():
    torch.manual_seed(2)
    model = PanopticDETR(small_cfg(**{"MODEL.MASK_ON": False})).train()
    batch = batch_of((64, 64), (48, 80))
    with torch.no_grad():
        losses = model(batch)
        images = model.images(batch)
        padding = torch.zeros(2, 64, 80, dtype=torch.bool)
        padding[0, :, 64:], padding[1, 48:] = True, True
        outputs = model.network.detect(images.tensor, padding)
    total = {"loss_ce": 0.0, "loss_bbox": 0.0, "loss_giou": 0.0}
    weights = 0.0
    for image, sample in enumerate(batch):
        logits, boxes = outputs.logits[-1, image], outputs.boxes[-1, image]
        slot = torch.full((7,), 34)
        for query, segment in zip(*match(logits, boxes, sample["labels"], sample["boxes"]), strict=True):
            slot[query] = sample["labels"][segment]
            total["loss_bbox"] += 5 * float((boxes[query] - sample["boxes"][segment]).abs().sum()) / 4
            total["loss_giou"] += 2 * float(1 - giou(boxes[query], sample["boxes"][segment])) / 4
        for query in range(7):
            weight = 0.1 if slot[query] == 34 else 1.0
            total["loss_ce"] -= weight * float(logits[query].log_softmax(0)[slot[query]])
            weights += weight
    total["loss_ce"] /= weights
    assert {name: float(losses[name]) for name in total} == pytest.approx(total, rel=1e-4)
    assert losses.keys() == {*total, *(f"{name}_0" for name in total)}


def test_more_segments_than_queries_train_as_many_as_there_are_queries():
    model = PanopticDETR(small_cfg()).train()
    losses = model(batch_of((96, 64), num_segments=9))
    assert all(torch.isfinite(value) for value in losses.values())


def test_errors_are_logged_now_and_then_and_never_summed():
    model = PanopticDETR(small_cfg()).train()
    with EventStorage(SCALAR_PERIOD - 1) as storage:
        losses = model(batch_of((64, 64)))
    logged = set(storage.latest())
    assert logged == {"class_error", "cardinality_error", "cardinality_error_0"} and not logged & losses.keys()


def test_a_second_stage_logs_what_its_detector_would_lose():
    model = PanopticDETR(small_cfg(**{"MODEL.DETR.FROZEN_WEIGHTS": "x"})).train()
    with EventStorage(SCALAR_PERIOD - 1) as storage:
        losses = model(batch_of((64, 64)))
    assert losses.keys() == {"loss_mask", "loss_dice"}
    assert {"frozen/loss_ce", "frozen/loss_bbox", "frozen/loss_giou"} <= set(storage.latest())


@pytest.mark.parametrize("in_eval_mode", [False, True])
def test_dropout_of_the_frozen_detector_is_as_the_config_says(in_eval_mode):
    keys = {"FROZEN_WEIGHTS": "x", "FROZEN_EVAL_MODE": in_eval_mode, "DROPOUT": 0.5}
    model = PanopticDETR(small_cfg(**{f"MODEL.DETR.{key}": value for key, value in keys.items()})).train()
    batch = batch_of((64, 64))
    first, second = (model.network.detect(model.images(batch).tensor, torch.zeros(1, 64, 64).bool()) for _ in range(2))
    assert torch.equal(first.logits, second.logits) is in_eval_mode
    assert model.mask_head.training and model.bbox_attention.training


@pytest.mark.parametrize("part", ["class_embed", "bbox_embed", "mask_head"])
@pytest.mark.parametrize("max_skipped", [0, 1])
def test_predictions_that_are_not_finite_end_the_training_with_iteration_and_images(part, max_skipped):
    torch.manual_seed(0)
    model = PanopticDETR(small_cfg())
    bias = {
        "class_embed": model.detr.class_embed.bias,
        "bbox_embed": model.detr.bbox_embed.layers[2].bias,
        "mask_head": model.mask_head.out_lay.bias,
    }[part]
    bias.data[0] = math.nan
    batch = batch_of((64, 64), (64, 64))
    for number, sample in enumerate(batch):
        sample["file_name"] = f"images/{number}.png"
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    step = TrainStep(model, [batch] * 4, optimizer, max_skipped=max_skipped)
    with (
        EventStorage(0),
        pytest.raises(
            FloatingPointError, match=rf"at iteration={max_skipped}: .*nan.*BASE_LR.*images/0.png, images/1.png"
        ),
    ):
        for step.iter in range(4):
            step.run_step()
