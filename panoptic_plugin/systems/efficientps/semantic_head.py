"""The semantic head of EfficientPS (https://arxiv.org/abs/2004.02307, section 3.3), of any width and number of classes.

Shapes: N images, C classes, F channels of the pyramid, D those of the head; H x W pixels of the padded network input.
A separable convolution has a norm and a leaky ReLU after each of its two steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.convolutions import conv_norm, leaky_relu, separable_conv_norm
from panoptic_plugin.losses.hard_pixel_mining import SCOPES, hard_pixel_mining

STRIDES = (4, 8, 16, 32)
_separable = partial(separable_conv_norm, activation=leaky_relu)


class LargeScaleFeatures(nn.Sequential):
    """LSFE: features of a fine level, float (N, F, h, w) to (N, D, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "BN") -> None:
        super().__init__(
            _separable(in_channels, out_channels, norm=norm), _separable(out_channels, out_channels, norm=norm)
        )


class DensePredictionCell(nn.Module):
    """DPC (https://arxiv.org/abs/1809.04184): context of a coarse level, float (N, F, h, w) to (N, D, h, w).

    Five dilated convolutions, of which three follow the first and one follows another of these.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "BN") -> None:
        super().__init__()
        branch = partial(_separable, in_channels, in_channels, norm=norm)
        self.wide = branch(dilation=(1, 6))
        self.near = branch(dilation=(1, 1))
        self.oblong = branch(dilation=(6, 21))
        self.far = branch(dilation=(18, 15))
        self.after_far = branch(dilation=(6, 3))
        self.project = conv_norm(5 * in_channels, out_channels, 1, norm=norm, activation=leaky_relu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.wide(x)
        far = self.far(first)
        return self.project(torch.cat([first, self.near(first), self.oblong(first), far, self.after_far(far)], dim=1))


class MismatchCorrection(nn.Module):
    """MC: brings features, float (N, D, h, w), to the size of the next finer level."""

    def __init__(self, channels: int, *, norm: str = "BN") -> None:
        super().__init__()
        self.convs = nn.Sequential(_separable(channels, channels, norm=norm), _separable(channels, channels, norm=norm))

    def forward(self, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        return _resize(self.convs(x), size)


@SEM_SEG_HEADS_REGISTRY.register()
class EfficientPSSemSegHead(nn.Module):
    """Context of the two coarse levels, passed on to the two fine ones; all four vote.

    Attributes:
        num_classes: C.
        ignore_value: the label without a loss.
        common_stride: of the logits, 4.
    """

    common_stride = STRIDES[0]

    @configurable
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        in_features: Sequence[str],
        num_classes: int,
        channels: int = 128,
        norm: str = "BN",
        ignore_value: int = 255,
        ohem_ratio: float = 0.25,
        ohem_scope: str = "image",
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            input_shape: of the features, by name.
            in_features: four names, of strides 4, 8, 16 and 32.
            num_classes: C.
            channels: D.
            norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
            ignore_value: the label without a loss.
            ohem_ratio: the share of the pixels, those of the highest loss, that the loss is the mean of.
            ohem_scope: whether they are chosen in each "image" or in the "batch".
            loss_weight: factor of the loss.

        Raises:
            ConfigError: features of other strides, or an unknown share or scope.
        """
        super().__init__()
        _check_features(in_features, input_shape)
        _check_loss(ohem_ratio, ohem_scope)
        self.in_features = list(in_features)
        self.num_classes = num_classes
        self.ignore_value = ignore_value
        self.ohem_ratio, self.ohem_scope, self.loss_weight = ohem_ratio, ohem_scope, loss_weight
        widths = [input_shape[name].channels for name in in_features]
        self.lsfe4 = LargeScaleFeatures(widths[0], channels, norm=norm)
        self.lsfe8 = LargeScaleFeatures(widths[1], channels, norm=norm)
        self.dpc16 = DensePredictionCell(widths[2], channels, norm=norm)
        self.dpc32 = DensePredictionCell(widths[3], channels, norm=norm)
        self.correct16 = MismatchCorrection(channels, norm=norm)
        self.correct8 = MismatchCorrection(channels, norm=norm)
        self.classifier = nn.Conv2d(len(STRIDES) * channels, num_classes, 1)
        nn.init.kaiming_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": input_shape,
            "in_features": head.IN_FEATURES,
            "num_classes": head.NUM_CLASSES,
            "channels": head.CONVS_DIM,
            "norm": head.NORM,
            "ignore_value": head.IGNORE_VALUE,
            "ohem_ratio": head.OHEM_RATIO,
            "ohem_scope": head.OHEM_SCOPE,
            "loss_weight": head.LOSS_WEIGHT,
        }

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Features (N, F, h, w) by name to logits, float32 (N, C, H / 4, W / 4)."""
        p4, p8, p16, p32 = (features[name] for name in self.in_features)
        coarsest, coarse = self.dpc32(p32), self.dpc16(p16)
        context = coarse + _resize(coarsest, coarse.shape[-2:])
        fine = self.lsfe8(p8) + self.correct16(context, p8.shape[-2:])
        finest = self.lsfe4(p4) + self.correct8(fine, p4.shape[-2:])
        # The coarse level votes by itself, not by the sum with the coarsest, which has its own vote.
        return self._classify([finest, fine, coarse, coarsest])

    def _classify(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """The 1x1 convolution of the levels, enlarged and concatenated to (N, 4 D, h, w).

        It is linear and so is enlarging: each level's share is computed at its own size, and C channels are enlarged
        in place of D.
        """
        shares = self.classifier.weight.chunk(len(levels), dim=1)
        logits = F.conv2d(levels[0], shares[0], self.classifier.bias).float()
        for level, share in zip(levels[1:], shares[1:], strict=True):
            logits = logits + _resize(F.conv2d(level, share).float(), logits.shape[-2:])
        return logits

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weighted ``loss_sem_seg``, in float32 also under autocast.

        Args:
            logits: float (N, C, h, w), enlarged to the size of the targets.
            targets: int64 (N, H, W), categories or ``ignore_value``.
        """
        loss = hard_pixel_mining(
            _resize(logits.float(), targets.shape[-2:]),
            targets,
            ignore_value=self.ignore_value,
            top_k=self.ohem_ratio,
            scope=self.ohem_scope,
            round_up=True,
        )
        return {"loss_sem_seg": loss * self.loss_weight}


def _resize(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _check_features(in_features: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> None:
    strides = tuple(input_shape[name].stride if name in input_shape else None for name in in_features)
    if strides != STRIDES:
        given = ", ".join(f"{name} (stride {shape.stride})" for name, shape in input_shape.items())
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(in_features)}, expected four features of strides "
            f"{', '.join(map(str, STRIDES))}; the backbone gives {given}"
        )


def _check_loss(ratio: float, scope: str) -> None:
    if not 0 < ratio <= 1:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.OHEM_RATIO is {ratio}, expected a share of the pixels, above 0 and at most 1"
        )
    if scope not in SCOPES:
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.OHEM_SCOPE is {scope!r}, expected one of {', '.join(SCOPES)}")
