"""The keys of ``MODEL.PANOPTIC_DEEPLAB.INSTANCE_WEIGHT``, and the predicted instances that some of them ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.losses.instance_weights import LOSSES, MODES, InstanceWeightOptions
from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.grouping import group_pixels
from panoptic_plugin.postprocessing.merge import thing_table

KEY = "MODEL.PANOPTIC_DEEPLAB.INSTANCE_WEIGHT"


def instance_weight_options(cfg: CfgNode) -> InstanceWeightOptions:
    """The options that the config gives.

    Raises:
        ConfigError: a choice that is none, or a number out of its range.
    """
    if "INSTANCE_WEIGHT" not in cfg.MODEL.PANOPTIC_DEEPLAB:  # a config of Detectron2's own keys
        return InstanceWeightOptions()
    keys = cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE_WEIGHT
    if keys.MODE not in MODES:
        raise ConfigError(f"{KEY}.MODE is {keys.MODE!r}, expected one of {', '.join(MODES)}")
    if unknown := [name for name in keys.APPLY_TO if name not in LOSSES]:
        raise ConfigError(f"{KEY}.APPLY_TO holds {unknown[0]!r}, expected some of {', '.join(LOSSES)}")
    try:
        return InstanceWeightOptions(
            mode=keys.MODE,
            beta=keys.BETA,
            tau=keys.TAU,
            area_gamma=keys.AREA_GAMMA,
            area_reference=keys.AREA_REFERENCE,
            consistency=keys.CONSISTENCY,
            apply_to=tuple(keys.APPLY_TO),
        )
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}") from None


@torch.no_grad()
def predicted_groups(
    logits: torch.Tensor,
    heatmaps: torch.Tensor,
    offsets: torch.Tensor,
    *,
    size: tuple[int, int],
    thing_ids: Sequence[int],
    threshold: float,
    nms_kernel: int,
    top_k: int | None,
) -> torch.Tensor:
    """The instances that the network finds now, by the plain rule at the stride of its outputs.

    Args:
        logits: float (N, C, h, w).
        heatmaps: float (N, 1, h, w).
        offsets: float (N, 2, h, w) in pixels of that size.
        size: (H, W) of the targets.
        thing_ids: the classes that are things.
        threshold, nms_kernel, top_k: of the centers.

    Returns:
        int64 (N, H, W), 1, 2, ... on the instances of an image, 0 elsewhere.
    """
    is_thing = thing_table(thing_ids, logits.shape[1], logits.device)
    groups = []
    for one_logits, heatmap, offset in zip(logits.detach(), heatmaps.detach(), offsets.detach(), strict=True):
        centers, _ = find_centers(heatmap.float(), threshold, nms_kernel, top_k)
        groups.append(group_pixels(centers, offset.float(), is_thing[one_logits.argmax(dim=0)]))
    stacked = torch.stack(groups)[:, None]
    return F.interpolate(stacked.float(), size=size, mode="nearest")[:, 0].long()
