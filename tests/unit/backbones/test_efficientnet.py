"""Encoders of timm as backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm, ShapeSpec
from detectron2.modeling import build_model
from panoptic_deeplab_models import tiny_config, training_sample
from timm.layers import BatchNormAct2d
from torch import nn

from panoptic_plugin.backbones.efficientnet import TimmBackbone, build_timm_backbone
from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.pretrained import load_pretrained_parts
from panoptic_plugin.errors import CheckpointError, ConfigError
from panoptic_plugin.layers.folding import fold_batch_norm
from panoptic_plugin.layers.norm import replace_sync_batch_norm

B0 = "tf_efficientnet_b0"


def _on_meta(*arguments, **keywords) -> TimmBackbone:
    with torch.device("meta"):
        return TimmBackbone(*arguments, **keywords)


def _trained(name: str = "efficientnet_lite0", **arguments) -> TimmBackbone:
    """A small encoder whose batch norms do something."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name, **arguments)
    for module in backbone.modules():
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return backbone.eval()


@pytest.mark.parametrize(
    ("last_stage", "channels", "parameters"),
    [("blocks", [40, 64, 176, 512], 22_096_240), ("head", [40, 64, 176, 2048], 23_148_912)],
)
def test_b5_without_squeeze_and_excitation(last_stage, channels, parameters):
    backbone = _on_meta("tf_efficientnet_b5.ra_in1k", last_stage=last_stage)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert [shape.channels for shape in backbone.output_shape().values()] == channels
    assert [shape.stride for shape in backbone.output_shape().values()] == [4, 8, 16, 32]
    assert list(backbone.output_shape()) == ["res2", "res3", "res4", "res5"]
    assert not [name for name in backbone.state_dict() if ".se." in name]
    activations = [module for module in backbone.modules() if isinstance(module, nn.LeakyReLU)]
    assert activations
    assert all(module.negative_slope == 0.01 for module in activations)
    assert not [module for module in backbone.modules() if isinstance(module, nn.SiLU)]


def test_other_efficientnets():
    channels = [shape.channels for shape in _on_meta("tf_efficientnet_b4").output_shape().values()]
    assert channels == [32, 56, 160, 1792]
    channels = [shape.channels for shape in _on_meta(B0).output_shape().values()]
    assert channels == [24, 40, 112, 1280]


def test_squeeze_and_excitation_and_activation_by_argument():
    backbone = _on_meta(B0, remove_se=False, activation="default")
    assert [name for name in backbone.state_dict() if ".se." in name]
    assert [module for module in backbone.modules() if isinstance(module, nn.SiLU)]


@pytest.mark.parametrize("size", [(96, 160), (100, 170)])
@pytest.mark.parametrize("last_stage", ["head", "blocks"])
def test_sizes_are_those_of_the_strides_rounded_up(size, last_stage):
    features = TimmBackbone(B0, last_stage=last_stage).eval()(torch.zeros(1, 3, *size))
    for stride, feature in zip((4, 8, 16, 32), features.values(), strict=True):
        assert feature.shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"])
