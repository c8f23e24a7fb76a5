"""Row "image pooling": the image-level branch of ASPP on the features of a Cityscapes image, up to their size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from detectron2.layers import ASPP
from measuring import interleaved
from torch.nn import functional as F

from panoptic_plugin.layers.image_pooling import with_any_size_pooling

# Of features at 1/16 of 1024x2048, and of the training crop 512x1024.
SIZE, WINDOW = (64, 128), (32, 64)
CASES = {"1024x2048, 2048 channels (R52, X65)": 2048, "1024x2048, 720 channels (H48)": 720}
TOLERANCE = 1e-5


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a number of channels; the first is the one that a ratio is asked for."""
    size, window = ((16, 32), (8, 16)) if quick else (SIZE, WINDOW)
    for case, channels in CASES.items():
        torch.manual_seed(0)
        # One dilation of 1: the other branches are not run.
        theirs = ASPP(channels, 256, [1, 1, 1], norm="BN", activation=F.relu, pool_kernel_size=window).eval()
        ours = with_any_size_pooling(
            ASPP(channels, 256, [1, 1, 1], norm="BN", activation=F.relu, pool_kernel_size=window).eval(), window
        )
        ours.load_state_dict(theirs.state_dict())
        features = torch.rand(1, channels, *size)
        yield {
            "row": "image pooling",
            "case": case,
            "reference": "Detectron2",
            "asked": 25 if channels == 2048 else None,
            "equality": f"{TOLERANCE:g}",
            **interleaved(partial(branch, ours, features), partial(branch, theirs, features), differences,
                          rounds=rounds),
        }  # fmt: skip


def branch(aspp: ASPP, features: torch.Tensor) -> torch.Tensor:
    """What ASPP does with its last branch."""
    return F.interpolate(aspp.convs[-1](features), size=features.shape[-2:], mode="bilinear", align_corners=False)


def differences(found: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    largest = float((found - expected).abs().max())
    return {"equal": largest <= TOLERANCE, "largest_difference": largest}
