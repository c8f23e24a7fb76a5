"""One iteration: batch, losses, gradients, step; in full or mixed precision, on CPU and GPU, in one process or many."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from panoptic_plugin.engine.optim import Clipper, build_gradient_clipper
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

logger = logging.getLogger(__name__)

AUTOCAST_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class TrainStep(TrainerBase):
    """What Detectron2's SimpleTrainer and AMPTrainer do, on every device, and one check more.

    Each iteration the losses and the norm of the gradient of all processes are gathered. Where one of them is not
    finite, all processes raise the same error before the optimizer has changed a weight.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        autocast_dtype: torch.dtype | None = None,
        clip_gradients: Clipper | None = None,
    ) -> None:
        """
        Args:
            model: takes a batch and returns scalar losses by name (or one scalar).
            data_loader: batches; its iterator is made when the first batch is needed.
            optimizer: over the model's parameters.
            autocast_dtype: precision of the forward pass; None for that of the weights. Losses are scaled where it
                is float16, whose gradients would otherwise vanish.
            clip_gradients: changes the gradients of the parameters it is given.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.autocast_dtype = autocast_dtype
        self.clip_gradients = clip_gradients
        self.device = next(model.parameters()).device
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=autocast_dtype is torch.float16)
        self._batches: Iterator[Any] | None = None

    def run_step(self) -> None:
        """Train on the next batch.

        Raises:
            FloatingPointError: a loss or gradient is not finite; names the iteration, the losses and the images.
        """
        assert self.model.training, "the model was left in evaluation mode"
        batch, data_time = self._next_batch()
        with torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
            losses = self.model(batch)
        losses = {"total_loss": losses} if isinstance(losses, torch.Tensor) else losses
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        # A limit of infinity measures the norm and multiplies by 1.
        gradient_norm = nn.utils.clip_grad_norm_(parameters, math.inf)
        self._report(losses, gradient_norm, data_time, batch)
        if self.clip_gradients is not None:
            self.clip_gradients(parameters)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _next_batch(self) -> tuple[Any, float]:
        """The next batch and the seconds spent waiting for it."""
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return next(self._batches), time.perf_counter() - start

    def _report(
        self, losses: Mapping[str, torch.Tensor], gradient_norm: torch.Tensor, data_time: float, batch: Any
    ) -> None:
        """Gather over the processes, check, and log on the main one: mean losses, the longest wait for data."""
        names = list(losses)
        # One copy to the host an iteration; it waits for the backward pass.
        values = torch.stack([*(losses[name].detach().float() for name in names), gradient_norm.float()]).tolist()
        gathered = comm.all_gather((values, data_time))
        means = [math.fsum(column) / len(gathered) for column in zip(*(row for row, _ in gathered), strict=True)]
        mean_losses = dict(zip(names, means, strict=False))
        # float16 gradients overflow now and then; the scaler skips that step and lowers its scale.
        checked = mean_losses.values() if self.grad_scaler.is_enabled() else means
        if not all(map(math.isfinite, checked)):
            self._raise_not_finite(mean_losses, means[-1], values, batch)
        if comm.is_main_process():
            storage = get_event_storage()
            storage.put_scalar("data_time", max(waited for _, waited in gathered))
            storage.put_scalar("total_loss", sum(mean_losses.values()))
            if len(names) > 1:
                storage.put_scalars(**mean_losses)
            if math.isfinite(means[-1]):
                storage.put_scalar("grad_norm", means[-1])

    def _raise_not_finite(
        self, losses: Mapping[str, float], gradient_norm: float, own_values: Sequence[float], batch: Any
    ) -> None:
        own = _file_names(batch) if not all(map(math.isfinite, own_values[:-1])) else []
        images = [name for process in comm.all_gather(own) for name in process]
        listed = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
        raise FloatingPointError(
            f"a loss or gradient became infinite or NaN at iteration={self.iter}: {listed}, gradient norm "
            f"{gradient_norm:.6g}; no weight was changed. Images with such a loss: {', '.join(images) or 'none'}"
        )

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
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def build_train_step(cfg, model: nn.Module, data_loader: Iterable[Any], optimizer: torch.optim.Optimizer) -> TrainStep:
    """The step with the precision of ``SOLVER.AMP`` and the clipping of ``SOLVER.CLIP_GRADIENTS``."""
    return TrainStep(
        model,
        data_loader,
        optimizer,
        autocast_dtype=autocast_dtype(cfg),
        clip_gradients=build_gradient_clipper(cfg),
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


def _file_names(batch: Any) -> list[str]:
    samples = batch if isinstance(batch, Sequence) else [batch]
    return [str(sample.get("file_name", "unnamed")) for sample in samples if isinstance(sample, Mapping)]