def test_encoders_of_other_families_take_images_of_any_size(name):
    backbone = _on_meta(name)
    features = backbone(torch.zeros(1, 3, 96, 160, device="meta"))
    for key, shape in backbone.output_shape().items():
        assert features[key].shape == (1, shape.channels, 96 // shape.stride, 160 // shape.stride)


def test_channels_come_first_also_where_there_are_as_many_rows():
    """Swin-T has 96 channels at stride 4 and gives them last; images of 384 rows have 96 rows there."""
    backbone = _on_meta("swin_tiny_patch4_window7_224")
    features = backbone(torch.zeros(1, 3, 384, 320, device="meta"))
    assert features["res2"].shape == (1, 96, 96, 80)


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_another_number_of_channels(channels):
    cfg = get_cfg()
    cfg.MODEL.TIMM.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "efficientnet_lite0", 0
    backbone = build_timm_backbone(cfg, ShapeSpec(channels=channels)).eval()
    assert backbone(torch.zeros(1, channels, 64, 64))["res5"].shape == (1, 1280, 2, 2)


def test_all_parameters_get_a_gradient():
    for last_stage in ("head", "blocks"):
        backbone = TimmBackbone("efficientnet_lite0", last_stage=last_stage)
        sum(feature.sum() for feature in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
        assert all(parameter.grad is not None for parameter in backbone.parameters())


def _differs(backbone: nn.Module, other: nn.Module) -> float:
    """The largest difference of a feature, as a share of its largest value."""
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = backbone(images), other(images)
    return max(float((after[name] - before[name]).abs().max() / before[name].abs().max()) for name in before)


@pytest.mark.parametrize("norm", ["SyncBN", "FrozenBN"])
def test_norms_keep_their_activations(norm):
    plain = _trained()
    other = _trained(norm=norm)
    other.load_state_dict(plain.state_dict(), strict=False)
    assert _differs(plain, other.eval()) < 1e-4


def test_fixed_norms_keep_the_type_of_mixed_precision():
    for name in ("efficientnet_lite0", "resnet18"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = TimmBackbone(name, norm="FrozenBN")(torch.randn(1, 3, 64, 64))
        assert {feature.dtype for feature in features.values()} == {torch.bfloat16}


def test_converters_of_pytorch_and_detectron2_lose_activations():
    """Why they are not used."""
    assert _differs(_trained(), nn.SyncBatchNorm.convert_sync_batchnorm(_trained()).eval()) > 0.1
    assert _differs(_trained(), FrozenBatchNorm2d.convert_frozen_batchnorm(_trained())) > 0.1


@pytest.mark.parametrize("distributed", [False, True])
def test_synchronised_norms_are_exchanged_with_their_activations(distributed):
    plain = _trained()
    other = _trained(norm="SyncBN")
    other.load_state_dict(plain.state_dict())
    other = replace_sync_batch_norm(other, distributed=distributed)
    assert not [module for module in other.modules() if isinstance(module, nn.SyncBatchNorm)]
    naive = [module for module in other.modules() if isinstance(module, NaiveSyncBatchNorm)]
    assert bool(naive) == distributed
    activated = [module for module in other.modules() if type(module) is BatchNormAct2d]
    assert bool(activated) != distributed
    assert list(other.state_dict()) == list(plain.state_dict())
    assert _differs(plain, other) < 1e-4
    images = torch.randn(2, 3, 64, 64)
    for module in (plain, other):
        torch.manual_seed(0)
        sum(feature.sum() for feature in module.train()(images).values()).backward()
    for one, another in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, another.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "norm", "left"),
    [
        ("efficientnet_lite0", "BN", 0),
        ("tf_efficientnet_lite0", "SyncBN", 0),  # with convolutions that pad as TensorFlow does
        ("tf_efficientnet_lite0", "FrozenBN", 0),
        ("mobilenetv3_small_050", "BN", 1),  # its conv_stem and bn1
        ("resnet18", "BN", 0),
        ("resnet18", "FrozenBN", 0),
    ],
)
def test_folding_takes_norms_and_no_activation(name, norm, left):
    plain = _trained(name, norm=norm)
    folded = fold_batch_norm(plain)
    assert _differs(plain, folded) < 1e-4
    assert sum(hasattr(module, "running_mean") for module in folded.modules()) == left
    images = torch.randn(1, 3, 100, 170)  # of a size at which TensorFlow pads more at one end
    with torch.no_grad():
        torch.testing.assert_close(folded(images)["res4"], plain(images)["res4"], rtol=1e-3, atol=1e-3)


def test_folding_keeps_a_norm_whose_output_is_read():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[1].register_forward_hook(lambda *_: None)
    assert isinstance(fold_batch_norm(model)[1], nn.BatchNorm2d)


@pytest.mark.parametrize(("freeze_at", "first_trained"), [(1, "blocks.0"), (2, "blocks.2"), (3, "blocks.3")])
@pytest.mark.parametrize("last_stage", ["head", "blocks"])
def test_freezing_from_the_stem_on(freeze_at, first_trained, last_stage):
    backbone = TimmBackbone("efficientnet_lite0", freeze_at=freeze_at, last_stage=last_stage).train()
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained[0].startswith(f"body.{first_trained}.")
    frozen = backbone.body.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))
    assert torch.equal(backbone.body.bn1.running_mean, frozen)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("convnext_atto", ["stem_0", "stages_0", "stages_1", "stages_2", "stages_3"]),
        ("mobilenetv3_small_050", ["conv_stem", "blocks.0", "blocks.1", "blocks.2", "blocks.4"]),
    ],
)
def test_freezing_other_families(name, stages):
    for freeze_at in (1, 3, 5):
        backbone = _on_meta(name, freeze_at=freeze_at)
        trained = [key for key, parameter in backbone.named_parameters() if parameter.requires_grad]
        assert not trained if freeze_at == 5 else trained[0].startswith(f"body.{stages[freeze_at]}.")
        fixed = [key for key, parameter in backbone.named_parameters() if not parameter.requires_grad]
        assert not set(fixed) & set(trained)
        assert not [key for key in fixed for stage in stages[freeze_at:] if key.startswith(f"body.{stage}.")]


