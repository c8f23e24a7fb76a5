"""Region mutual information (RMI): the statistics of 3x3 regions of labels and scores are compared, not pixels alone.

Source: https://arxiv.org/abs/1910.12037, with the numbers of NVIDIA's multi-scale attention (arXiv 2005.10821).
A network trained with it gives a probability a class, independent of the others': its activation is the sigmoid.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

POOL = 4  # labels and scores are averaged over POOL x POOL pixels
RADIUS = 3  # side of a region, in averages
DIMENSIONS = RADIUS * RADIUS
REGULARISATION = 5e-4  # added to the diagonals, so that no matrix is singular
SMALLEST_PROBABILITY = 1e-6


def binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, *, ignore_value: int, pixel_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross entropy of each class against all others, summed over the classes, averaged over labelled pixels.

    The arguments are those of :func:`~panoptic_plugin.losses.cross_entropy.cross_entropy`.

    Returns:
        float32 scalar, 0 where all pixels are ignored.
    """
    with _full_precision(logits):
        labelled, one_hot = _one_hot(targets, logits.shape[1], ignore_value, torch.float32)
        losses = F.binary_cross_entropy_with_logits(logits.float(), one_hot, reduction="none").sum(dim=1)
        weights = labelled.float() if pixel_weights is None else labelled * pixel_weights
        return (losses * weights).sum() / labelled.sum().clamp(min=1)


def region_mutual_information(logits: torch.Tensor, targets: torch.Tensor, *, ignore_value: int) -> torch.Tensor:
    """What a region's scores leave unknown of its labels, half the log of its volume, per dimension.

    ``0.5 logdet(Cov(y) - Cov(y, p) (Cov(p) + a)^-1 Cov(y, p)^T + a) / 9`` with ``a`` = 5e-4 times the identity: summed
    over the classes, averaged over the images with a label. Lower is better, and it can be negative. Computed in
    float64, whatever the precision of the logits and of autocast.

    Args:
        logits: float (N, C, H, W).
        targets: int64 (N, H, W), class indices or ``ignore_value``.
        ignore_value: the label whose pixels have neither label nor score.

    Returns:
        float32 scalar; 0 where all pixels are ignored, or the images hold no whole region.
    """
    with _full_precision(logits):
        labelled, one_hot = _one_hot(targets, logits.shape[1], ignore_value, torch.float64)
        scores = logits.double().sigmoid() * labelled.unsqueeze(1) + SMALLEST_PROBABILITY
        labels, scores = _pool(one_hot), _pool(scores)
        if min(labels.shape[-2:]) < RADIUS:
            return logits.float().sum() * 0.0
        unknown = _conditional_log_volume(_regions(scores), _regions(labels)).sum(dim=1)
        known_images = labelled.flatten(1).any(dim=1)
        return ((unknown * known_images).sum() / known_images.sum().clamp(min=1)).float()


def rmi_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    ignore_value: int,
    pixel_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Half :func:`binary_cross_entropy`, half :func:`region_mutual_information`; weights act on the former alone."""
    pixels = binary_cross_entropy(logits, targets, ignore_value=ignore_value, pixel_weights=pixel_weights)
    return 0.5 * pixels + 0.5 * region_mutual_information(logits, targets, ignore_value=ignore_value)


def _full_precision(tensor: torch.Tensor) -> torch.autocast:
    """Autocast off on the device of ``tensor``: half precision would turn the factorisation into NaN."""
    return torch.autocast(tensor.device.type, enabled=False)


def _one_hot(
    targets: torch.Tensor, num_classes: int, ignore_value: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pixels are labelled, bool (N, H, W), and their classes, (N, C, H, W) of 0 and 1, all 0 where ignored."""
    labelled = targets != ignore_value
    one_hot = F.one_hot(targets.masked_fill(~labelled, 0), num_classes).permute(0, 3, 1, 2)
    return labelled, one_hot.to(dtype) * labelled.unsqueeze(1)


def _pool(maps: torch.Tensor) -> torch.Tensor:
    # Half a window of zeros at each side, as in the published code.
    return F.avg_pool2d(maps, POOL, stride=POOL, padding=POOL // 2)


def _regions(maps: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) to its 3x3 regions less their mean: (N, C, 9, regions)."""
    num_images, num_classes = maps.shape[:2]
    vectors = F.unfold(maps, RADIUS).view(num_images, num_classes, DIMENSIONS, -1)
    return vectors - vectors.mean(dim=-1, keepdim=True)


def _conditional_log_volume(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Half the log determinant of the covariance of ``wanted`` given ``given``, per dimension: (N, C).

    That covariance is the Schur complement of the joint one, whose Cholesky factor holds that of the complement in
    its last rows. So there is no inverse and no difference of matrices: the joint covariance plus a positive diagonal
    is positive definite also where a class is absent or the scores are constant.

    Args:
        given, wanted: float64 (N, C, 9, regions), each with mean 0.
    """
    joint = torch.cat([given, wanted], dim=2)
    covariance = joint @ joint.transpose(-2, -1)
    covariance = covariance + REGULARISATION * torch.eye(2 * DIMENSIONS, dtype=joint.dtype, device=joint.device)
    factor = torch.linalg.cholesky_ex(covariance).L
    return factor.diagonal(dim1=-2, dim2=-1)[..., DIMENSIONS:].log().sum(dim=-1) / DIMENSIONS
