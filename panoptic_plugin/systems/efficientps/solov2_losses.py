"""The losses of SOLOv2 (https://arxiv.org/abs/2003.10152, section 3.4): focal loss of the cells, Dice loss of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fvcore.nn import sigmoid_focal_loss
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from panoptic_plugin.losses.dice import dice_losses
from panoptic_plugin.systems.efficientps.solov2_head import SOLOv2Outputs
from panoptic_plugin.systems.efficientps.solov2_targets import SOLOv2Targets

# Cells whose masks are computed at a time; a mask of a 1024 x 2048 image has 131,072 logits.
_CELLS_AT_ONCE = 64


@dataclass(frozen=True)
class SOLOv2Losses:
    """Losses of the head.

    Attributes:
        focal_alpha, focal_gamma: of the focal loss (https://arxiv.org/abs/1708.02002).
        focal_weight, dice_weight: factors of the two losses.
    """

    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    focal_weight: float = 1.0
    dice_weight: float = 3.0

    def __call__(self, outputs: SOLOv2Outputs, targets: Sequence[SOLOv2Targets]) -> dict[str, torch.Tensor]:
        """``loss_category`` and ``loss_mask`` of a batch, one target an image; float32 also under autocast.

        Images without objects are fine: the masks' loss is 0 where there is none in the batch, with gradients of 0.
        """
        return {
            "loss_category": self.focal_weight * self._category_loss(outputs.category_logits, targets),
            "loss_mask": self.dice_weight * mask_loss(outputs, targets),
        }

    def _category_loss(self, logits: torch.Tensor, targets: Sequence[SOLOv2Targets]) -> torch.Tensor:
        # logits (N, cells, C) -> scalar
        with torch.autocast(logits.device.type, enabled=False):
            categories = torch.stack([one.categories for one in targets])
            num_classes = logits.shape[-1]
            wanted = F.one_hot(categories, num_classes + 1)[..., :num_classes].float()
            loss = sigmoid_focal_loss(
                logits.float(), wanted, alpha=self.focal_alpha, gamma=self.focal_gamma, reduction="sum"
            )
            return loss / (wanted.sum() + 1)


def mask_loss(outputs: SOLOv2Outputs, targets: Sequence[SOLOv2Targets]) -> torch.Tensor:
    """Mean Dice loss over all cells of the batch that have a mask to learn; float32 scalar."""
    losses = [
        _cell_losses(kernels, features, target)
        for kernels, features, target in zip(outputs.kernels, outputs.mask_features, targets, strict=True)
    ]
    all_losses = torch.cat(losses)
    if len(all_losses):
        return all_losses.mean()
    # Every parameter has a gradient, which several processes wait for.
    return 0.0 * outputs.kernels.float().sum() + 0.0 * outputs.mask_features.float().sum()


def _cell_losses(kernels: torch.Tensor, features: torch.Tensor, target: SOLOv2Targets) -> torch.Tensor:
    # kernels (cells, E), features (E, h, w) -> float32 (P,)
    chosen = kernels[target.cells].split(_CELLS_AT_ONCE)
    objects = target.objects.split(_CELLS_AT_ONCE)
    if len(chosen) == 1:
        return _losses_of_kernels(chosen[0], features, target.masks, objects[0])
    # With many cells their masks are computed again in the backward pass, in place of being kept.
    parts = [
        checkpoint(_losses_of_kernels, some, features, target.masks, of, use_reentrant=False, preserve_rng_state=False)
        for some, of in zip(chosen, objects, strict=True)
    ]
    return torch.cat(parts)


def _losses_of_kernels(
    kernels: torch.Tensor, features: torch.Tensor, masks: torch.Tensor, objects: torch.Tensor
) -> torch.Tensor:
    # kernels (P, E), features (E, h, w), masks bool (T, h, w), objects (P,) -> float32 (P,)
    return dice_losses(mask_logits(kernels, features), masks[objects])


def mask_logits(kernels: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """The dynamic 1 x 1 convolution: kernels (P, E) and features (E, h, w) to logits (P, h, w)."""
    return (kernels @ features.flatten(1)).view(-1, *features.shape[1:])
