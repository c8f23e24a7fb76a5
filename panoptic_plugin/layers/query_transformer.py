"""The transformer of DETR (https://arxiv.org/abs/2005.12872, section A.3): PyTorch's layers, given positions.

Positions are added to queries and keys of every attention, never to values. Names of the parameters are those of the
official checkpoints, because they are those of PyTorch's own layers.

Shapes: B images, T = h * w cells of the feature map, Q object queries, D channels. Sequences come first: (T, B, D).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import nn


class Memory(NamedTuple):
    """What the encoder made of the map, for the queries to look at.

    Attributes:
        cells: float (T, B, D).
        placed: float (T, B, D), the cells with their positions added.
        padding: bool (B, T), True where nothing must be attended to.
    """

    cells: torch.Tensor
    placed: torch.Tensor
    padding: torch.Tensor


class EncoderLayer(nn.TransformerEncoderLayer):
    """Self-attention over the cells of the map, and a two-layer network.

    Attributes:
        keep_weights: whether ``last_weights`` is filled; it costs time and B * T * T numbers.
        last_weights: float (B, T, T), the mean over the heads of how cells (dimension 1) attend to cells.
    """

    keep_weights = False
    last_weights: torch.Tensor | None = None

    def forward(self, cells: torch.Tensor, positions: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """
        Args:
            cells: float (T, B, D).
            positions: float (T, B, D).
            padding: bool (B, T), True where nothing must be attended to.
        """
        if self.norm_first:
            cells = cells + self._attend(self.norm1(cells), positions, padding)
            return cells + self._ff_block(self.norm2(cells))
        cells = self.norm1(cells + self._attend(cells, positions, padding))
        return self.norm2(cells + self._ff_block(cells))

    def _attend(self, cells: torch.Tensor, positions: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        placed = cells + positions
        attended, self.last_weights = self.self_attn(
            placed, placed, cells, key_padding_mask=padding, need_weights=self.keep_weights
        )
        return self.dropout1(attended)


class DecoderLayer(nn.TransformerDecoderLayer):
    """Self-attention among the queries, attention to the cells of the map, and a two-layer network.

    Attributes:
        keep_weights: whether ``last_weights`` is filled.
        last_weights: float (B, Q, T), the mean over the heads of how queries attend to cells.
    """

    keep_weights = False
    last_weights: torch.Tensor | None = None

    def forward(self, queries: torch.Tensor, query_positions: torch.Tensor, memory: Memory) -> torch.Tensor:  # type: ignore[override]
        """
        Args:
            queries: float (Q, B, D).
            query_positions: float (Q, B, D).
            memory: of the same images.
        """
        if self.norm_first:
            queries = queries + self._among(self.norm1(queries), query_positions)
            queries = queries + self._look(self.norm2(queries), query_positions, memory)
            return queries + self._ff_block(self.norm3(queries))
        queries = self.norm1(queries + self._among(queries, query_positions))
        queries = self.norm2(queries + self._look(queries, query_positions, memory))
        return self.norm3(queries + self._ff_block(queries))

    def _among(self, queries: torch.Tensor, query_positions: torch.Tensor) -> torch.Tensor:
        placed = queries + query_positions
        return self.dropout1(self.self_attn(placed, placed, queries, need_weights=False)[0])

    def _look(self, queries: torch.Tensor, query_positions: torch.Tensor, memory: Memory) -> torch.Tensor:
        attended, self.last_weights = self.multihead_attn(
            queries + query_positions,
            memory.placed,
            memory.cells,
            key_padding_mask=memory.padding,
            need_weights=self.keep_weights,
        )
        return self.dropout2(attended)


class Stack(nn.Module):
    """Equal layers one after the other, and where there is one a norm at the end.

    Only attribute names matter here: ``layers.0``, ``layers.1``, ..., ``norm``, as in the official checkpoints.
    """

    def __init__(self, layer: nn.Module, num_layers: int, norm: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        if norm is not None:
            self.norm = norm


class QueryTransformer(nn.Module):
    """Encoder and decoder; all matrices start from Xavier's uniform distribution.

    Args:
        dim: channels D.
        num_heads: of each attention.
        num_encoder_layers, num_decoder_layers: how many of each.
        feedforward_dim: hidden units of the two-layer networks.
        dropout: everywhere in the layers, in the attention weights too.
        norm_first: norms before attention and network in the place of after; the encoder then ends with one as well.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        feedforward_dim: int = 2048,
        dropout: float = 0.1,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        sizes = (dim, num_heads, feedforward_dim, dropout)
        self.encoder = Stack(
            EncoderLayer(*sizes, norm_first=norm_first),
            num_encoder_layers,
            nn.LayerNorm(dim) if norm_first else None,
        )
        self.decoder = Stack(DecoderLayer(*sizes, norm_first=norm_first), num_decoder_layers, nn.LayerNorm(dim))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, features: torch.Tensor, padding: torch.Tensor, queries: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            features: float (B, D, h, w).
            padding: bool (B, h, w).
            queries: float (Q, D), positions of the object queries.
            positions: float (B, D, h, w).

        Returns:
            float (layers, B, Q, D), the normed output of every decoder layer, and the encoder's (B, D, h, w).
        """
        num_images, dim, height, width = features.shape
        cells, places = (one.flatten(2).permute(2, 0, 1) for one in (features, positions))
        flat_padding = padding.flatten(1)
        for layer in self.encoder.layers:
            cells = layer(cells, places, flat_padding)
        if hasattr(self.encoder, "norm"):
            cells = self.encoder.norm(cells)
        memory = Memory(cells, cells + places, flat_padding)
        query_positions = queries[:, None].expand(-1, num_images, -1)
        state = torch.zeros_like(query_positions)
        states = []
        for layer in self.decoder.layers:
            state = layer(state, query_positions, memory)
            states.append(self.decoder.norm(state))
        return torch.stack(states).transpose(1, 2), cells.permute(1, 2, 0).reshape(num_images, dim, height, width)
