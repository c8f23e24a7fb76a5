"""Names of HRNet-OCR's and NVIDIA's checkpoints, and those they have here.

Both hold a whole semantic model. Here it is called ``backbone.*`` (HRNet) and ``sem_seg_head.*`` (OCR), as in a model
of ``PluginHRNetOCRHead``; the attention between scales, which NVIDIA's have too, is ``multi_scale.attention.*``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from detectron2.layers import ShapeSpec

from panoptic_plugin.layers.multi_scale_attention import ScaleAttention
from panoptic_plugin.layers.ocr_layers import OCRLayers

HEAD = "sem_seg_head."
SCALES = "multi_scale.attention."
# (published start of a key, start of ours); the published blocks nest norm and ReLU, ours are flat.
_ATTENTION = tuple(
    (f"ocr_distri_head.{published}.{theirs}.", f"attention.{ours}.{index}.")
    for published, ours in (
        ("object_context_block.f_pixel", "query"),
        ("object_context_block.f_object", "key"),
        ("object_context_block.f_down", "value"),
        ("object_context_block.f_up", "up"),
        ("conv_bn_dropout", "fuse"),
    )
    for theirs, index in (("0", 0), ("1.0", 1), ("2", 3), ("3.0", 4))
)
_HRNET_OCR = (
    ("conv3x3_ocr.", "pixels."),
    ("aux_head.", "regions."),
    ("cls_head.", "predictor."),
    *_ATTENTION,
)
_NVIDIA = (
    ("conv3x3_ocr.0.", "pixels.0."),
    ("conv3x3_ocr.1.0.", "pixels.1."),
    ("aux_head.0.", "regions.0."),
    ("aux_head.1.0.", "regions.1."),
    ("aux_head.2.", "regions.3."),
    ("cls_head.", "predictor."),
    *_ATTENTION,
)
_NVIDIA_SCALES = (("conv0.", "0."), ("bn0.", "1."), ("conv1.", "3."), ("bn1.", "4."), ("conv2.", "6."))
_BACKBONE = re.compile(r"(conv|bn)[12]\.|layer1\.|transition\d\.|stage\d\.")


def rename_hrnet_ocr(key: str) -> str | None:
    """A key of HRNet-OCR's flat names, without prefix, to ours; None for what is no part of the network."""
    if _BACKBONE.match(key):
        return f"backbone.{key}"
    return _renamed(key, _HRNET_OCR, HEAD)


def rename_nvidia(key: str) -> str | None:
    """A key of NVIDIA's ``backbone.``, ``ocr.`` and ``scale_attn.``, without ``module.``, to ours; or None."""
    part, _, rest = key.partition(".")
    if part == "backbone":
        return key if _BACKBONE.match(rest) else None
    if part == "ocr":
        return _renamed(rest, _NVIDIA, HEAD)
    # An older layout of the attention numbers its layers, as we do.
    return (_renamed(rest, _NVIDIA_SCALES, SCALES) or SCALES + rest) if part == "scale_attn" else None


def expected_head(weights: Mapping[str, torch.Tensor], backbone_width: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the head, and of the attention where there is some, that weights under our names belong to.

    Args:
        weights: under our names.
        backbone_width: of HRNet.
    """
    mid, classes = 512, 19
    predictor, key = (weights.get(f"{HEAD}{name}.weight") for name in ("predictor", "attention.value.0"))
    if predictor is not None:
        classes, mid = int(predictor.shape[0]), int(predictor.shape[1])
    features = {f"res{i + 2}": ShapeSpec(channels=backbone_width << i, stride=4 << i) for i in range(4)}
    with torch.device("meta"):
        head = OCRLayers(
            features,
            in_features=list(features),
            num_classes=classes,
            mid_channels=mid,
            key_channels=256 if key is None else int(key.shape[0]),
        )
        first = weights.get(f"{SCALES}0.weight")
        scales = ScaleAttention(mid, 256 if first is None else int(first.shape[0]))
    expected = {HEAD + name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    if any(name.startswith(SCALES) for name in weights):
        expected |= {SCALES + name: tuple(tensor.shape) for name, tensor in scales.state_dict().items()}
    return expected


def _renamed(key: str, table: tuple[tuple[str, str], ...], start: str) -> str | None:
    return next((start + ours + key[len(theirs) :] for theirs, ours in table if key.startswith(theirs)), None)
