"""Which of two ways a function goes: NumPy and OpenCV on a CPU, PyTorch's operators everywhere else."""

from __future__ import annotations

import torch


def is_cpu(tensor: torch.Tensor) -> bool:
    """Whether the tensor can be read by NumPy. Tests make it False to take the other way without a GPU."""
    return tensor.device.type == "cpu"
