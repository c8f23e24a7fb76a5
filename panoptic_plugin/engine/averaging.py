"""Moving averages of the weights (EMA), which often score better than the weights of any one iteration.

See Mean Teacher (https://arxiv.org/abs/1703.01780) for the use, and TensorFlow's ``ExponentialMovingAverage`` for the
smaller decay at the start.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from panoptic_plugin.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

CHECKPOINT_KEY = "ema"


class AveragedWeights:
    """``average = decay * average + (1 - decay) * weight`` after each step, of all floating-point values of a model.

    The running statistics of batch norms are averaged like weights; counters are copied. The decay of step ``n`` is at
    most ``(1 + n) / (10 + n)``, so that the random weights of the start are soon forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """
        Args:
            model: gives the names, shapes and devices; its values are taken at the first update.
            decay: at least 0 and below 1.

        Raises:
            ConfigError: another decay.
        """
        if not 0 <= decay < 1:
            raise ConfigError(f"MODEL.EMA.DECAY is {decay}, expected at least 0 and below 1, such as 0.999")
        self.decay = decay
        self.num_updates = 0
        self.averages = {name: value.clone() for name, value in _values(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the values of ``model``, the first time as they are."""
        current = _values(model)
        weight = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.num_updates else 1.0
        self.num_updates += 1
        averaged = [name for name, value in current.items() if value.is_floating_point()]
        # One kernel for all tensors where the device has it.
        torch._foreach_lerp_([self.averages[name] for name in averaged], [current[name] for name in averaged], weight)
        for name in current.keys() - set(averaged):
            self.averages[name].copy_(current[name])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds under ``"ema"``."""
        return {"averages": self.averages, "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.num_updates = int(state["num_updates"])
        for name, value in self.averages.items():
            value.copy_(state["averages"][name])


def build_averaged_weights(cfg, model: nn.Module) -> AveragedWeights | None:
    """What ``MODEL.EMA`` asks for; None where it is off.

    Raises:
        ConfigError: a decay that cannot be.
    """
    return AveragedWeights(model, decay=cfg.MODEL.EMA.DECAY) if cfg.MODEL.EMA.ENABLED else None


def load_averages(model: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Give ``model`` the averages of a checkpoint in the place of its weights.

    Args:
        model: the network.
        state: what the checkpoint holds under ``"ema"``, :meth:`AveragedWeights.state_dict`.
        source: the file, for the message.

    Raises:
        CheckpointError: they are of another model.
    """
    try:
        model.load_state_dict(state["averages"])
    except (RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{source}: its averaged weights do not fit the model ({reason}); set MODEL.EMA.EVALUATE False to use the "
            "weights of the last iteration"
        ) from None
    logger.info("Using the averaged weights (EMA) of %s", source)


def _values(model: nn.Module) -> dict[str, torch.Tensor]:
    return (model.module if isinstance(model, DistributedDataParallel) else model).state_dict()