def test_frozen_stages_keep_their_activations():
    plain = _trained()
    other = _trained(freeze_at=5)
    other.load_state_dict(plain.state_dict(), strict=False)
    assert _differs(plain, other) < 1e-4
    assert not [parameter for parameter in other.parameters() if parameter.requires_grad]


def test_weights_from_a_file_as_timm_reads_it(tmp_path: Path):
    torch.manual_seed(1)
    source = timm.create_model("efficientnet_lite0")
    file = tmp_path / "lite0.pth"
    torch.save(source.state_dict(), file)
    backbone = TimmBackbone("efficientnet_lite0", weights=str(file))
    backbone.load_pretrained()
    own = backbone.body.state_dict()
    assert own.keys() <= source.state_dict().keys()
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in own.items())


def test_weights_of_a_network_with_squeeze_and_excitation_fill_one_without(tmp_path: Path):
    source = timm.create_model("mnasnet_small")
    file = tmp_path / "weights.pth"
    torch.save(source.state_dict(), file)
    backbone = TimmBackbone("mnasnet_small", weights=str(file), norm="FrozenBN")
    backbone.load_pretrained()
    assert torch.equal(backbone.body.conv_stem.weight, source.conv_stem.weight)
    assert len([name for name in source.state_dict() if ".se." in name]) > 0


def test_damaged_weights_name_the_key_and_the_file(tmp_path: Path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"MODEL.TIMM.WEIGHTS .*weights.pth does not fill efficientnet_lite0: .+"):
        TimmBackbone("efficientnet_lite0", weights=str(file)).load_pretrained()


@pytest.mark.parametrize("is_feature_list", [False, True])
def test_weights_of_another_encoder_are_refused(tmp_path: Path, is_feature_list: bool):
    """timm takes them: it leaves out what does not fit, and so would all that there is."""
    name = "resnet18" if is_feature_list else "efficientnet_lite0"
    own, other = tmp_path / "own.pth", tmp_path / "other.pth"
    torch.save(timm.create_model(name).state_dict(), own)
    torch.save({"backbone.conv1.weight": torch.ones(3, 3, 7, 7), "fc.weight": torch.ones(2, 2)}, other)
    TimmBackbone(name, weights=str(own)).load_pretrained()
    with pytest.raises(CheckpointError, match=rf"other.pth has 0 of the \d+ kernels of {name}; expected"):
        TimmBackbone(name, weights=str(other)).load_pretrained()


def test_missing_weights_name_the_key():
    with pytest.raises(CheckpointError, match="MODEL.TIMM.WEIGHTS is missing.pth, which is no file"):
        TimmBackbone("efficientnet_lite0", weights="missing.pth").load_pretrained()


def test_weights_that_cannot_be_fetched_name_the_remedies(monkeypatch):
    def no_network(*arguments, **keywords):
        raise OSError("We couldn't connect to the hub.\nCheck your internet connection.")

    backbone = TimmBackbone("efficientnet_lite0")
    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(CheckpointError) as caught:
        backbone.load_pretrained()
    for word in ("MODEL.TIMM.NAME efficientnet_lite0", "couldn't connect", "TIMM.WEIGHTS", "TIMM.PRETRAINED False"):
        assert word in str(caught.value)


