"""One iteration: batch, losses, gradients, step; in full or mixed precision, on CPU and GPU, in one process or many."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import nn

from panoptic_plugin.engine.averaging import AveragedWeights
from panoptic_plugin.engine.loss_log import LossLog
from panoptic_plugin.engine.optim import Clipper, build_gradient_clipper, match_memory_formats
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

# Iterations between two lines of the log, as Detectron2's trainer has it.
WRITER_PERIOD = 20
AUTOCAST_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class TrainStep(TrainerBase):
    """What Detectron2's SimpleTrainer and AMPTrainer do, on every device, and more.

    A loss or gradient that is not finite, in any process, changes no weight and ends all processes with the same error.
    With a fused optimizer that is decided on the device, so the host needs to read the losses every ``read_period``
    iterations only; until then the weights stay as they were before the fault. Other optimizers wait each iteration.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        autocast_dtype: torch.dtype | None = None,
        clip_gradients: Clipper | None = None,
        accumulate_steps: int = 1,
        read_when: Callable[[int], bool] = lambda iteration: True,
        averaged: AveragedWeights | None = None,
    ) -> None:
        """
        Args:
            model: takes a batch and returns scalar losses by name (or one scalar).
            data_loader: batches; its iterator is made when the first batch is needed.
            optimizer: over the model's parameters.
            autocast_dtype: precision of the forward pass; None for that of the weights. Losses are scaled where it
                is float16, whose gradients would otherwise vanish.
            clip_gradients: changes the gradients of the parameters it is given.
            accumulate_steps: parts that a batch is cut into, of which one after the other passes the model; the
                gradient is that of the mean of their losses. Batch norms see the parts.
            read_when: of the number of an iteration, whether the losses are read and logged in it. The same in all
                processes. An optimizer that cannot skip a step on the device has them read in every iteration.
            averaged: moving averages of the weights, updated after each step.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.autocast_dtype = autocast_dtype
        self.clip_gradients = clip_gradients
        self.accumulate_steps = accumulate_steps
        self.read_when = read_when
        self.averaged = averaged
        self.device = next(model.parameters()).device
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=autocast_dtype is torch.float16)
        self.loss_log = LossLog(overflow_allowed=self.grad_scaler.is_enabled())
        # 1, and NaN from the first loss or gradient on that is not finite. It multiplies each loss: then the gradients
        # are NaN in all processes, and so is what would follow from weights that should not be used any more.
        self._poison = torch.ones((), device=self.device)
        self._batches: Iterator[Any] | None = None
        self.batch: Any = ()  # the one in work, for messages about what went wrong

    def run_step(self) -> None:
        """Train on the next batch.

        Raises:
            FloatingPointError: a loss or gradient is not finite; names the iteration, the losses and the images.
        """
        assert self.model.training, "the model was left in evaluation mode"
        batch, data_time = self._next_batch()
        self.batch = batch
        self.optimizer.zero_grad()
        losses = self._accumulate_gradients(batch)
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradient_norm = nn.utils.get_total_norm(
            [parameter.grad for parameter in parameters if parameter.grad is not None]
        )
        self.loss_log.record(self.iter, losses, gradient_norm, data_time, batch)
        if self.read_when(self.iter) or not _skips_on_device(self.optimizer):
            self.loss_log.read()
        if self.clip_gradients is not None:
            self.clip_gradients(parameters)
        self._step(torch.isfinite(gradient_norm))
        if self.averaged is not None:
            self.averaged.update(self.model)

    def _accumulate_gradients(self, batch: Any) -> dict[str, torch.Tensor]:
        """Backward pass of each part of the batch; returns the mean losses, on the device."""
        parts = _split(batch, self.accumulate_steps)
        means: dict[str, torch.Tensor] = {}
        for number, (part, share) in enumerate(parts):
            # Gradients are exchanged between the processes once, in the last part.
            last = number == len(parts) - 1
            exchange = nullcontext() if last or not hasattr(self.model, "no_sync") else self.model.no_sync()
            with exchange:
                losses = self._losses(part)
                total = sum(losses.values()) * share
                self._poison = torch.where(torch.isfinite(total.detach()), self._poison, math.nan)
                self.grad_scaler.scale(total * self._poison).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach() * share
        return means

    def _losses(self, batch: Any) -> Mapping[str, torch.Tensor]:
        with torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
            losses = self.model(batch)
        return {"total_loss": losses} if isinstance(losses, torch.Tensor) else losses

    def _step(self, finite: torch.Tensor) -> None:
        """Change the weights, unless ``finite`` (bool scalar on the device) is false."""
        if self.grad_scaler.is_enabled():  # it looks at the gradients itself, and lowers its scale
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
            return
        self._poison = torch.where(finite, self._poison, math.nan)
        if not _skips_on_device(self.optimizer):
            self.optimizer.step()
            return
        self.optimizer.found_inf = (~finite).float()
        try:
            self.optimizer.step()
        finally:
            del self.optimizer.found_inf

    def _next_batch(self) -> tuple[Any, float]:
        """The next batch and the seconds spent waiting for it."""
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return next(self._batches), time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """The state in the layout of Detectron2's trainers."""
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        match_memory_formats(self.optimizer)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def build_train_step(
    cfg,
    model: nn.Module,
    data_loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    averaged: AveragedWeights | None = None,
) -> TrainStep:
    """The step with the precision of ``SOLVER.AMP``, ``SOLVER.CLIP_GRADIENTS`` and ``SOLVER.ACCUMULATE_STEPS``.

    Raises:
        ConfigError: a dtype, number of parts or kind of clipping that cannot be.
    """
    solver, images = cfg.SOLVER, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    if not 1 <= solver.ACCUMULATE_STEPS <= max(1, images):
        raise ConfigError(
            f"SOLVER.ACCUMULATE_STEPS is {solver.ACCUMULATE_STEPS}, expected 1 to {max(1, images)}, the images of a "
            "process and iteration (SOLVER.IMS_PER_BATCH divided by the number of processes)"
        )
    if solver.LOSS_READ_PERIOD < 1:
        raise ConfigError(f"SOLVER.LOSS_READ_PERIOD is {solver.LOSS_READ_PERIOD}, expected 1 or more iterations")
    # Whatever else looks at the losses or saves the weights must find all of them checked.
    periods = [solver.LOSS_READ_PERIOD, WRITER_PERIOD, solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD]

    def read_when(iteration: int) -> bool:
        done = iteration + 1
        return done >= solver.MAX_ITER or any(period > 0 and done % period == 0 for period in periods)

    return TrainStep(
        model,
        data_loader,
        optimizer,
        autocast_dtype=autocast_dtype(cfg),
        clip_gradients=build_gradient_clipper(cfg),
        accumulate_steps=solver.ACCUMULATE_STEPS,
        read_when=read_when,
        averaged=averaged,
    )


