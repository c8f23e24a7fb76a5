"""Where the embedded semantics enter the instance branch.

An injection runs the backbone with an embedding (N, E, ceil(H / 4), ceil(W / 4)) of the semantics, and gives the
features that the instance head decodes. :func:`build_injection` refuses what cannot be built, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.norm import init_conv
from panoptic_plugin.registry import suggestion

Features = Mapping[str, torch.Tensor]
STRIDE = 4
KEY = "MODEL.PANOPTIC_DEEPLAB.INSTANCE"


class StemAdd(nn.Module):
    """The embedding is added to the output of the stem, before its last ReLU."""

    def forward(
        self, backbone: nn.Module, images: torch.Tensor, embedding: torch.Tensor, features: Features | None = None
    ) -> Features:
        """The backbone's features of images (N, 3, H, W)."""
        assert features is None, "the stem comes before the features"
        return backbone(images, stem_input=embedding)


class FinestConcat(nn.Module):
    """The embedding is joined to the finest feature, and a 1x1 convolution brings both to the feature's channels.

    It starts as the identity on the feature, beside random weights for the embedding.
    """

    def __init__(self, name: str, feature_channels: int, channels: int) -> None:
        """
        Args:
            name: of the feature.
            feature_channels: its channels.
            channels: of the embedding.
        """
        super().__init__()
        self.name = name
        self.fuse = init_conv(nn.Conv2d(feature_channels + channels, feature_channels, 1, bias=False))
        with torch.no_grad():
            self.fuse.weight[:, :feature_channels] = torch.eye(feature_channels)[..., None, None]

    def forward(
        self, backbone: nn.Module, images: torch.Tensor, embedding: torch.Tensor, features: Features | None = None
    ) -> Features:
        """As that of :class:`StemAdd`; ``features`` are those of the backbone where it has run already."""
        features = backbone(images) if features is None else features
        return {**features, self.name: self.fuse(torch.cat([features[self.name], embedding], dim=1))}


class DecoderConcat(nn.Module):
    """The embedding goes along with the finest feature, past its projection, into the decoder's last convolution."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(
        self, backbone: nn.Module, images: torch.Tensor, embedding: torch.Tensor, features: Features | None = None
    ) -> Features:
        """As that of :class:`FinestConcat`; the feature has E more channels, see :class:`ProjectionBesides`."""
        features = backbone(images) if features is None else features
        return {**features, self.name: torch.cat([features[self.name], embedding], dim=1)}


class ProjectionBesides(Conv2d):
    """A convolution of the first ``in_channels`` channels of its input; the others are given on beside its output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([super().forward(x[:, : self.in_channels]), x[:, self.in_channels :]], dim=1)


def build_injection(
    name: str,
    *,
    channels: int,
    backbone: nn.Module,
    input_shape: Mapping[str, ShapeSpec],
    in_features: list[str],
    shares_backbone: bool,
) -> nn.Module:
    """The module of INSTANCE.INJECT.

    Args:
        name: "stem_add", "res2_concat" or "decoder_concat".
        channels: E, of the embedding.
        backbone: of the instance branch.
        input_shape: its features by name.
        in_features: those that the instance head decodes.
        shares_backbone: the semantic branch reads the features of this backbone too.

    Raises:
        ConfigError: an unknown name, or one that the backbone or E do not allow.
    """
    if name not in INJECTIONS:
        raise ConfigError(f"{KEY}.INJECT is {name!r}. {suggestion(name, list(INJECTIONS))}")
    if channels < 1:
        raise ConfigError(f"{KEY}.SEMANTIC_EMBED_CHANNELS is {channels}, expected at least 1")
    if name == "stem_add":
        _check_stem(backbone, channels, shares_backbone)
        return StemAdd()
    finest = min(in_features, key=lambda feature: input_shape[feature].stride)
    if input_shape[finest].stride != STRIDE:
        raise ConfigError(
            f"{KEY}.INJECT is {name!r}, which needs a feature of stride {STRIDE} in MODEL.INS_EMBED_HEAD.IN_FEATURES, "
            f"but the finest of {in_features} has stride {input_shape[finest].stride}; add res2"
        )
    if name == "decoder_concat":
        return DecoderConcat(finest)
    return FinestConcat(finest, input_shape[finest].channels, channels)


INJECTIONS = ("stem_add", "res2_concat", "decoder_concat")


def _check_stem(backbone: nn.Module, channels: int, shares_backbone: bool) -> None:
    others = "use 'res2_concat' or 'decoder_concat'"
    if shares_backbone:
        raise ConfigError(
            f"{KEY}.INJECT is 'stem_add', but the semantic branch reads the features of the backbone whose stem it "
            f"would change; {others}, or give the branch a backbone of its own (SEMANTIC.BACKBONE.NAME)"
        )
    stem_channels = getattr(backbone, "stem_channels", None)
    if stem_channels is None:
        raise ConfigError(
            f"{KEY}.INJECT is 'stem_add', but the stem of {type(backbone).__name__} takes no further input; {others}, "
            "or MODEL.BACKBONE.NAME d2_hrnet"
        )
    if channels != stem_channels:
        raise ConfigError(
            f"{KEY}.SEMANTIC_EMBED_CHANNELS is {channels}, but 'stem_add' adds the embedding to a stem of "
            f"{stem_channels} channels; set it to {stem_channels}, or {others}, which take any number"
        )


def make_room_in_decoder(head: nn.Module, name: str, project_channels: int, norm: str) -> None:
    """Narrow the projection of the finest feature in place, in a head that was built for E more of its channels.

    Args:
        head: the instance head.
        name: the finest feature.
        project_channels: of the projection that remains; the other channels come from outside.
        norm: MODEL.INS_EMBED_HEAD.NORM.
    """
    stage: Any = head.decoder[name]
    wide = stage["project_conv"]
    narrow = ProjectionBesides(
        wide.in_channels,
        project_channels,
        1,
        bias=wide.bias is not None,
        norm=get_norm(norm, project_channels),
        activation=wide.activation,
    )
    with torch.no_grad():  # rows of the same random distribution
        narrow.weight.copy_(wide.weight[:project_channels])
        if wide.bias is not None:
            narrow.bias.copy_(wide.bias[:project_channels])
    stage["project_conv"] = narrow
