"""What each of two processes does in tests/e2e/test_timm_processes.py."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.utils import comm
from torch import nn

from panoptic_plugin.backbones.efficientnet import TimmBackbone
from panoptic_plugin.engine.model import wrap_distributed
from panoptic_plugin.layers.norm import replace_sync_batch_norm


class Mean(nn.Module):
    """A loss of each image by itself, so that the mean over processes is that over all images."""

    def __init__(self, *, distributed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        backbone = TimmBackbone("efficientnet_lite0", norm="SyncBN")
        self.backbone = replace_sync_batch_norm(backbone, distributed=distributed).double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return sum(feature.square().mean() for feature in self.backbone(images).values())


def images() -> torch.Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters()]


def train(folder: str) -> None:
    """One backward pass of half of the images; notes the loss and the gradients."""
    rank = comm.get_rank()
    model = wrap_distributed(Mean(distributed=True))
    loss = model(images()[2 * rank :][:2])
    loss.backward()
    torch.save([loss.detach(), *gradients(model)], Path(folder, f"result.{rank}.pth"))
