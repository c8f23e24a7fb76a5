"""What the backbones share: reading and checking their config values, and freezing their first stages."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.norm import freeze_batch_norm

FEATURES = ("res2", "res3", "res4", "res5")


def check_out_features(out_features: Sequence[str], backbone: str) -> list[str]:
    """The feature names as a list.

    Raises:
        ConfigError: none, or one that is not in :data:`FEATURES`.
    """
    unknown = [name for name in out_features if name not in FEATURES]
    if unknown or not out_features:
        raise ConfigError(
            f"MODEL.RESNETS.OUT_FEATURES is {list(out_features)}, "
            f"expected one or more of {', '.join(FEATURES)} for {backbone}"
        )
    return list(out_features)


def freeze_stages(backbone: nn.Module, stages: Sequence[Sequence[str]], freeze_at: int) -> None:
    """Freeze the first ``freeze_at`` stages in place: no gradients, and batch norms become FrozenBN.

    Args:
        stages: for each stage, from the input on, the names of its child modules. The first one is the stem.
        freeze_at: MODEL.BACKBONE.FREEZE_AT: 0 freezes nothing, 1 the stem, 2 also the stage of res2, and so on.

    Raises:
        ConfigError: ``freeze_at`` is negative or larger than the number of stages.
    """
    if not 0 <= freeze_at <= len(stages):
        raise ConfigError(f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, expected 0 (freeze nothing) to {len(stages)}")
    for stage in stages[:freeze_at]:
        for name in stage:
            module = freeze_batch_norm(getattr(backbone, name))
            module.requires_grad_(False)
            setattr(backbone, name, module)
