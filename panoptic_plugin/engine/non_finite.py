"""What becomes of infinite and NaN numbers: steps that are not made are counted, weights with them are not saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from detectron2.utils import comm
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

POLICIES = ("raise", "skip")
# Gradients of float16 that overflow so often in a row do so because of the training, not of a scale that was too large.
MAX_OVERFLOWS = 50
MIN_SCALE = 1.0
# Of the buffers these are learnt; others may hold an infinity on purpose, as masks do.
LEARNT_BUFFERS = ("running_mean", "running_var")
MAX_LISTED = 5


class SkippedSteps:
    """Counts steps of the optimizer that were not made.

    Attributes:
        total: of the whole training, resumed or not.
        in_a_row: since the last step that was made.
    """

    def __init__(self) -> None:
        self.total = 0
        self.in_a_row = 0

    def note(self, *, skipped: bool) -> None:
        """Count one iteration."""
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.total, self.in_a_row = int(state["total"]), int(state["in_a_row"])


def max_skipped_steps(cfg) -> int:
    """How many iterations in a row may be skipped because of a number that is not finite; 0 ends the run at the first.

    Raises:
        ConfigError: ``SOLVER.ON_NON_FINITE`` or ``SOLVER.MAX_SKIPPED_STEPS`` cannot be.
    """
    policy, limit = cfg.SOLVER.ON_NON_FINITE, cfg.SOLVER.MAX_SKIPPED_STEPS
    if policy not in POLICIES:
        raise ConfigError(f"SOLVER.ON_NON_FINITE is {policy!r}. {suggestion(policy, list(POLICIES))}")
    if limit < 1:
        raise ConfigError(f"SOLVER.MAX_SKIPPED_STEPS is {limit}, expected 1 or more; to skip none set "
                          "SOLVER.ON_NON_FINITE raise")  # fmt: skip
    return limit if policy == "skip" else 0


def check_overflows(overflows: SkippedSteps, scale: float, iteration: int) -> None:
    """Tell overflows of float16 that a lower scale mends from those that it does not.

    Raises:
        FloatingPointError: the scale of the losses is below 1, or too many steps in a row were skipped.
    """
    if scale >= MIN_SCALE and overflows.in_a_row < MAX_OVERFLOWS:
        return
    raise FloatingPointError(
        f"float16 gradients still overflow at iteration={iteration}, after {overflows.in_a_row} skipped steps in a row "
        f"and with losses scaled by {scale:g}: they are infinite or NaN by themselves. No weight was changed in these "
        "steps. Set SOLVER.AMP.DTYPE bfloat16, lower SOLVER.BASE_LR, or look at the images of the iteration"
    )


def check_weights(model: nn.Module, iteration: int) -> None:
    """Before weights are saved or evaluated; all processes must call it, and all raise together.

    Raises:
        FloatingPointError: a weight, or a running statistic of a batch norm, is infinite or NaN in some process.
    """
    found = comm.all_gather(non_finite(model))
    names = list(dict.fromkeys(name for process in found for name in process))
    if names:
        raise FloatingPointError(
            f"weights or batch-norm statistics are infinite or NaN after iteration={iteration}: {_listed(names)}; they "
            "are not saved, and the last checkpoint is intact"
        )


def non_finite(model: nn.Module) -> list[str]:
    """The names of weights and running statistics that hold an infinity or NaN."""
    checked = dict(model.named_parameters())
    checked.update((name, value) for name, value in model.named_buffers() if name.endswith(LEARNT_BUFFERS))
    if not checked:
        return []
    finite = torch.stack([torch.isfinite(value).all() for value in checked.values()]).tolist()  # one copy to the host
    return [name for name, good in zip(checked, finite, strict=True) if not good]


def refuse_non_finite(model: nn.Module, path: str) -> None:
    """The last guard, on the process that writes a checkpoint.

    Raises:
        FloatingPointError: naming ``path``, which is not written, and the weights.
    """
    names = non_finite(model)
    if names:
        raise FloatingPointError(f"{path} is not written: infinite or NaN are {_listed(names)}")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
