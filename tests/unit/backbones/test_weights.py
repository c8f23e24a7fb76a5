"""Third-party layouts are made from our own modules: the official ones have the same keys, or renamed ones."""

from __future__ import annotations

import re

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

from panoptic_plugin.backbones.hrnet import HRNet
from panoptic_plugin.backbones.weights import check_plausible, convert_state_dict
from panoptic_plugin.backbones.xception import Xception65
from panoptic_plugin.errors import CheckpointError


def _on_meta(make):
    with torch.device("meta"):
        return make().state_dict()


@pytest.fixture(scope="module")
def xception():
    return _on_meta(Xception65)


@pytest.fixture(scope="module")
def hrnet():
    return _on_meta(lambda: HRNet(width=4, modules=(1, 2, 1), blocks=2))


@pytest.fixture(scope="module")
def resnet():
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.RESNETS.NORM = ["res5"], "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return _on_meta(lambda: build_resnet_backbone(cfg, ShapeSpec(channels=3)))


def _as_torchvision(weights):
    """Detectron2's names of a ResNet to torchvision's, with its classifier."""

    def rename(key: str) -> str:
        key = key.replace("stem.conv1.norm.", "bn1.").replace("stem.conv1.", "conv1.")
        key = re.sub(r"^res(\d)", lambda m: f"layer{int(m[1]) - 1}", key)
        key = key.replace(".shortcut.norm.", ".downsample.1.").replace(".shortcut.", ".downsample.0.")
        return re.sub(r"\.conv(\d)\.norm\.", r".bn\1.", key)

    return {rename(key): value for key, value in weights.items()} | {"fc.weight": torch.empty(1000, 2048)}


def _prefixed(weights, prefix):
    return {prefix + key: value for key, value in weights.items()}


def test_xception_of_segmentron_matches_key_for_key(xception):
    converted, report = convert_state_dict(xception)
    assert report.layout == "xception_65" and list(converted) == list(xception)
    assert len(report.matched) == 792 and report.share == 1.0
    assert not (report.renamed or report.dropped or report.missing or report.mismatched)


@pytest.mark.parametrize("prefix", ["module.", "encoder.", "module.backbone."])
def test_prefix_is_taken_off_and_other_parts_are_dropped(prefix, xception):
    weights = _prefixed(xception, prefix) | {"head.weight": torch.empty(1)}
    converted, report = convert_state_dict(weights)
    assert list(converted) == list(xception)
    assert len(report.renamed) == 792 and report.dropped == ["head.weight"]


def test_hrnet_drops_its_classification_head_and_reports_its_config(hrnet):
    head = {
        f"{name}.0.weight": torch.empty(2)
        for name in ("incre_modules", "downsamp_modules", "final_layer", "classifier")
    }
    converted, report = convert_state_dict({**hrnet, **head})
    assert report.layout == "hrnet" and list(converted) == list(hrnet) and report.dropped == list(head)
    assert "DEPTH 4, MODEL.HRNET.MODULES [1, 2, 1], MODEL.HRNET.BLOCKS 2" in report.advice


def test_torchvision_resnet_is_renamed_to_detectron2(resnet):
    converted, report = convert_state_dict(_as_torchvision(resnet))
    assert report.layout == "torchvision_resnet" and converted.keys() == resnet.keys()
    assert report.renamed["layer1.0.downsample.1.weight"] == "res2.0.shortcut.norm.weight"
    assert report.renamed["conv1.weight"] == "stem.conv1.weight"
    assert report.dropped == ["fc.weight"] and report.share == 1.0
    assert "DEPTH 50" in report.advice


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_detectron2_weights_stay_as_they_are(prefix, resnet):
    converted, report = convert_state_dict(_prefixed(resnet, prefix))
    assert report.layout == "detectron2"
    assert list(converted) == list(_prefixed(resnet, prefix.removeprefix("module.")))


def test_whole_model_keeps_its_heads_and_loses_its_pixel_mean(xception):
    weights = _prefixed(xception, "backbone.") | {
        "sem_seg_head.predictor.bias": torch.empty(3),
        "pixel_mean": torch.empty(3, 1, 1),
    }
    converted, report = convert_state_dict(weights)
    assert report.layout == "detectron2" and report.dropped == ["pixel_mean"]
    assert converted.keys() == weights.keys() - {"pixel_mean"}


def test_counters_of_batch_norms_may_be_missing(xception):
    weights = {key: value for key, value in xception.items() if not key.endswith("num_batches_tracked")}
    _, report = convert_state_dict(weights)
    check_plausible(report, "x.pth")
    assert len(report.missing) == 132 and report.share == 1.0


def test_incomplete_weights_are_implausible(xception):
    weights = {key: value for key, value in xception.items() if not key.startswith(("block1", "block4"))}
    _, report = convert_state_dict(weights)
    with pytest.raises(CheckpointError, match=r"x.pth fills 4\d\.\d% of SegmenTron's Xception-65.* is missing"):
        check_plausible(report, "x.pth")


def test_other_shapes_are_implausible(hrnet):
    weights = {key: torch.empty(7) if "stage" in key else value for key, value in hrnet.items()}
    converted, report = convert_state_dict(weights)
    assert report.mismatched and not any("stage" in key for key in converted)
    with pytest.raises(CheckpointError, match=r"stage2.* has shape \(7,\), expected"):
        check_plausible(report, "h.pth")


def test_unknown_keys_list_what_is_known():
    with pytest.raises(CheckpointError, match="(?s)the first are a.b.*SegmenTron's Xception-65; .*HRNet; torchvision"):
        convert_state_dict({"a.b": torch.empty(1)})


def test_layout_can_be_forced_and_must_exist(hrnet):
    _, report = convert_state_dict(hrnet, "xception_65")
    assert report.share < 0.1
    with pytest.raises(CheckpointError, match="'vgg' is unknown"):
        convert_state_dict(hrnet, "vgg")
