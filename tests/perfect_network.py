"""A Panoptic-DeepLab that is right about its scene at every size and also mirrored, because the image is a map of it.

Channel 0 of an image holds where a pixel is between the left (0) and the right side (1), channel 1 between top and
bottom. From these alone the network knows the classes, centers and offsets of a fixed scene, in the pixels of the view
that it sees.
"""

from __future__ import annotations

import torch
from torch import nn

from panoptic_plugin.systems.panoptic_deeplab.meta_arch import PluginPanopticDeepLab

THING = 2
# (u, v) of the centers, and the radius of the objects; in parts of the width and height.
CENTERS = ((0.25, 0.3), (0.6, 0.35), (0.8, 0.75), (0.3, 0.75))
RADIUS = 0.14


def scene_image(height: int, width: int) -> torch.Tensor:
    """float (3, H, W): the coordinates of the pixel centers; channel 2 is 0."""
    v = ((torch.arange(height) + 0.5) / height).view(-1, 1).expand(height, width)
    u = ((torch.arange(width) + 0.5) / width).view(1, -1).expand(height, width)
    return torch.stack([u, v, torch.zeros(height, width)])


class _Backbone(nn.Module):
    size_divisibility = 0

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


class _Classes(nn.Module):
    common_stride = 1

    def layers(self, features: torch.Tensor) -> torch.Tensor:
        u, v = features[:, 0], features[:, 1]
        distance = torch.stack([_distance(u, v, center) for center in CENTERS]).amin(0)
        return torch.stack([(0.5 - v) * 40, (v - 0.5) * 40, (RADIUS - distance) * 400], dim=1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, dict]:
        return self.layers(features), {}


class _Instances(nn.Module):
    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict, dict]:
        u, v = features[:, 0], features[:, 1]
        distances = torch.stack([_distance(u, v, center) for center in CENTERS])
        heatmap = torch.exp(-((distances / 0.04) ** 2)).amax(0, keepdim=True).transpose(0, 1)
        nearest = torch.tensor(CENTERS)[distances.argmin(0)]
        # Pixels a unit: how fast the coordinates change, negative where the image is mirrored.
        du, dv = u[:, :1, 2:3] - u[:, :1, 1:2], v[:, 2:3, :1] - v[:, 1:2, :1]
        offsets = torch.stack([(nearest[..., 1] - v) / dv, (nearest[..., 0] - u) / du], dim=1)
        return heatmap, offsets, {}, {}


def _distance(u: torch.Tensor, v: torch.Tensor, center: tuple[float, float]) -> torch.Tensor:
    return ((u - center[0]) ** 2 + (v - center[1]) ** 2).sqrt()


def perfect_network(*, size_divisibility: int = 16, return_logits: bool = True) -> PluginPanopticDeepLab:
    """Two classes of stuff, above and below the middle, and four things; in evaluation mode."""
    return PluginPanopticDeepLab(
        backbone=_Backbone(),
        sem_seg_head=_Classes(),
        ins_embed_head=_Instances(),
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
        size_divisibility=size_divisibility,
        thing_ids=[THING],
        label_divisor=1000,
        stuff_area=1,
        center_threshold=0.3,
        nms_kernel=7,
        top_k=20,
        predict_instances=True,
        return_logits=return_logits,
    ).eval()
