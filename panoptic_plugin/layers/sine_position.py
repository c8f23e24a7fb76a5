"""Sine position encodings of two-dimensional maps (DETR, https://arxiv.org/abs/2005.12872, section A.4)."""

from __future__ import annotations

import math

import torch

TEMPERATURE = 10000
EPSILON = 1e-6


def sine_positions(padding: torch.Tensor, num_features: int) -> torch.Tensor:
    """Where each cell of a map lies, as sines and cosines of its row and its column.

    Rows and columns are counted from 1 over the cells that are not padding and divided by their number, so that the
    last one is at 2 pi whatever the size.

    Args:
        padding: bool (N, H, W), True where a cell is padding.
        num_features: features a cell, an even number; half of them for the row, then half for the column. In each
            half sines stand at even places and cosines at odd ones.

    Returns:
        float32 (N, num_features, H, W).
    """
    inside = (~padding).to(torch.float32)
    half = num_features // 2
    index = torch.arange(half, dtype=torch.float32, device=padding.device)
    wavelength = TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
    encoded = []
    for axis in (1, 2):
        count = inside.cumsum(dim=axis)
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        angle = (count / (last + EPSILON) * (2 * math.pi))[..., None] / wavelength
        waves = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1)
        encoded.append(waves.flatten(-2))
    return torch.cat(encoded, dim=-1).permute(0, 3, 1, 2)
