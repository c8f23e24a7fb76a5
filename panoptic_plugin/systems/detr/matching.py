"""Which query answers for which segment (DETR, https://arxiv.org/abs/2005.12872, section 3.1)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import generalized_box_iou

Pairs = tuple[torch.Tensor, torch.Tensor]
# Boxes are parts of the image and classes probabilities, so that any cost is some tens.
BELOW_ALL_COSTS = -1e6


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (..., 4) from (center x, center y, width, height) to (x0, y0, x1, y1)."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


@torch.no_grad()
def match(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    labels: torch.Tensor,
    target_boxes: torch.Tensor,
    *,
    cost_class: float = 1.0,
    cost_bbox: float = 5.0,
    cost_giou: float = 2.0,
) -> Pairs:
    """The assignment of least cost of one image's queries to its segments.

    Args:
        logits: float (Q, C + 1).
        boxes: float (Q, 4), cxcywh.
        labels: int64 (T,), head slots.
        target_boxes: float (T, 4), cxcywh.
        cost_class: weight of minus the probability of the segment's class.
        cost_bbox: weight of the L1 distance of the boxes.
        cost_giou: weight of minus their generalised IoU.

    Returns:
        int64 (P,) queries in ascending order and their segments, P = min(Q, T), on the device. A query whose box or
        class is infinite or NaN is matched before all others: then the losses are, too, and the trainer, which knows
        the iteration and the images of all processes, says so or leaves the iteration out.
    """
    probability = logits.float().softmax(dim=-1)
    boxes, target_boxes = boxes.float(), target_boxes.float()
    cost = (
        cost_bbox * torch.cdist(boxes, target_boxes, p=1)
        - cost_class * probability[:, labels]
        - cost_giou * generalized_box_iou(corners(boxes), corners(target_boxes))
    ).cpu()
    cost = torch.where(torch.isfinite(cost), cost, BELOW_ALL_COSTS)
    queries, segments = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(queries, device=logits.device), torch.as_tensor(segments, device=logits.device)
