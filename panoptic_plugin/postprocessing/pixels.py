"""Look-ups and lists of pixels, with OpenCV and NumPy on a CPU, where PyTorch's own take several times as long."""

from __future__ import annotations

import cv2
import numpy as np
import torch


def compact_labels(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Labels (H, W) from 0 to ``num_labels`` - 1 in one byte each where that holds them, as int64 otherwise."""
    return labels.to(torch.uint8 if num_labels <= 256 else torch.int64)


def look_up(table: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``table[labels]`` for a table (L,) of bool, uint8 or int64 and uint8 or int64 labels (H, W)."""
    if labels.device.type != "cpu" or labels.dtype != torch.uint8:
        return table[labels.long()]
    # OpenCV has no int64 and no bool; it only copies entries, so any type of the same width will do.
    entries: np.ndarray = np.zeros(256, dtype=np.float64 if table.dtype == torch.int64 else np.uint8)
    entries[: len(table)] = table.numpy().view(entries.dtype)
    found = cv2.LUT(labels.numpy(), entries).reshape(labels.shape)
    return torch.from_numpy(found).view(table.dtype)


def pixels_of(mask: torch.Tensor) -> torch.Tensor:
    """Positions y * W + x of the pixels of a mask bool (H, W) or (H * W,): int64 (P,), ascending."""
    if mask.device.type != "cpu":
        return mask.flatten().nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def rows_and_columns(pixels: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, x) of positions y * W + x, as float32 (P,)."""
    # Exact for less than 2^52 pixels, and several times as fast as the division of integers.
    y = (pixels.double() / width).floor_()
    return y.float(), (pixels - y * width).float()
