"""HRNet: ``d2_hrnet``, four resolutions side by side from the first stage to the last.

Source: https://arxiv.org/abs/1908.07919. Module names are those of the official ImageNet checkpoints and of the
published Panoptic-DeepLab models. Upsampling is bilinear with aligned corners, as in the published segmentation
models; NVIDIA's do not align them, and the official classification code repeats pixels, with the same names.

Shape legend: N images, H x W pixels, C the width (48 in W48). Branch b = 0..3 has ``C * 2**b`` channels and stride
``4 * 2**b``; the last stage's branches are the features res2 to res5. Sizes are rounded up, so any H and W will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from panoptic_plugin.backbones.config import with_backbone_keys
from panoptic_plugin.backbones.stages import FEATURES, check_out_features, freeze_stages
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.norm import init_conv, make_norm

STEM_CHANNELS = 64
LAYER1_CHANNELS = 256
LAYER1_BLOCKS = 4
RESNET_DEPTHS = (50, 101, 152)
STAGES = (
    ("conv1", "bn1", "conv2", "bn2"),
    ("layer1",),
    ("transition1", "stage2"),
    ("transition2", "stage3"),
    ("transition3", "stage4"),
)


class NormTable:
    """Makes convolutions without bias and norms, all of one kind; what every module below is built from."""

    def __init__(self, norm: str, bn_eps: float, align_corners: bool = True) -> None:
        self.name, self.eps, self.align_corners = norm, bn_eps, align_corners

    def norm(self, channels: int) -> nn.Module:
        return make_norm(self.name, channels, eps=self.eps)

    def conv_norm(
        self, in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, relu: bool = False
    ) -> nn.Sequential:
        """Convolution and norm under the names 0 and 1, and a ReLU where asked for."""
        layers: list[nn.Module] = [conv(in_channels, out_channels, kernel, stride), self.norm(out_channels)]
        return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias whose output size is the input's over the stride, rounded up."""
    return init_conv(nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False))


class ResidualBlock(nn.Module):
    """Convolutions with norms under the names conv1, bn1, conv2, ...; the input is added before the last ReLU.

    Args:
        channels: of the input and after each convolution.
        kernels: of each convolution.
    """

    def __init__(self, channels: Sequence[int], kernels: Sequence[int], make: NormTable) -> None:
        super().__init__()
        self.depth = len(kernels)
        for i, kernel in enumerate(kernels):
            setattr(self, f"conv{i + 1}", conv(channels[i], channels[i + 1], kernel))
            setattr(self, f"bn{i + 1}", make.norm(channels[i + 1]))
        self.downsample: nn.Module = nn.Identity()
        if channels[0] != channels[-1]:
            self.downsample = make.conv_norm(channels[0], channels[-1], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for i in range(1, self.depth + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.depth:
                out = F.relu(out)
        return F.relu(out + self.downsample(x))


class HighResolutionModule(nn.Module):
    """Residual blocks on each branch, then each branch receives the sum of all, resized to its own size."""

    def __init__(self, widths: Sequence[int], blocks: int, make: NormTable) -> None:
        super().__init__()
        self.align_corners = make.align_corners
        self.branches = nn.ModuleList(
            nn.Sequential(*(ResidualBlock((width,) * 3, (3, 3), make) for _ in range(blocks))) for width in widths
        )
        targets = range(len(widths))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_layer(widths, source, target, make) for source in targets) for target in targets
        )

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """One (N, widths[b], H_b, W_b) tensor a branch, in and out."""
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        return [F.relu(self._fuse(layers, features, target)) for target, layers in enumerate(self.fuse_layers)]

    def _fuse(self, layers: nn.Module, features: Sequence[torch.Tensor], target: int) -> torch.Tensor:
        assert isinstance(layers, nn.ModuleList)
        size = features[target].shape[-2:]
        terms = [_resize(layer(x), size, self.align_corners) for layer, x in zip(layers, features, strict=True)]
        return reduce(torch.add, terms)  # from the first to the last branch, as the official code rounds


def _fuse_layer(widths: Sequence[int], source: int, target: int, make: NormTable) -> nn.Module:
    """From one branch to another: 1x1 convolution upwards (resized later), a chain of strided ones downwards."""
    if source > target:
        return make.conv_norm(widths[source], widths[target], 1)
    if source == target:
        return nn.Identity()
    steps = [make.conv_norm(widths[source], widths[source], stride=2, relu=True) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, make.conv_norm(widths[source], widths[target], stride=2))


def _resize(x: torch.Tensor, size: torch.Size, align_corners: bool) -> torch.Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