def autocast_dtype(cfg) -> torch.dtype | None:
    """The dtype of ``SOLVER.AMP.DTYPE``, or None where AMP is off.

    Raises:
        ConfigError: an unknown dtype, or float16 on a CPU.
    """
    amp = cfg.SOLVER.AMP
    if not amp.ENABLED:
        return None
    if amp.DTYPE not in AUTOCAST_DTYPES:
        raise ConfigError(f"SOLVER.AMP.DTYPE is {amp.DTYPE!r}. {suggestion(amp.DTYPE, list(AUTOCAST_DTYPES))}")
    if amp.DTYPE == "float16" and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        raise ConfigError("SOLVER.AMP.DTYPE is 'float16', which trains on CUDA only; set SOLVER.AMP.DTYPE bfloat16")
    return AUTOCAST_DTYPES[amp.DTYPE]


def _split(batch: Any, num_parts: int) -> list[tuple[Any, float]]:
    """The batch in parts of (nearly) equal size, each with its share of the images."""
    if num_parts == 1:
        return [(batch, 1.0)]
    num_parts = min(num_parts, len(batch))
    ends = [len(batch) * number // num_parts for number in range(num_parts + 1)]
    return [(batch[start:end], (end - start) / len(batch)) for start, end in itertools.pairwise(ends)]


def _skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step can be called off by a tensor: fused optimizers do so for the gradient scaler."""
    return all(group.get("fused") for group in optimizer.param_groups)
