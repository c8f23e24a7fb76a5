"""Layouts of third-party checkpoints: what recognises one, which keys it should hold, how they are renamed.

Known are SegmenTron's Xception-65, HRNet's ImageNet checkpoints, HRNet-OCR's and NVIDIA's whole semantic models,
torchvision's ResNets, and Detectron2's own names (backbones or whole models).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

from panoptic_plugin.backbones.hrnet import HRNet
from panoptic_plugin.backbones.ocr_weights import expected_head, rename_hrnet_ocr, rename_nvidia
from panoptic_plugin.backbones.stages import FEATURES
from panoptic_plugin.backbones.xception import Xception65
from panoptic_plugin.layers.resnet_names import to_detectron2

Weights = Mapping[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

# Batch norms count their batches; files of older PyTorch versions lack these, and nothing depends on them.
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint.

    Attributes:
        title: for people.
        signature: regular expression of the end of a key that only this kind has.
        rename: key without prefix -> Detectron2's key, or None for what is no part of the backbone.
        expected: the keys and shapes of the backbone that these weights belong to; None where the file itself says.
        advice: config values these weights need, from the weights.
    """

    title: str
    signature: str
    rename: Callable[[str], str | None]
    expected: Callable[[Weights], Shapes] | None
    advice: Callable[[Weights], str]


def first_match(pattern: str, keys: Iterable[str]) -> re.Match[str] | None:
    return next((match for match in (re.match(pattern, key) for key in keys) if match), None)


def without_counters(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not key.endswith(COUNTER)]


def _shapes(module: torch.nn.Module) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def _keep(key: str) -> str | None:
    return key


def _keep_detectron2(key: str) -> str | None:
    # Buffers of models saved before 2021; today they come from the config.
    return None if key in ("pixel_mean", "pixel_std") else key


def _rename_torchvision(key: str) -> str | None:
    return None if key.startswith("fc.") else to_detectron2(key)


def _expected_xception(weights: Weights) -> Shapes:
    with torch.device("meta"):
        return _shapes(Xception65())


def _hrnet_numbers(weights: Weights) -> tuple[int, list[int], int]:
    """Width, modules in stages 2 to 4 and blocks a branch, read from keys and shapes."""
    first = weights.get("transition1.0.0.weight", weights.get("stage4.0.branches.0.0.conv1.weight"))
    width = 48 if first is None else int(first.shape[0])
    modules = [_count(rf"^stage{stage}\.(\d+)\.", weights) or default for stage, default in ((2, 1), (3, 4), (4, 3))]
    return width, modules, _count(r"^stage\d\.\d+\.branches\.\d\.(\d+)\.", weights) or 4


def _expected_hrnet(weights: Weights) -> Shapes:
    width, modules, blocks = _hrnet_numbers(weights)
    with torch.device("meta"):
        return _shapes(HRNet(width=width, modules=modules, blocks=blocks))


def _backbone_of(weights: Weights) -> dict[str, torch.Tensor]:
    return {key[len("backbone.") :]: value for key, value in weights.items() if key.startswith("backbone.")}


def _expected_ocr(weights: Weights) -> Shapes:
    backbone = _backbone_of(weights)
    expected = {f"backbone.{key}": shape for key, shape in _expected_hrnet(backbone).items()}
    return expected | expected_head(weights, _hrnet_numbers(backbone)[0])


