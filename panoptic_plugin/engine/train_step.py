"""One iteration: batch, losses, gradients, step; in full or mixed precision, on CPU and GPU, in one process or many."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from panoptic_plugin.engine.averaging import AveragedWeights
from panoptic_plugin.engine.loss_log import LossLog
from panoptic_plugin.engine.non_finite import SkippedSteps, check_overflows, max_skipped_steps
from panoptic_plugin.engine.optim import Clipper, build_gradient_clipper, match_memory_formats
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

logger = logging.getLogger(__name__)

# Iterations between two lines of the log, as Detectron2's trainer has it.
WRITER_PERIOD = 20
AUTOCAST_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class TrainStep(TrainerBase):
    """What Detectron2's SimpleTrainer and AMPTrainer do, on every device, and more.

    A loss or gradient that is not finite, in any process, changes no weight and ends all processes with the same error.
    With a fused optimizer that is decided on the device, so the host needs to read the losses every ``read_period``
    iterations only; until then the weights stay as they were before the fault. Other optimizers wait each iteration.

    With ``max_skipped`` the iteration is skipped instead, in all processes: weights, optimizer, averages and batch
    norms stay as they are. Steps of float16 whose gradients overflow are not made either; that is part of its working.

    Attributes:
        stepped: whether the last iteration changed the weights; schedules go on then only.
        skipped: iterations left out because of a number that is not finite.
        overflows: steps of float16 that were not made.
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
        max_skipped: int = 0,
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
            max_skipped: iterations in a row that may be skipped; 0 ends the training at the first. Above 0 the losses
                are read in every iteration.
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
        self.max_skipped = max_skipped
        self.stepped = True
        self.skipped = SkippedSteps()
        self.overflows = SkippedSteps()
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
            FloatingPointError: a loss or gradient is not finite; names the iteration, the losses and the images. Or
                float16 overflows again and again.
        """
        assert self.model.training, "the model was left in evaluation mode"
        batch, data_time = self._next_batch()
        self.batch = batch
        buffers = [buffer.clone() for buffer in self.model.buffers()] if self.max_skipped else []
        self.optimizer.zero_grad()
        losses = self._accumulate_gradients(batch)
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradient_norm = nn.utils.get_total_norm(
            [parameter.grad for parameter in parameters if parameter.grad is not None]
        )
        self.loss_log.record(self.iter, losses, gradient_norm, data_time, batch)
        if self._is_to_be_skipped():
            self._leave_out(buffers)
        else:
            if self.clip_gradients is not None:
                self.clip_gradients(parameters)
            self._step(torch.isfinite(gradient_norm))
            if self.averaged is not None and self.stepped:
                self.averaged.update(self.model)
        self._log_skipped()

    def _is_to_be_skipped(self) -> bool:
        """Read the losses where it is time; whether one, or a gradient, is not finite and that is no reason to stop."""
        if not (self.max_skipped or self.read_when(self.iter) or not _skips_on_device(self.optimizer)):
            return False
        try:
            self.loss_log.read()
        except FloatingPointError as fault:  # the same in all processes
            if self.skipped.in_a_row >= self.max_skipped:
                raise self._too_many(fault) from None
            logger.warning("Skipped an iteration: %s", fault)
            return True
        self.skipped.note(skipped=False)
        return False

    def _too_many(self, fault: FloatingPointError) -> FloatingPointError:
        if not self.max_skipped:
            return fault
        return FloatingPointError(f"{fault}. {self.max_skipped} iterations before it were skipped (the limit is "
                                  "SOLVER.MAX_SKIPPED_STEPS)")  # fmt: skip

    def _leave_out(self, buffers: list[torch.Tensor]) -> None:
        """Let everything be as it was before the iteration; ``buffers`` are those of the model then."""
        self.skipped.note(skipped=True)
        self.stepped = False
        self._poison = torch.ones_like(self._poison)
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        if self.grad_scaler.is_enabled():
            self.grad_scaler.update()

    def _log_skipped(self) -> None:
        if not comm.is_main_process():
            return
        if self.max_skipped:
            get_event_storage().put_scalar("skipped_steps", self.skipped.total, smoothing_hint=False)
        if self.grad_scaler.is_enabled():
            get_event_storage().put_scalar("amp_skipped_steps", self.overflows.total, smoothing_hint=False)

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
        if self.grad_scaler.is_enabled():
            self._scaled_step()
            return
        self.stepped = True
        self._poison = torch.where(finite, self._poison, math.nan)
        if not _skips_on_device(self.optimizer):
            self.optimizer.step()
            return
        self.optimizer.found_inf = (~finite).float()
        try:
            self.optimizer.step()
        finally:
            del self.optimizer.found_inf

    def _scaled_step(self) -> None:
        """Step unless a gradient overflows: the scaler looks at them itself, and lowers its scale."""
        before = self.grad_scaler.get_scale()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        scale = self.grad_scaler.get_scale()  # the host waits here: the schedule has to know
        self.stepped = scale >= before
        self.overflows.note(skipped=not self.stepped)
        check_overflows(self.overflows, scale, self.iter)

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
        state["skipped"], state["overflows"] = self.skipped.state_dict(), self.overflows.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        match_memory_formats(self.optimizer)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        for name, counter in (("skipped", self.skipped), ("overflows", self.overflows)):
            if name in state_dict:  # a checkpoint of Detectron2 has none
                counter.load_state_dict(state_dict[name])


def build_train_step(
    cfg,
    model: nn.Module,
    data_loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    averaged: AveragedWeights | None = None,
) -> TrainStep:
    """The step with the precision of ``SOLVER.AMP``, ``SOLVER.CLIP_GRADIENTS`` and ``SOLVER.ACCUMULATE_STEPS``.

    Raises:
        ConfigError: a dtype, number of parts, kind of clipping or number of skipped iterations that cannot be.
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
        max_skipped=max_skipped_steps(cfg),
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
