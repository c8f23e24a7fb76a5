"""Branches that stay as they are while the other one is trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

# FREEZE_MODULE -> children of the model that stay as they are. What embeds the semantics belongs to the instances.
FROZEN_PARTS = {
    "": (),
    "semantic": ("semantic_branch",),
    "instance": ("backbone", "ins_embed_head", "semantic_embedder", "injection"),
}
KEY = "MODEL.PANOPTIC_DEEPLAB.FREEZE_MODULE"


def check_freezing(name: str, *, has_instances: bool, shares_backbone: bool) -> None:
    """Refuse what cannot be frozen.

    Args:
        name: FREEZE_MODULE.
        has_instances: the model has an instance branch.
        shares_backbone: the semantic branch reads the features of the instance branch's backbone.

    Raises:
        ConfigError: an unknown name, or nothing would be left to train, or both branches stand on the same weights.
    """
    if name not in FROZEN_PARTS:
        raise ConfigError(f"{KEY} is {name!r}. {suggestion(str(name), list(FROZEN_PARTS))}")
    if name and not has_instances:
        left = "nothing is left to train" if name == "semantic" else "there is no instance branch to freeze"
        raise ConfigError(f"{KEY} is {name!r}, but INSTANCE.ENABLE is False: {left}; set it to ''")
    if name and shares_backbone:
        raise ConfigError(
            f"{KEY} is {name!r}, but both branches stand on one backbone, which cannot be trained for one of them and "
            "stay as it is for the other; give the semantic branch its own (SEMANTIC.BACKBONE.NAME), or set it to ''"
        )


def freeze(modules: Iterable[nn.Module | None]) -> None:
    """Take the modules' parameters from the optimizer to come, and set them to evaluation."""
    for module in modules:
        if module is not None:
            module.requires_grad_(False).eval()
