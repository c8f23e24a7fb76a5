"""Look-ups and lists of pixels, with OpenCV and NumPy on a CPU, where PyTorch's own take several times as long."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.runs import Runs


def compact_labels(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Labels (H, W) from 0 to ``num_labels`` - 1 in one byte each where that holds them, as int64 otherwise."""
    return labels.to(torch.uint8 if num_labels <= 256 else torch.int64)


def look_up(table: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``table[labels]`` for a table (L,) of bool, uint8 or int64 and uint8 or int64 labels of any shape."""
    if not device.is_cpu(labels) or labels.dtype != torch.uint8:
        return table[labels.long()]
    # OpenCV has no int64 and no bool; it only copies entries, so any type of the same width will do.
    entries: np.ndarray = np.zeros(256, dtype=np.float64 if table.dtype == torch.int64 else np.uint8)
    entries[: len(table)] = table.numpy().view(entries.dtype)
    found = cv2.LUT(labels.numpy(), entries).reshape(labels.shape)
    return torch.from_numpy(found).view(table.dtype)


def pixels_of(mask: torch.Tensor) -> torch.Tensor:
    """Positions y * W + x of the pixels of a mask bool (H, W) or (H * W,): int64 (P,), ascending."""
    if not device.is_cpu(mask):
        return mask.flatten().nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def take(values: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """``values[pixels]`` for one dimension, of types that NumPy knows."""
    if not device.is_cpu(values):
        return values.index_select(0, pixels)
    # The positions are known to be inside; "clip" saves a check of each, and half of the time.
    return torch.from_numpy(values.numpy().take(pixels.numpy(), mode="clip"))


def count_labels(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Pixels of each label, int64 (num_labels,), of integers of any shape."""
    runs = Runs(labels.reshape(-1))
    return runs.count(runs.fields[0], num_labels)


def count_and_find(labels: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of each label, int64 (L,), and the positions of all pixels of wanted labels, int64 (P,), ascending.

    Args:
        labels: uint8 or int64 (H, W).
        wanted: bool (L,).
    """
    runs = Runs(labels.reshape(-1))
    return runs.count(runs.fields[0], len(wanted)), runs.places(look_up(wanted, runs.fields[0]))


def parts_of(length: int, size: int) -> list[slice]:
    """One after the other, ``size`` at a time."""
    return [slice(start, start + size) for start in range(0, length, size)]


def put(target: torch.Tensor, pixels: torch.Tensor, values: torch.Tensor) -> None:
    """``target[pixels] = values`` for one dimension; values (P,), or one for all."""
    if device.is_cpu(target):
        target.numpy()[pixels.numpy()] = values.numpy()
    else:
        target[pixels] = values


def rows_and_columns(pixels: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, x) of positions y * W + x below 2^31, as float32 (P,)."""
    if not device.is_cpu(pixels):
        y = pixels // width
        return y.float(), (pixels - y * width).float()
    # NumPy divides by a number, of four bytes, in a tenth of the time that PyTorch takes.
    positions = pixels.numpy().astype(np.int32)
    rows = positions // np.int32(width)
    positions -= rows * np.int32(width)
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(positions.astype(np.float32))
