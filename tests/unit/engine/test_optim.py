"""Optimizers, clipping and schedules against Detectron2's own."""

from __future__ import annotations

import pytest
import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver.build import build_optimizer as build_detectron2_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.optim import build_gradient_clipper, build_lr_scheduler, build_optimizer
from panoptic_plugin.errors import ConfigError


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    cfg.SOLVER.WEIGHT_DECAY_NORM = 1e-5
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.5
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    cfg.SOLVER.BASE_LR = 0.01
    return cfg


def groups(optimizer):
    keys = ("lr", "weight_decay")
    return [({key: group[key] for key in keys}, [tuple(p.shape) for p in group["params"]])
            for group in optimizer.param_groups]  # fmt: skip


def test_sgd_has_detectron2s_groups(cfg, model):
    cfg.SOLVER.OPTIMIZER = "SGD"
    assert groups(build_optimizer(cfg, model)) == groups(build_detectron2_optimizer(cfg, model))


@pytest.mark.parametrize("name, kind", [("SGD", torch.optim.SGD), ("ADAM", torch.optim.Adam),
                                        ("ADAMW", torch.optim.AdamW)])  # fmt: skip
def test_every_optimizer_decays_by_group(cfg, model, name, kind):
    cfg.SOLVER.OPTIMIZER = name
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is kind
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {1e-4, 1e-5, 0.5}
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.02}


def test_unknown_optimizer_names_the_closest(cfg, model):
    cfg.SOLVER.OPTIMIZER = "ADAMM"
    with pytest.raises(ConfigError, match="SOLVER.OPTIMIZER is 'ADAMM'.*Did you mean 'ADAM'"):
        build_optimizer(cfg, model)


@pytest.mark.parametrize("clip_type", ["value", "norm"])
def test_clipping_equals_detectron2s(cfg, clip_type):
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE = True, clip_type, 0.3, 2.0
    parameters = [nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(2, 3))]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 3
    gradients = [parameter.grad.clone() for parameter in parameters]
    maybe_add_gradient_clipping(cfg, torch.optim.SGD)(parameters, lr=0.0).step()
    expected = [parameter.grad.clone() for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    build_gradient_clipper(cfg)(parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_full_model_clipping_bounds_the_norm_over_all(cfg):
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, "full_model", 1.0
    parameters = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(9))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter) * 5
    build_gradient_clipper(cfg)(parameters)
    total = torch.cat([parameter.grad for parameter in parameters]).norm()
    assert total == pytest.approx(1.0, abs=1e-5)


def test_no_clipping_unless_enabled_and_unknown_type_is_refused(cfg):
    assert build_gradient_clipper(cfg) is None
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = True, "vaule"
    with pytest.raises(ConfigError, match="Did you mean 'value'"):
        build_gradient_clipper(cfg)


def rates(scheduler, optimizer, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_poly_schedule_equals_deeplabs(cfg, model):
    solver = cfg.SOLVER
    solver.LR_SCHEDULER_NAME, solver.MAX_ITER, solver.WARMUP_ITERS = "WarmupPolyLR", 20, 5
    solver.POLY_LR_CONSTANT_ENDING = 0.2
    ours = build_optimizer(cfg, model)
    reference = build_optimizer(cfg, model)
    schedule = WarmupPolyLR(reference, 20, warmup_factor=solver.WARMUP_FACTOR, warmup_iters=5, constant_ending=0.2)
    assert rates(build_lr_scheduler(cfg, ours), ours, 20) == rates(schedule, reference, 20)


def test_a_longer_run_resumes_on_its_own_schedule(cfg, model):
    """The state that WarmupPolyLR itself saves holds the old end, past which the rate cannot be computed."""
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = "WarmupPolyLR", 4, 0
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates(scheduler, optimizer, 4)
    cfg.SOLVER.MAX_ITER = 8
    longer = build_lr_scheduler(cfg, optimizer)
    longer.load_state_dict({**WarmupPolyLR.state_dict(scheduler), "max_iters": 4})
    assert longer.last_epoch == 4
    optimizer.step()
    longer.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(longer.base_lrs[0] * (1 - 5 / 8) ** 0.9)


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_detectron2s_schedules_are_there(cfg, model, name):
    cfg.SOLVER.LR_SCHEDULER_NAME = name
    assert build_lr_scheduler(cfg, build_optimizer(cfg, model)) is not None


def test_unknown_schedule_and_warm_up_are_refused(cfg, model):
    optimizer = build_optimizer(cfg, model)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLr"
    with pytest.raises(ConfigError, match="SOLVER.LR_SCHEDULER_NAME.*Did you mean 'WarmupPolyLR'"):
        build_lr_scheduler(cfg, optimizer)
    cfg.SOLVER.WARMUP_METHOD = "linar"
    with pytest.raises(ConfigError, match="Did you mean 'linear'"):
        build_lr_scheduler(cfg, optimizer)
