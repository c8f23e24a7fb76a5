"""Row "network": images to logits, heatmap and offsets, as inference runs them, in float32 without compiling."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from measuring import interleaved
from panoptic_deeplab_models import upstream_config
from torch import nn

from panoptic_plugin.config import load_config
from panoptic_plugin.engine.inference import for_inference

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "Cityscapes-PanopticSegmentation"
NAME = "panoptic_deeplab_{}_os16_mg124_poly_90k_bs32_crop_512_1024_dsconv.yaml"
CASES = ("R_52", "X_65", "H_48")
# Of the largest value of an output.
TOLERANCE = 1e-4


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a network. Detectron2's heads stand on our backbone where it has none of that name."""
    size = (64, 128) if quick else (512, 1024)
    for name in CASES:
        cfg = load_config(CONFIGS / NAME.format(name), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
        cfg.INPUT.CROP.SIZE = list(size)
        images = torch.randn((1, 3, *size), generator=torch.Generator().manual_seed(0))
        ours, theirs = build_pair(cfg)
        yield {
            "row": "network",
            "case": f"{size[0]}x{size[1]}, {name.replace('_', '')} dsconv",
            "reference": "Detectron2" if name == "R_52" else "Detectron2's heads",
            "asked": 1.25,
            "equality": f"{TOLERANCE:g} of the largest value",
            **interleaved(partial(ours.predict, images), partial(run, theirs, images), differences,
                          rounds=rounds, ours_each=1),
        }  # fmt: skip


def build_pair(cfg: Any) -> tuple[nn.Module, nn.Module]:
    """(ours as inference runs it, Detectron2's) with the same random weights."""
    torch.manual_seed(0)
    model = build_model(cfg)
    settle_norms(model)
    theirs = build_model(upstream_config(cfg)).eval()
    theirs.load_state_dict(model.state_dict())
    return for_inference(cfg, model), theirs


def settle_norms(model: nn.Module) -> None:
    """Give batch norms values as if trained, and the model evaluation mode.

    Those of a random network on random images would do for speed, not for comparing: channels that are always near 0
    are then enlarged until float32 itself is 1e-4 from float64, folded or not.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.7, 1.3)
    model.eval()


def run(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The network part of Detectron2's PanopticDeepLab."""
    features = model.backbone(images)
    logits, _ = model.sem_seg_head(features)
    heatmap, offsets, _, _ = model.ins_embed_head(features)
    return logits, heatmap, offsets


def differences(found: Any, expected: Any) -> dict[str, Any]:
    """The largest difference of each output, as a share of its largest value."""
    shares = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True)]
    return {"equal": max(shares) <= TOLERANCE, "largest_difference": max(shares)}
