"""The network of DETR: backbone, transformer, heads. No losses, no post-processing, no config.

Shapes: B images of one padded size (H, W), Q object queries, C classes of the head (index C is "no object"),
L decoder layers, D channels. Boxes are (center x, center y, width, height) in parts of the image without its padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.backbone import Backbone
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.layers.query_transformer import QueryTransformer
from panoptic_plugin.layers.sine_position import sine_positions
from panoptic_plugin.systems.detr.mask_head import MaskAttention, MaskHead

LEVELS = ("res4", "res3", "res2")
LAST = "res5"


class BoxMLP(nn.Module):
    """Linear layers with ReLU between them, under the names of the official checkpoints."""

    def __init__(self, dim: int, out: int, num_layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim if n + 1 < num_layers else out) for n in range(num_layers))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            values = F.relu(layer(values))
        return self.layers[-1](values)


class Detector(nn.Module):
    """Everything of the box detector but its backbone; attribute names are those of official checkpoints."""

    def __init__(
        self, *, in_channels: int, num_classes: int, num_queries: int, transformer: QueryTransformer, dim: int
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = BoxMLP(dim, 4)
        self.query_embed = nn.Embedding(num_queries, dim)
        self.input_proj = nn.Conv2d(in_channels, dim, 1)


@dataclass
class QueryOutputs:
    """What the network says of each query, before masks.

    Attributes:
        logits: float (L, B, Q, C + 1).
        boxes: float (L, B, Q, 4), cxcywh, 0 to 1.
        queries: float (B, Q, D), the last decoder layer.
        memory: float (B, D, h, w), the encoder's map.
        projected: float (B, D, h, w), the encoder's input.
        padding: bool (B, h, w).
        pyramid: C4, C3, C2.
    """

    logits: torch.Tensor
    boxes: torch.Tensor
    queries: torch.Tensor
    memory: torch.Tensor
    projected: torch.Tensor
    padding: torch.Tensor
    pyramid: Sequence[torch.Tensor]


class DETRNetwork(nn.Module):
    """Backbone and detector, and with ``masks`` the attention maps and mask head.

    Args:
        backbone: Detectron2's ResNet with res2 to res5.
        num_classes: C.
        num_queries: Q.
        transformer: of D channels.
        dim: D.
        num_heads: attention maps a query of the mask head.
        masks: whether there is a mask head.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        num_queries: int,
        transformer: QueryTransformer,
        dim: int,
        num_heads: int,
        masks: bool,
    ) -> None:
        super().__init__()
        shapes = backbone.output_shape()
        self.backbone = backbone
        self.detr = Detector(
            in_channels=shapes[LAST].channels,
            num_classes=num_classes,
            num_queries=num_queries,
            transformer=transformer,
            dim=dim,
        )
        self.has_masks = masks
        if masks:
            self.bbox_attention = MaskAttention(dim, num_heads)
            self.mask_head = MaskHead(dim, num_heads, [shapes[level].channels for level in LEVELS])
        self.dim = dim

    def detect(self, images: torch.Tensor, padding: torch.Tensor) -> QueryOutputs:
        """Classes and boxes of all queries, of all decoder layers.

        Args:
            images: float (B, 3, H, W), normalised, 0 where they are padded.
            padding: bool (B, H, W), True where they are.
        """
        features = self.backbone(images)
        last = features[LAST]
        # A cell is padding where the pixel that nearest-neighbour sampling picks for it is.
        cell_padding = F.interpolate(padding[:, None].float(), size=last.shape[-2:], mode="nearest")[:, 0].bool()
        projected = self.detr.input_proj(last)
        positions = sine_positions(cell_padding, self.dim).to(projected.dtype)
        states, memory = self.detr.transformer(projected, cell_padding, self.detr.query_embed.weight, positions)
        return QueryOutputs(
            logits=self.detr.class_embed(states),
            boxes=self.detr.bbox_embed(states).sigmoid(),
            queries=states[-1],
            memory=memory,
            projected=projected,
            padding=cell_padding,
            pyramid=[features[level] for level in LEVELS],
        )

    def masks(self, outputs: QueryOutputs, chosen: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mask logits of chosen queries.

        Args:
            outputs: of :meth:`detect`.
            chosen: for each image the numbers of its queries, int64 (M_b,).

        Returns:
            float (M, H2, W2) at stride 4, image after image.
        """
        parts = zip(outputs.queries, outputs.memory, outputs.padding, chosen, strict=True)
        attention = [
            self.bbox_attention(queries.index_select(0, some), memory, padding)
            for queries, memory, padding, some in parts
        ]
        device = outputs.queries.device
        counts = torch.tensor([len(some) for some in chosen], device=device)
        image_of = torch.repeat_interleave(torch.arange(len(chosen), device=device), counts)
        return self.mask_head(outputs.projected, torch.cat(attention), outputs.pyramid, image_of)
