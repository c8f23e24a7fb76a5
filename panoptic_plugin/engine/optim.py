"""Optimizers, gradient clipping and learning-rate schedules by config name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.projects.deeplab import build_lr_scheduler as build_deeplab_lr_scheduler
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from panoptic_plugin.engine import plateau
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

WARMUP_METHODS = ("linear", "constant")
# Ours and those of Detectron2 0.6; a newer one may know more, so a name that is not here is tried before it is refused.
SCHEDULERS = ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR", plateau.NAME)

# Where SGD, Adam and AdamW of the oldest supported PyTorch have a fused kernel.
FUSED_DEVICES = ("cuda", "cpu")

Clipper = Callable[[Iterable[nn.Parameter]], None]


def build_optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names: SGD, ADAM or ADAMW.

    The parameter groups are Detectron2's: ``WEIGHT_DECAY_NORM`` for normalisation layers, ``WEIGHT_DECAY_BIAS`` and
    ``BIAS_LR_FACTOR`` for biases, ``WEIGHT_DECAY`` for the rest; with ``SOLVER.BACKBONE_MULTIPLIER`` the backbone has a
    learning rate of its own. Gradients are clipped by the trainer, not here; see
    :func:`build_gradient_clipper`.

    Raises:
        ConfigError: an unknown name.
    """
    solver = cfg.SOLVER
    name = solver.OPTIMIZER
    if name not in OPTIMIZERS:
        raise ConfigError(f"SOLVER.OPTIMIZER is {name!r}, an unknown optimizer. {suggestion(name, list(OPTIMIZERS))}")
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    if solver.BACKBONE_MULTIPLIER != 1.0:
        groups = _with_backbone_rate(groups, model, solver.BASE_LR * solver.BACKBONE_MULTIPLIER)
    return OPTIMIZERS[name](solver, groups)


def _with_backbone_rate(groups: list[dict[str, Any]], model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """The groups, with the parameters of ``model.backbone`` in groups of their own that have this learning rate."""
    backbone = {id(parameter) for name, parameter in model.named_parameters() if "backbone." in f".{name}"}
    parted = []
    for group in groups:
        for inside in (False, True):
            parameters = [one for one in group["params"] if (id(one) in backbone) == inside]
            if parameters:
                parted.append({**group, "params": parameters, **({"lr": rate} if inside else {})})
    return parted


def _sgd(solver, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return _fused_where_possible(
        solver,
        torch.optim.SGD,
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )


def _adam(solver, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return _fused_where_possible(solver, torch.optim.Adam, groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


def _adamw(solver, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return _fused_where_possible(solver, torch.optim.AdamW, groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


def _fused_where_possible(solver, kind: type, groups: list[dict[str, Any]], **arguments: Any) -> torch.optim.Optimizer:
    """With ``SOLVER.FUSED`` one kernel for all weights, where PyTorch has it for their device and dtype."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = solver.FUSED and all(p.is_floating_point() and p.device.type in FUSED_DEVICES for p in parameters)
    return kind(groups, fused=fused, **arguments)


def match_memory_formats(optimizer: torch.optim.Optimizer) -> None:
    """Give the state of each parameter the parameter's order in memory, in place.

    A checkpoint may come from a run with another ``MODEL.CHANNELS_LAST``. Fused optimizers walk through the memory of
    parameter and state side by side, and would mix up the values of a state in another order.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            of_weights = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if of_weights and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


OPTIMIZERS = {"SGD": _sgd, "ADAM": _adam, "ADAMW": _adamw}


def build_gradient_clipper(cfg) -> Clipper | None:
    """What ``SOLVER.CLIP_GRADIENTS`` asks to do with the gradients of the parameters it is given; None for nothing.

    ``CLIP_TYPE`` is Detectron2's "value" (each element) or "norm" (each tensor by itself), or "full_model" (one norm
    over all tensors).

    Raises:
        ConfigError: an unknown ``CLIP_TYPE``.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    value, norm_type = float(clip.CLIP_VALUE), float(clip.NORM_TYPE)

    def by_value(parameters: Iterable[nn.Parameter]) -> None:
        nn.utils.clip_grad_value_(parameters, value)

    def by_norm(parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, value, norm_type)

    def by_full_norm(parameters: Iterable[nn.Parameter]) -> None:
        nn.utils.clip_grad_norm_(parameters, value, norm_type)

    clippers: dict[str, Clipper] = {"value": by_value, "norm": by_norm, "full_model": by_full_norm}
    if clip.CLIP_TYPE not in clippers:
        raise ConfigError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}. {suggestion(clip.CLIP_TYPE, list(clippers))}"
        )
    return clippers[clip.CLIP_TYPE]


class ResumableWarmupPolyLR(WarmupPolyLR):
    """DeepLab's schedule whose checkpoint holds its position only.

    The base class also saves ``max_iters``: a run that is resumed with a larger ``SOLVER.MAX_ITER`` would follow the
    old schedule and fail past its end, where the rate is a negative number to a fractional power.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: state_dict[key] for key in ("base_lrs", "last_epoch") if key in state_dict})


def build_lr_scheduler(cfg, optimizer: torch.optim.Optimizer):
    """The schedule that ``SOLVER.LR_SCHEDULER_NAME`` names: WarmupPolyLR, WarmupPlateau or one of Detectron2's own.

    Raises:
        ConfigError: an unknown schedule or warm-up method, or a plateau schedule that could not work.
    """
    solver = cfg.SOLVER
    method = solver.WARMUP_METHOD
    if method not in WARMUP_METHODS:
        raise ConfigError(f"SOLVER.WARMUP_METHOD is {method!r}. {suggestion(method, list(WARMUP_METHODS))}")
    name = solver.LR_SCHEDULER_NAME
    if name == "WarmupPolyLR":
        return ResumableWarmupPolyLR(
            optimizer,
            solver.MAX_ITER,
            warmup_factor=solver.WARMUP_FACTOR,
            warmup_iters=solver.WARMUP_ITERS,
            warmup_method=method,
            power=solver.POLY_LR_POWER,
            constant_ending=solver.POLY_LR_CONSTANT_ENDING,
        )
    if name == plateau.NAME:
        return plateau.build_warmup_plateau(cfg, optimizer)
    try:
        return build_deeplab_lr_scheduler(cfg, optimizer)
    except ValueError as error:
        if "Unknown LR scheduler" not in str(error):
            raise
        raise ConfigError(
            f"SOLVER.LR_SCHEDULER_NAME is {name!r}, an unknown schedule. {suggestion(name, list(SCHEDULERS))}"
        ) from None