def test_weights_are_loaded_where_a_training_starts_without_others(monkeypatch):
    loaded = []
    monkeypatch.setattr(TimmBackbone, "load_pretrained", lambda self: loaded.append(self.name))
    cfg = get_cfg()
    model = nn.Sequential(TimmBackbone("efficientnet_lite0"))
    cfg.MODEL.WEIGHTS = "model.pth"
    load_pretrained_parts(cfg, model)
    assert loaded == []
    cfg.MODEL.WEIGHTS = ""
    load_pretrained_parts(cfg, model)
    assert loaded == ["efficientnet_lite0"]


def test_images_in_other_colours_than_the_weights_saw_are_warned_of(caplog):
    cfg = get_cfg()
    cfg.MODEL.TIMM.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "tf_efficientnet_b0.ap_in1k", 0
    with torch.device("meta"):
        build_timm_backbone(cfg, ShapeSpec(channels=3))
        assert "INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [127.5, 127.5, 127.5]" in caplog.text
        caplog.clear()
        cfg.MODEL.TIMM.NAME, cfg.INPUT.FORMAT = "tf_efficientnet_b0.aa_in1k", "RGB"
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        build_timm_backbone(cfg, ShapeSpec(channels=3))
        cfg.INPUT.FORMAT, cfg.MODEL.TIMM.PRETRAINED = "BGR", False
        build_timm_backbone(cfg, ShapeSpec(channels=3))
    assert not caplog.text


def test_nothing_is_loaded_where_it_is_not_wanted():
    backbone = TimmBackbone("efficientnet_lite0", pretrained=False, weights="missing.pth")
    before = backbone.body.conv_stem.weight.clone()
    backbone.load_pretrained()
    assert torch.equal(before, backbone.body.conv_stem.weight)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("tf_efficientnet_b55", {}, "does not have; the closest are tf_efficientnet_b5, "),
        ("tf_efficientnet_b0.ra_in1k", {}, "Names with weights: tf_efficientnet_b0.aa_in1k"),
        ("vit_tiny_patch16_224", {}, "whose features have the strides [16]; expected an encoder with [4, 8, 16, 32]"),
        ("resnetv2_50x1_bit.", {}, "Invalid pretrained tag"),
        ("coatnet_nano_rw_224", {}, "coatnet_nano_rw_224', which does not take images of every size ("),
        ("vit_tiny_patch16_224.", {}, ""),
        ("hrnet_w18_small", {"freeze_at": 2}, "FREEZE_AT is 2, which this encoder cannot do; set it to 0 or 5"),
        ("resnet18", {"freeze_at": 6}, "MODEL.BACKBONE.FREEZE_AT is 6, expected 0 (freeze nothing) to 5"),
        (B0, {"activation": "swish"}, "MODEL.TIMM.ACT is 'swish', expected one of leaky_relu, default"),
        (B0, {"norm": "GN"}, "MODEL.TIMM.NORM is 'GN', expected one of BN, SyncBN, FrozenBN"),
        (B0, {"last_stage": "neck"}, "MODEL.TIMM.LAST_STAGE is 'neck', expected one of head, blocks"),
    ],
)
def test_what_cannot_be_built_explains_itself(name, arguments, words):
    with pytest.raises(ConfigError) as caught:
        _on_meta(name, **arguments)
    assert words in str(caught.value)


def test_panoptic_deeplab_trains_and_runs_on_it():
    cfg = tiny_config(crop=None)
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.NAME = "efficientnet_lite0"
    model = build_model(cfg)
    losses = model([training_sample(64, 96, seed=seed) for seed in range(2)])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    # res4 is on the way to res5; all the encoder trains.
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    with torch.no_grad():
        result = model.eval()([{"image": torch.zeros(3, 60, 90, dtype=torch.uint8)}])[0]
    assert result["panoptic_seg"][0].shape == (60, 90)
