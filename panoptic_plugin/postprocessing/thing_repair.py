"""What can be done about thing pixels that point far away from every center: leave them out, or make instances of them.

Shapes: (H, W) image, K centers, P thing pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch

from panoptic_plugin.postprocessing.grouping import centers_of_pixels
from panoptic_plugin.postprocessing.pixel_scores import PixelScores
from panoptic_plugin.postprocessing.semantic_grouping import target_of


class Groups(NamedTuple):
    """Instances of thing pixels.

    Attributes:
        centers: int64 (K, 2), (y, x).
        heights: float (K,), the heatmap there.
        instances: int32 (P,), 0 to K - 1, -1 for a pixel of no instance.
        categories: int64 (K,), -1 for a center without pixels.
    """

    centers: torch.Tensor
    heights: torch.Tensor
    instances: torch.Tensor
    categories: torch.Tensor


def leave_out(groups: Groups, offsets: torch.Tensor, scores: PixelScores, radius: float, probability: float) -> Groups:
    """Pixels that point further than ``radius`` away from their center and are of its class with less than
    ``probability`` belong to no instance."""
    index = (groups.instances >= 0).nonzero()[:, 0]
    instances = groups.instances.index_select(0, index).long()
    y, x = target_of(offsets, scores.pixels.index_select(0, index))
    squared = (groups.centers[instances, 0] - y) ** 2 + (groups.centers[instances, 1] - x) ** 2
    far = (squared > radius**2).nonzero()[:, 0]
    unlikely = scores.log_probability(groups.categories[instances[far]], index[far]) < math.log(max(probability, 1e-30))
    changed = groups.instances.clone()
    changed[index[far[unlikely]]] = -1
    return _without_empty(groups._replace(instances=changed))


def spawn(
    groups: Groups, heatmap: torch.Tensor, offsets: torch.Tensor, scores: PixelScores, radius: float, area: float
) -> Groups:
    """Connected pixels of a class, ``area`` or more, which all point further than ``radius`` away from each center of
    the class, become an instance of that class. Its center is where they point to on average.

    Args:
        groups: what there is; K may be 0.
        heatmap: float (1, H, W), whose value at the new center is its height.
        offsets: float (2, H, W).
        scores: of the thing pixels.
        radius: in pixels.
        area: in pixels.
    """
    centers, heights, instances, categories = groups
    device, size = offsets.device, heatmap.shape[1:]
    instances = instances.clone()
    y, x = target_of(offsets, scores.pixels)
    for category in scores.categories.unique().tolist():
        index = (scores.categories == category).nonzero()[:, 0]
        own = groups.centers[groups.categories == category]
        if len(own):
            pixels = scores.pixels.index_select(0, index)
            near = own[centers_of_pixels(own, offsets, pixels).long()]
            squared = (near[:, 0] - y[index]) ** 2 + (near[:, 1] - x[index]) ** 2
            index = index[squared > radius**2]
        for some in _components(scores.pixels[index], (int(size[0]), int(size[1])), area):
            members = index[torch.from_numpy(some).to(device)]
            center = torch.stack([y[members].mean(), x[members].mean()]).round().long()
            center = torch.minimum(center.clamp(min=0), torch.tensor(size, device=device) - 1)
            instances[members] = len(centers)
            centers = torch.cat([centers, center[None].to(centers.dtype)])
            heights = torch.cat([heights, heatmap[0, center[0], center[1]].clamp(min=0)[None].to(heights.dtype)])
            categories = torch.cat([categories, categories.new_tensor([category])])
    return _without_empty(Groups(centers, heights, instances, categories))


def _components(pixels: torch.Tensor, size: tuple[int, int], area: float) -> list[np.ndarray]:
    """Places in ``pixels`` (int64 (M,) positions) of those that are connected (8 neighbours), ``area`` at least."""
    mask = np.zeros(size, dtype=np.uint8)
    positions = pixels.cpu().numpy()
    mask.reshape(-1)[positions] = 1
    number, components = cv2.connectedComponents(mask, connectivity=8)
    owners = components.reshape(-1)[positions]
    sizes = np.bincount(owners, minlength=number)
    return [np.flatnonzero(owners == one) for one in range(1, number) if sizes[one] >= area]


def _without_empty(groups: Groups) -> Groups:
    used = groups.instances[groups.instances >= 0]
    sizes = torch.bincount(used, minlength=len(groups.centers))
    return groups._replace(categories=torch.where(sizes > 0, groups.categories, -1))