def _resnet_numbers(weights: Weights) -> tuple[int, int, int] | None:
    """Depth, groups and width of a group of a ResNet under Detectron2's names; None where they do not add up."""
    blocks = [_count(rf"^{stage}\.(\d+)\.", weights) for stage in FEATURES]
    bottleneck = "res2.0.conv3.weight" in weights
    depths: dict[tuple[int, ...], int] = (
        {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
        if bottleneck
        else {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
    )
    depth, middle = depths.get(tuple(blocks)), weights.get("res2.0.conv2.weight")
    if depth is None or middle is None or middle.ndim != 4:
        return None
    width_per_group = int(middle.shape[1])
    return depth, int(middle.shape[0]) // width_per_group, width_per_group


def _expected_resnet(weights: Weights) -> Shapes:
    depth, groups, width_per_group = _resnet_numbers(weights) or (50, 1, 64)
    cfg = get_cfg()
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = depth, groups, width_per_group
    resnets.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    resnets.OUT_FEATURES, resnets.NORM = list(FEATURES), "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    with torch.device("meta"):
        return _shapes(build_resnet_backbone(cfg, ShapeSpec(channels=3)))


def _count(pattern: str, keys: Iterable[str]) -> int:
    """One more than the largest number that the pattern's group finds; 0 where it finds none."""
    numbers = [int(match[1]) for match in (re.match(pattern, key) for key in keys) if match]
    return max(numbers, default=-1) + 1


def _advise_hrnet(weights: Weights) -> str:
    width, modules, blocks = _hrnet_numbers(weights)
    return (
        f"MODEL.BACKBONE.NAME d2_hrnet, MODEL.RESNETS.DEPTH {width}, MODEL.HRNET.MODULES {modules}, "
        f"MODEL.HRNET.BLOCKS {blocks}, INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], "
        "MODEL.PIXEL_STD [58.395, 57.12, 57.375]"
    )


def _advise_hrnet_ocr(weights: Weights) -> str:
    return f"{_advise_hrnet(_backbone_of(weights))}, MODEL.SEM_SEG_HEAD.NAME PluginHRNetOCRHead"


def _advise_nvidia(weights: Weights) -> str:
    return (
        f"{_advise_hrnet_ocr(weights)}, and False for MODEL.HRNET.ALIGN_CORNERS and MODEL.SEM_SEG_HEAD.OCR."
        "ALIGN_CORNERS; as MODEL.PANOPTIC_DEEPLAB.SEMANTIC.PRETRAINED with SEMANTIC.ALIGN_CORNERS False, "
        "FUSION_STRIDE 1 and, where it was trained with RMI, ACTIVATION sigmoid"
    )


def _advise_resnet(weights: Weights) -> str:
    depth, groups, width_per_group = _resnet_numbers(weights) or (50, 1, 64)
    return (
        f"MODEL.BACKBONE.NAME build_resnet_backbone, MODEL.RESNETS.DEPTH {depth}, NUM_GROUPS {groups}, "
        f"WIDTH_PER_GROUP {width_per_group}, STRIDE_IN_1X1 False, INPUT.FORMAT RGB, "
        "MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], MODEL.PIXEL_STD [58.395, 57.12, 57.375]"
    )


def _advise_xception(weights: Weights) -> str:
    return (
        "MODEL.BACKBONE.NAME d2_xception_65, INPUT.FORMAT RGB, MODEL.PIXEL_MEAN and PIXEL_STD [128, 128, 128]; "
        "weights converted from TensorFlow were trained with MODEL.RESNETS.BN_EPS 0.001"
    )


# In the order in which they are tried: a whole Detectron2 model may hold the backbones that follow.
LAYOUTS = {
    "detectron2": Layout(
        "a Detectron2 model or ResNet",
        r"(?:(?=backbone\.bottom_up\.|sem_seg_head\.|roi_heads\.|proposal_generator\.).*|(?:backbone\.)?"
        r"(?=stem\.conv1\.|res2\.0\.).*)",
        _keep_detectron2,
        None,
        lambda weights: "the config that the model was trained with",
    ),
    "xception_65": Layout(
        "SegmenTron's Xception-65",
        r"block21\.sep_conv3\.block\.pointwise\.weight",
        _keep,
        _expected_xception,
        _advise_xception,
    ),
    # Their backbones are HRNets, too.
    "nvidia_ocr": Layout(
        "NVIDIA's HRNet-OCR with multi-scale attention",
        r"ocr\.conv3x3_ocr\.0\.weight",
        rename_nvidia,
        _expected_ocr,
        _advise_nvidia,
    ),
    "hrnet_ocr": Layout("HRNet-OCR", r"conv3x3_ocr\.0\.weight", rename_hrnet_ocr, _expected_ocr, _advise_hrnet_ocr),
    "hrnet": Layout("HRNet", r"stage4\.0\.branches\.3\.0\.conv1\.weight", _keep, _expected_hrnet, _advise_hrnet),
    "torchvision_resnet": Layout(
        "torchvision's ResNet", r"layer4\.0\.conv1\.weight", _rename_torchvision, _expected_resnet, _advise_resnet
    ),
}
