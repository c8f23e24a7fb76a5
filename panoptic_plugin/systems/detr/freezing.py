"""Which parts of DETR train."""

from __future__ import annotations

import re

from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

BACKBONE = r"backbone\."
ATTENTION = r"detr\.transformer\.(encoder|decoder)\.layers\.\d+\.(self_attn|multihead_attn)\."
POLICIES = {
    "none": (),
    "backbone": (BACKBONE,),
    "transformer": (BACKBONE, r"detr\.transformer\."),
    "attention": (BACKBONE, ATTENTION),
    # Classes, boxes and masks train on features and queries that stay as they are.
    "heads_only": (BACKBONE, r"detr\.(transformer|input_proj|query_embed)\."),
    "first_k": (BACKBONE, r"detr\.transformer\.(encoder|decoder)\.layers\.({layers})\."),
}
DETECTOR = (BACKBONE, r"detr\.")


def frozen_patterns(policy: str, first_k: int, *, detector: bool = False) -> tuple[str, ...]:
    """Regular expressions of the starts of the names that do not train.

    Args:
        policy: a key of :data:`POLICIES`.
        first_k: layers of encoder and of decoder that "first_k" freezes.
        detector: freeze all but the mask head, whatever the policy.

    Raises:
        ConfigError: an unknown policy.
    """
    if policy not in POLICIES:
        raise ConfigError(f"MODEL.DETR.FREEZE is {policy!r}. {suggestion(policy, list(POLICIES))}")
    if detector:
        return DETECTOR
    layers = "|".join(str(layer) for layer in range(first_k))
    return tuple(pattern.replace("{layers}", layers) for pattern in POLICIES[policy])


def freeze(network: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """Turn off the gradients of the parameters whose names start so, and return their names."""
    frozen = []
    for name, parameter in network.named_parameters():
        if any(re.match(pattern, name) for pattern in patterns):
            parameter.requires_grad_(False)
            frozen.append(name)
    return frozen