class HRNet(Backbone):
    """HRNet with ``width`` channels at stride 4. W48: 1830 state-dict keys, 65.325 M parameters with batch norms.

    Args:
        in_channels: of the image.
        width: channels of the branch of stride 4: 18, 32, 48 in the papers; small ones make quick test networks.
        out_features: names out of res2, res3, res4, res5. The whole network runs whichever are asked for.
        modules: number of modules in stages 2, 3 and 4.
        blocks: residual blocks in each branch of a module.
        norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
        bn_eps: of the batch norms.
        align_corners: how a branch is enlarged to the size of another.
        freeze_at: 1 freezes the stem, 2 also layer1, 3 stage2, 4 stage3, 5 all, with the transitions before them.

    Raises:
        ConfigError: an unknown feature or norm, or a number that is not positive.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 3,
        width: int = 48,
        out_features: Sequence[str] = FEATURES,
        modules: Sequence[int] = (1, 4, 3),
        blocks: int = 4,
        norm: str = "BN",
        bn_eps: float = 1e-5,
        align_corners: bool = True,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        if width < 1 or blocks < 1 or len(modules) != 3 or min(modules) < 1:
            raise ConfigError(
                f"d2_hrnet got MODEL.RESNETS.DEPTH (the width) {width}, MODEL.HRNET.MODULES "
                f"{list(modules)} and MODEL.HRNET.BLOCKS {blocks}, expected a positive number, three "
                "positive numbers and a positive number; the published networks have [1, 4, 3] and 4"
            )
        make = NormTable(norm, bn_eps, align_corners)
        widths = [width << branch for branch in range(len(FEATURES))]
        self._out_features = check_out_features(out_features, "d2_hrnet")
        self._out_feature_channels = dict(zip(FEATURES, widths, strict=True))
        self._out_feature_strides = {name: 4 << branch for branch, name in enumerate(FEATURES)}

        self.conv1 = conv(in_channels, STEM_CHANNELS, 3, 2)
        self.bn1 = make.norm(STEM_CHANNELS)
        self.conv2 = conv(STEM_CHANNELS, STEM_CHANNELS, 3, 2)
        self.bn2 = make.norm(STEM_CHANNELS)
        self.layer1 = _layer1(make)
        self.transition1 = _transition([LAYER1_CHANNELS], widths[:2], make)
        self.stage2 = _stage(widths[:2], modules[0], blocks, make)
        self.transition2 = _transition(widths[:2], widths[:3], make)
        self.stage3 = _stage(widths[:3], modules[1], blocks, make)
        self.transition3 = _transition(widths[:3], widths, make)
        self.stage4 = _stage(widths, modules[2], blocks, make)
        freeze_stages(self, STAGES, freeze_at)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict[str, Any]:
        cfg = with_backbone_keys(cfg)
        resnets = cfg.MODEL.RESNETS
        if resnets.DEPTH in RESNET_DEPTHS:
            raise ConfigError(
                f"MODEL.RESNETS.DEPTH is {resnets.DEPTH}, the depth of a ResNet; d2_hrnet reads its "
                "width from this key: set 18, 32 or 48"
            )
        return {
            "in_channels": input_shape.channels,
            "width": resnets.DEPTH,
            "out_features": resnets.OUT_FEATURES,
            "modules": cfg.MODEL.HRNET.MODULES,
            "blocks": cfg.MODEL.HRNET.BLOCKS,
            "norm": resnets.NORM,
            "bn_eps": resnets.BN_EPS,
            "align_corners": cfg.MODEL.HRNET.get("ALIGN_CORNERS", True),
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    @property
    def size_divisibility(self) -> int:
        return 32

    @property
    def stem_channels(self) -> int:
        """Channels of the stem's output, and of what :meth:`forward` adds to it."""
        return STEM_CHANNELS

    def forward(self, x: torch.Tensor, stem_input: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Images (N, C, H, W), normalised floats, to the features by name; shapes are in the module's legend.

        Args:
            x: the images.
            stem_input: float (N, ``stem_channels``, ceil(H / 4), ceil(W / 4)), added to the stem's output before its
                last ReLU: what else is known of the images.
        """
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x = F.relu(x if stem_input is None else x + stem_input)
        branches = [self.layer1(x)]
        branches = self.stage2(_widen(self.transition1, branches))
        branches = self.stage3(_widen(self.transition2, branches))
        branches = self.stage4(_widen(self.transition3, branches))
        return {name: x for name, x in zip(FEATURES, branches, strict=True) if name in self._out_features}


def _layer1(make: NormTable) -> nn.Sequential:
    middle = LAYER1_CHANNELS // 4
    inputs = [STEM_CHANNELS] + [LAYER1_CHANNELS] * (LAYER1_BLOCKS - 1)
    return nn.Sequential(
        *(ResidualBlock((channels, middle, middle, LAYER1_CHANNELS), (1, 3, 1), make) for channels in inputs)
    )


def _stage(widths: Sequence[int], modules: int, blocks: int, make: NormTable) -> nn.Sequential:
    return nn.Sequential(*(HighResolutionModule(widths, blocks, make) for _ in range(modules)))


def _transition(before: Sequence[int], after: Sequence[int], make: NormTable) -> nn.ModuleList:
    """One layer for each branch after it; the last one, new, starts from the lowest resolution before it."""
    layers: list[nn.Module] = [
        nn.Identity() if old == new else make.conv_norm(old, new, relu=True)
        for old, new in zip(before, after, strict=False)
    ]
    new_branch = make.conv_norm(before[-1], after[-1], stride=2, relu=True)
    return nn.ModuleList([*layers, nn.Sequential(new_branch)])


def _widen(transition: nn.ModuleList, branches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [layer(x) for layer, x in zip(transition, [*branches, branches[-1]], strict=True)]


@BACKBONE_REGISTRY.register()
def d2_hrnet(cfg, input_shape: ShapeSpec) -> HRNet:
    """MODEL.BACKBONE.NAME ``d2_hrnet``: :class:`HRNet` of width MODEL.RESNETS.DEPTH."""
    return HRNet(cfg, input_shape)
