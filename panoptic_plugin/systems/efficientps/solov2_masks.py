"""What the SOLOv2 head found in an image: masks with a category and a score.

Shapes: N cells, N' masks, E numbers of a kernel; h x w is the padded network input at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from panoptic_plugin.postprocessing.matrix_nms import mask_ious, matrix_nms, suppress_points
from panoptic_plugin.systems.efficientps.solov2_losses import mask_logits

# Cells whose masks are computed at a time: early in a training nearly all 3,872 can be likely enough.
_CELLS_AT_ONCE = 128


@dataclass(frozen=True)
class SOLOv2Masks:
    """The masks of one image, from the highest score down.

    Attributes:
        logits: float32 (N', h, w).
        classes: int64 (N',), index of the thing class.
        scores: float32 (N',).
    """

    logits: torch.Tensor
    classes: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class SOLOv2Selection:
    """From cells to masks.

    Attributes:
        num_grids: cells in each direction, a level.
        strides: of each level; a mask of no more pixels at stride 4 is dropped.
        score_threshold: cells with a higher probability of a class are looked at.
        mask_threshold: a mask is where its probability is higher.
        nms_pre: masks that the suppression sees at most.
        nms_kernel, nms_sigma: see :func:`~panoptic_plugin.postprocessing.matrix_nms.matrix_nms`.
        update_threshold: masks with a lower score after the suppression are dropped.
        max_masks: masks of an image at most.
    """

    num_grids: Sequence[int]
    strides: Sequence[int]
    score_threshold: float = 0.1
    mask_threshold: float = 0.5
    nms_pre: int = 500
    nms_kernel: str = "gaussian"
    nms_sigma: float = 2.0
    update_threshold: float = 0.05
    max_masks: int = 100

    @torch.no_grad()
    def __call__(
        self, category_logits: torch.Tensor, kernels: torch.Tensor, mask_features: torch.Tensor
    ) -> SOLOv2Masks:
        """The masks of one image, in float32 also under autocast.

        Args:
            category_logits: float (cells, C).
            kernels: float (cells, E).
            mask_features: float (E, h, w).
        """
        with torch.autocast(category_logits.device.type, enabled=False):
            scores, classes, cells = self._likely_cells(category_logits.float().sigmoid())
            kernels, features = kernels.float()[cells], mask_features.float()
            scores = self._with_maskness(scores, cells, kernels, features)
            order = scores.argsort(descending=True, stable=True)
            order = order[scores[order] > 0][: self.nms_pre]
            scores, classes, kernels = scores[order], classes[order], kernels[order]
            ious = mask_ious(self._binary(kernels, features))
            scores = matrix_nms(ious, classes, scores, kernel=self.nms_kernel, sigma=self.nms_sigma)
            order = scores.argsort(descending=True, stable=True)
            order = order[scores[order] >= self.update_threshold][: self.max_masks]
            return SOLOv2Masks(mask_logits(kernels[order], features), classes[order], scores[order])

    def _likely_cells(self, probability: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores, classes and cells of the pairs above the threshold that are no lower than their neighbours."""
        levels = probability.split([num_grid**2 for num_grid in self.num_grids])
        peaks = [suppress_points(level.T.reshape(-1, num_grid, num_grid)).flatten(1).T
                 for level, num_grid in zip(levels, self.num_grids, strict=True)]  # fmt: skip
        scores = torch.cat(peaks)
        cells, classes = (scores > self.score_threshold).nonzero(as_tuple=True)
        return scores[cells, classes], classes, cells

    def _with_maskness(
        self, scores: torch.Tensor, cells: torch.Tensor, kernels: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """Scores times the mean probability inside the mask; 0 for masks that are too small for their level."""
        strides = torch.cat([torch.full((num_grid**2,), stride, device=cells.device)
                             for num_grid, stride in zip(self.num_grids, self.strides, strict=True)])  # fmt: skip
        maskness, areas = [scores.new_zeros(0)], [scores.new_zeros(0)]
        for some in kernels.split(_CELLS_AT_ONCE):
            probability = mask_logits(some, features).sigmoid_().flatten(1)
            inside = probability > self.mask_threshold
            areas.append(inside.sum(dim=1).float())
            maskness.append((probability * inside).sum(dim=1) / areas[-1].clamp(min=1))
        return scores * torch.cat(maskness) * (torch.cat(areas) > strides[cells])

    def _binary(self, kernels: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        masks = torch.zeros((len(kernels), *features.shape[1:]), dtype=torch.bool, device=features.device)
        for first in range(0, len(kernels), _CELLS_AT_ONCE):
            some = slice(first, first + _CELLS_AT_ONCE)
            masks[some] = mask_logits(kernels[some], features).sigmoid_() > self.mask_threshold
        return masks
