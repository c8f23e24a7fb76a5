"""Checks of a decoder's arguments, with errors that name the config key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.losses.semantic import SEMANTIC_LOSSES
from panoptic_plugin.registry import suggestion


def check_decoder(
    *,
    section: str,
    in_features: Sequence[str],
    backbone_features: Mapping[str, ShapeSpec],
    project_channels: Sequence[int],
    aspp_dilations: Sequence[int],
    common_stride: int,
) -> None:
    """What a DeepLabV3+ decoder expects of its features.

    Args:
        section: the config section that the arguments come from, for example ``MODEL.SEM_SEG_HEAD``.
        in_features: names of the features to decode, the one of largest stride goes into the ASPP.
        backbone_features: all features that the backbone gives, by name.
        project_channels: one number for each feature except the deepest.
        aspp_dilations: three dilations.
        common_stride: stride of the predictions before they are enlarged, that of the finest feature.

    Raises:
        ConfigError: the arguments do not fit each other or the backbone.
    """
    missing = [name for name in in_features if name not in backbone_features]
    if missing or not in_features:
        raise ConfigError(
            f"{section}.IN_FEATURES is {list(in_features)}, but the backbone gives {sorted(backbone_features)}; "
            "name features of the backbone, or add them to its output (MODEL.RESNETS.OUT_FEATURES)"
        )
    if len(project_channels) != len(in_features) - 1:
        raise ConfigError(
            f"{section}.PROJECT_CHANNELS has {len(project_channels)} entries, expected {len(in_features) - 1}: "
            f"one for each of IN_FEATURES {list(in_features)} except the deepest"
        )
    if len(aspp_dilations) != 3:
        raise ConfigError(f"{section}.ASPP_DILATIONS has {len(aspp_dilations)} entries, expected 3")
    finest = min((backbone_features[name].stride, name) for name in in_features)
    if finest[0] != common_stride:
        raise ConfigError(
            f"{section}.COMMON_STRIDE is {common_stride}, but the finest of IN_FEATURES, {finest[1]}, has stride "
            f"{finest[0]}; set COMMON_STRIDE to {finest[0]}"
        )


def crop_size(*, crop_enabled: bool, crop_type: str, size: Sequence[float]) -> tuple[int, int] | None:
    """(height, width) of the training crop, which sets the window of the ASPP's image pooling; None without crops.

    Raises:
        ConfigError: a crop whose size is not given in pixels.
    """
    if not crop_enabled:
        return None
    if crop_type != "absolute":
        raise ConfigError(
            f"INPUT.CROP.TYPE is {crop_type!r}, but the image pooling of DeepLab's decoder takes its window from "
            "a crop size in pixels; set INPUT.CROP.TYPE to 'absolute', or INPUT.CROP.ENABLED to False"
        )
    return int(size[0]), int(size[1])


def check_semantic_loss(loss_type: str, top_k: float, key: str = "MODEL.SEM_SEG_HEAD.LOSS_TYPE") -> None:
    """Raise a ConfigError for an unknown loss, read from ``key``, or a fraction outside (0, 1]."""
    if loss_type not in SEMANTIC_LOSSES:
        hint = suggestion(str(loss_type), list(SEMANTIC_LOSSES))
        raise ConfigError(f"{key} is {loss_type!r}. {hint}")
    if not 0 < top_k <= 1:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.LOSS_TOP_K is {top_k}, expected a fraction of the pixels, above 0 and at most 1"
        )


def ohem_options(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of a SemanticLoss for "ohem" from MODEL.SEM_SEG_HEAD; none where a foreign config lacks the keys.

    Raises:
        ConfigError: no probability, or a negative number of pixels.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    if "OHEM_THRESH" not in head:
        return {}
    check_ohem(head.OHEM_THRESH, head.OHEM_MIN_KEPT, "MODEL.SEM_SEG_HEAD")
    return {"ohem_threshold": head.OHEM_THRESH, "ohem_min_kept": head.OHEM_MIN_KEPT}


def check_ohem(threshold: float, min_kept: int, section: str) -> None:
    """Raise a ConfigError for a threshold outside 0 to 1 or a negative number of pixels."""
    if not 0 <= threshold <= 1 or min_kept < 0:
        raise ConfigError(
            f"{section}.OHEM_THRESH is {threshold} and OHEM_MIN_KEPT is {min_kept}, expected a probability and a "
            "number of pixels that is not negative"
        )
