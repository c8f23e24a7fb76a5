"""From the output of a semantic branch to what the instance branch is told of it.

Shapes: N images of H x W pixels (padded), C classes, T of them things, E channels of the embedding, which has a size of
(ceil(H / 4), ceil(W / 4)): that of a stem's output and of a backbone's finest feature, for odd sizes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.norm import init_conv, make_norm
from panoptic_plugin.registry import SEMANTIC_EMBEDDER_REGISTRY
from panoptic_plugin.systems.joint.class_scores import class_scores
from panoptic_plugin.systems.joint.semantic_output import Activation, SemanticOutput

# Channels between the two convolutions.
MIDDLE_CHANNELS = 64


@dataclass(frozen=True)
class EmbedderOptions:
    """What an embedder is built from.

    Attributes:
        num_classes: C.
        thing_ids: contiguous ids of the thing classes.
        activation: of the branch, "softmax" or "sigmoid".
        feature_channels: of the branch's features; None where it has none.
        channels: E.
        norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
        zero_init: let the embedding be 0 until training changes it.
    """

    num_classes: int
    thing_ids: Sequence[int]
    activation: Activation
    feature_channels: int | None
    channels: int
    norm: str
    zero_init: bool


class ProbabilityEmbedder(nn.Module):
    """Probabilities of classes at the size of the image, through two convolutions of stride 2."""

    thing_table: torch.Tensor

    def __init__(self, options: EmbedderOptions, *, things_only: bool) -> None:
        """
        Args:
            options: see :class:`EmbedderOptions`.
            things_only: only thing classes, and only where one of them is the most likely class.
        """
        super().__init__()
        self.activation = options.activation
        self.things_only = things_only
        self.thing_ids = tuple(options.thing_ids)
        num_inputs = len(self.thing_ids) if things_only else options.num_classes
        self.conv1 = init_conv(nn.Conv2d(num_inputs, MIDDLE_CHANNELS, 3, stride=2, padding=1, bias=False))
        self.bn1 = make_norm(options.norm, MIDDLE_CHANNELS)
        self.conv2 = init_conv(nn.Conv2d(MIDDLE_CHANNELS, options.channels, 3, stride=2, padding=1, bias=False))
        self.bn2 = _last_norm(options)
        table = torch.zeros(options.num_classes, dtype=torch.bool)
        table[list(self.thing_ids)] = True
        self.register_buffer("thing_table", table, persistent=False)

    def forward(
        self, output: SemanticOutput, size: tuple[int, int], foreground: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The embedding, float (N, E, ceil(H / 4), ceil(W / 4)).

        Args:
            output: of the semantic branch.
            size: (H, W) of the padded images.
            foreground: bool (N, H, W), further pixels to show things at; without ``things_only`` it is of no use.
        """
        shown = self.shown(output, size, foreground)
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(shown)))))

    def shown(
        self, output: SemanticOutput, size: tuple[int, int], foreground: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The probabilities that are embedded: float32 (N, T or C, H, W)."""
        logits = output.logits.float()
        if output.stride > 1:
            logits = F.interpolate(logits, scale_factor=output.stride, mode="bilinear", align_corners=False)
        scores = class_scores(logits[..., : size[0], : size[1]], self.activation)
        if not self.things_only:
            return scores
        is_thing = self.thing_table[scores.argmax(dim=1)]
        if foreground is not None:
            is_thing = is_thing | foreground
        return scores[:, list(self.thing_ids)] * is_thing.unsqueeze(1)


class FeatureEmbedder(nn.Module):
    """Features of the semantic branch through a 1x1 convolution."""

    def __init__(self, options: EmbedderOptions) -> None:
        """
        Raises:
            ConfigError: the branch has no features.
        """
        super().__init__()
        if options.feature_channels is None:
            raise ConfigError(
                "MODEL.PANOPTIC_DEEPLAB.INSTANCE.SEMANTIC_INPUT is 'feature', but the branch of SEMANTIC.NAME gives "
                "logits and no features; set it to 'thing_prob' or 'all_prob'"
            )
        self.conv = init_conv(nn.Conv2d(options.feature_channels, options.channels, 1, bias=False))
        self.bn = _last_norm(options)

    def forward(
        self, output: SemanticOutput, size: tuple[int, int], foreground: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As that of :class:`ProbabilityEmbedder`; ``foreground`` is not looked at."""
        del size, foreground
        assert output.features is not None, "the branch promised features"
        return self.bn(self.conv(output.features))


def _last_norm(options: EmbedderOptions) -> nn.Module:
    norm = make_norm(options.norm, options.channels)
    if options.zero_init:
        nn.init.zeros_(norm.weight)
    return norm


@SEMANTIC_EMBEDDER_REGISTRY.register()
def thing_prob(options: EmbedderOptions) -> nn.Module:
    """SEMANTIC_INPUT ``thing_prob``."""
    if not options.thing_ids:
        raise ConfigError(
            "MODEL.PANOPTIC_DEEPLAB.INSTANCE.SEMANTIC_INPUT is 'thing_prob', but the dataset has no thing classes; "
            "set it to 'all_prob'"
        )
    return ProbabilityEmbedder(options, things_only=True)


@SEMANTIC_EMBEDDER_REGISTRY.register()
def all_prob(options: EmbedderOptions) -> nn.Module:
    """SEMANTIC_INPUT ``all_prob``."""
    return ProbabilityEmbedder(options, things_only=False)


@SEMANTIC_EMBEDDER_REGISTRY.register()
def feature(options: EmbedderOptions) -> nn.Module:
    """SEMANTIC_INPUT ``feature``."""
    return FeatureEmbedder(options)
