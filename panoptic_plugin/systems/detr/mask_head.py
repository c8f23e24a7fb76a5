"""The mask head of panoptic DETR (https://arxiv.org/abs/2005.12872, section 4.4 and figure 8).

It runs on chosen queries only: every norm in it is taken over one query at a time, so the masks of the others change
nothing.

Shapes: M chosen queries, D channels, K heads; features at strides 4, 8 and 16 are C2, C3, C4, the last ones C5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

NUM_GROUPS = 8


class MaskAttention(nn.Module):
    """How much each cell of the map belongs to a query, a map a head.

    The softmax runs over heads and cells together, as in the official network: the maps of a query sum to 1 over all.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(dim, dim)
        self.k_linear = nn.Linear(dim, dim)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: torch.Tensor, memory: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """
        Args:
            queries: float (M, D), of one image.
            memory: float (D, h, w) of the same image.
            padding: bool (h, w).

        Returns:
            float (M, K, h, w).
        """
        dim, height, width = memory.shape
        per_head = dim // self.num_heads
        query = self.q_linear(queries).view(-1, self.num_heads, per_head) * per_head**-0.5
        key = F.conv2d(memory[None], self.k_linear.weight[..., None, None], self.k_linear.bias)
        weights = torch.einsum("mkd,kdt->mkt", query, key.view(self.num_heads, per_head, -1))
        weights = weights.masked_fill(padding.flatten(), -math.inf)
        return weights.flatten(1).softmax(dim=-1).view(-1, self.num_heads, height, width)


class MaskHead(nn.Module):
    """Feature map and attention maps of a query to its mask at stride 4, with C4, C3 and C2 added on the way.

    Args:
        dim: channels D of the feature map.
        num_heads: attention maps a query.
        feature_channels: of C4, C3, C2.
    """

    def __init__(self, dim: int, num_heads: int, feature_channels: Sequence[int]) -> None:
        super().__init__()
        channels = [dim + num_heads, dim // 2, dim // 4, dim // 8, dim // 16]
        self.lay1 = nn.Conv2d(channels[0], channels[0], 3, padding=1)
        self.gn1 = _norm(channels[0])
        for number, (before, after) in enumerate(zip(channels[:-1], channels[1:], strict=True), start=2):
            setattr(self, f"lay{number}", nn.Conv2d(before, after, 3, padding=1))
            setattr(self, f"gn{number}", _norm(after))
        self.out_lay = nn.Conv2d(channels[-1], 1, 3, padding=1)
        for number, (before, after) in enumerate(zip(feature_channels, channels[1:4], strict=True), start=1):
            setattr(self, f"adapter{number}", nn.Conv2d(before, after, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        features: torch.Tensor,
        attention: torch.Tensor,
        pyramid: Sequence[torch.Tensor],
        image_of: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            features: float (B, D, h, w), what went into the transformer.
            attention: float (M, K, h, w).
            pyramid: C4, C3, C2, each (B, channels, H, W).
            image_of: int64 (M,), the image of each query.

        Returns:
            float (M, H2, W2), logits of the masks in the size of C2.
        """
        masks = torch.cat([features.index_select(0, image_of), attention], dim=1)
        masks = F.relu(self.gn1(self.lay1(masks)))
        masks = F.relu(self.gn2(self.lay2(masks)))
        for number, level in enumerate(pyramid, start=1):
            adapted = getattr(self, f"adapter{number}")(level)
            masks = F.interpolate(masks, size=adapted.shape[-2:], mode="nearest")
            masks = masks + adapted.index_select(0, image_of)
            masks = F.relu(getattr(self, f"gn{number + 2}")(getattr(self, f"lay{number + 2}")(masks)))
        return self.out_lay(masks)[:, 0]


def _norm(channels: int) -> nn.GroupNorm:
    # Eight groups, as the official head; less where a narrow one cannot be cut into eight.
    return nn.GroupNorm(math.gcd(NUM_GROUPS, channels), channels)
