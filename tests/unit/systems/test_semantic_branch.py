"""The semantic branches behind their one interface."""

from __future__ import annotations

import pytest
import torch
import yaml
from panoptic_deeplab_models import tiny_config
from semantic_branches import NUM_CLASSES, ocr_branch, ocr_config, randomise

from panoptic_plugin.engine.checkpoint_file import write_checkpoint_file
from panoptic_plugin.engine.semantic_weights import load_semantic_weights
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.multi_scale_attention import resize_to
from panoptic_plugin.losses.semantic import SEMANTIC_LOSSES, SemanticLoss
from panoptic_plugin.registry import SEMANTIC_BRANCH_REGISTRY
from panoptic_plugin.systems.joint.frozen_branch import FrozenModelBranch
from panoptic_plugin.systems.joint.semantic_branch import build_semantic_branch
from panoptic_plugin.systems.joint.semantic_output import SemanticOutput, probabilities

FEATURES = ["res2", "res3", "res4", "res5"]


def deeplab_config(**semantic):
    cfg = ocr_config(NAME="DeepLabSemanticBranch", TRAIN_SCALES=[1.0], TEST_SCALES=[1.0], **semantic)
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME, head.IN_FEATURES, head.COMMON_STRIDE = "PluginPanopticDeepLabSemSegHead", FEATURES, 4
    head.PROJECT_CHANNELS, head.ASPP_CHANNELS, head.ASPP_DILATIONS = [4, 4, 4], 8, [1, 2, 3]
    head.CONVS_DIM, head.HEAD_CHANNELS, head.ASPP_DROPOUT = 8, 6, 0.0
    cfg.INPUT.CROP.ENABLED = False
    return cfg


def targets_of(size=(2, 32, 64)):
    targets = torch.randint(0, NUM_CLASSES, size)
    targets[:, :5] = 255
    return targets


@pytest.fixture(scope="module")
def trained_model(tmp_path_factory):
    """(config file, SemanticSegmentor in BGR with a normalisation of its own)."""
    cfg = deeplab_config()
    model = cfg.MODEL
    model.META_ARCHITECTURE, model.BACKBONE.NAME = "SemanticSegmentor", "d2_hrnet"
    model.RESNETS.DEPTH, model.RESNETS.OUT_FEATURES = 2, FEATURES
    model.HRNET.MODULES, model.HRNET.BLOCKS = [1, 1, 1], 1
    model.SEM_SEG_HEAD.NAME = "PluginDeepLabV3PlusHead"
    model.PIXEL_MEAN, model.PIXEL_STD, cfg.INPUT.FORMAT = [10.0, 20.0, 30.0], [2.0, 3.0, 4.0], "BGR"
    path = tmp_path_factory.mktemp("model") / "config.yaml"
    path.write_text(cfg.dump())
    return path


def frozen_config(path):
    cfg = ocr_config(NAME="FrozenModelBranch", MODEL_CONFIG=str(path), TRAIN_SCALES=[1.0], TEST_SCALES=[1.0])
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "RGB", [100.0, 110.0, 120.0], [50.0, 51.0, 52.0]
    return cfg


def test_three_branches_are_registered():
    names = {"MscaleOCRBranch", "DeepLabSemanticBranch", "FrozenModelBranch"}
    assert names <= {name for name, _ in SEMANTIC_BRANCH_REGISTRY}


@pytest.mark.parametrize("loss_type", SEMANTIC_LOSSES)
def test_every_parameter_gets_a_gradient(loss_type):
    branch = ocr_branch(LOSS=loss_type, OHEM_MIN_KEPT=100)
    output = branch(torch.randn(2, 3, 32, 64))
    losses = branch.losses(output, targets_of(), torch.ones(2, 32, 64))
    assert list(losses) == ["loss_sem_seg", "loss_sem_seg_aux", "loss_sem_seg_scale_0.5", "loss_sem_seg_scale_1"]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in branch.parameters())


@pytest.mark.parametrize("loss_type", SEMANTIC_LOSSES)
def test_losses_are_weighted_sums_of_the_named_outputs(loss_type):
    branch = ocr_branch(LOSS=loss_type, FUSED_WEIGHT=0.5, MSCALE_WEIGHT=[0.2, 0.3], OHEM_MIN_KEPT=100)
    output, targets, weights = branch(torch.randn(2, 3, 32, 64)), targets_of(), torch.rand(2, 32, 64)
    criterion = SemanticLoss(loss_type=loss_type, ignore_value=255, top_k=1.0, ohem_min_kept=100)
    criterion.top_k = branch.loss.top_k
    named = {name: resize_to(logits, (32, 64), align_corners=True) for name, logits, _ in output.auxiliary}
    of_scale = criterion.auxiliary if loss_type == "rmi" else criterion
    fused = resize_to(output.logits, (32, 64), align_corners=True)
    expected = {
        "loss_sem_seg": 0.5 * criterion(fused, targets, weights),
        "loss_sem_seg_aux": 0.4 * criterion.auxiliary(named["aux"], targets, weights),
        "loss_sem_seg_scale_0.5": 0.2 * of_scale(named["scale_0.5"], targets, weights),
        "loss_sem_seg_scale_1": 0.3 * of_scale(named["scale_1"], targets, weights),
    }
    found = branch.losses(output, targets, weights)
    assert {name: float(value.detach()) for name, value in found.items()} == pytest.approx(
        {name: float(value.detach()) for name, value in expected.items()}, rel=1e-5
    )


def test_outputs_without_weight_have_no_loss():
    branch = ocr_branch(AUX_WEIGHT=0.0, MSCALE_WEIGHT=[0.0, 0.0])
    assert branch(torch.randn(2, 3, 32, 32)).auxiliary == ()


def test_a_batch_of_ignored_pixels_trains_nothing():
    branch = ocr_branch()
    losses = branch.losses(branch(torch.randn(2, 3, 32, 32)), torch.full((2, 32, 32), 255))
    sum(losses.values()).backward()
    assert not any(p.grad.any() for p in branch.parameters())


def test_activation_is_that_of_the_loss_unless_declared():
    assert ocr_branch(LOSS="rmi").activation == "sigmoid"
    assert ocr_branch(LOSS="ohem").activation == "softmax"
    assert ocr_branch(LOSS="ohem", ACTIVATION="sigmoid").activation == "sigmoid"
    logits = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(probabilities(logits, "softmax").sum(1), torch.ones(1, 2, 2))
    torch.testing.assert_close(probabilities(logits, "sigmoid"), logits.sigmoid())


def test_deeplab_gives_what_its_predictor_reads():
    branch = randomise(build_semantic_branch(deeplab_config()))
    output = branch(torch.randn(2, 3, 33, 50))
    assert output.logits.shape == (2, NUM_CLASSES, 9, 13) and output.features.shape == (2, 6, 9, 13)
    torch.testing.assert_close(branch.head.predictor(output.features), output.logits)
    assert branch.feature_channels == 6 and branch.multi_scale is None and not branch.uses_shared_features
    sum(branch.losses(output, targets_of((2, 33, 50))).values()).backward()
    assert all(p.grad is not None for p in branch.parameters())


def test_deeplab_at_several_scales():
    cfg = deeplab_config()
    cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.TRAIN_SCALES = [0.5, 1.0]
    branch = build_semantic_branch(cfg)
    output = branch(torch.randn(2, 3, 32, 32))
    assert [name for name, _, _ in output.auxiliary] == ["scale_0.5", "scale_1"]


@torch.no_grad()
def test_deeplab_can_share_a_backbone():
    own = randomise(build_semantic_branch(deeplab_config())).eval()
    cfg = deeplab_config(BACKBONE={"NAME": "", "DEPTH": 2, "MODULES": [1, 1, 1], "BLOCKS": 1})
    shared = build_semantic_branch(cfg, own.backbone.output_shape()).eval()
    shared.head.load_state_dict(own.head.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert shared.uses_shared_features
    assert torch.equal(shared(images, own.backbone(images)).logits, own(images).logits)
    with pytest.raises(ValueError, match="shares a backbone"):
        shared(images)


@torch.no_grad()
def test_a_frozen_model_sees_images_normalised_its_own_way(trained_model):
    branch = randomise(build_semantic_branch(frozen_config(trained_model)))
    pixels = torch.randint(0, 256, (3, 32, 64)).float()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([100.0, 110.0, 120.0], [50.0, 51.0, 52.0]))
    output = branch(((pixels - mean) / std).unsqueeze(0))
    expected = branch.model([{"image": pixels.flip(0)}])[0]["sem_seg"]
    enlarged = torch.nn.functional.interpolate(output.logits, scale_factor=4, mode="bilinear")[0]
    torch.testing.assert_close(enlarged, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert output.features is None and output.stride == 4


def test_a_frozen_model_never_changes(trained_model):
    branch = build_semantic_branch(frozen_config(trained_model))
    before = {name: value.clone() for name, value in branch.state_dict().items()}
    for mode in (True, False, True):
        branch.train(mode)
        output = branch(torch.randn(2, 3, 32, 32))
        assert not branch.training and not any(module.training for module in branch.modules())
    assert not output.logits.requires_grad and branch.losses(output, targets_of((2, 32, 32))) == {}
    assert not any(p.requires_grad for p in branch.parameters())
    assert all(torch.equal(before[name], value) for name, value in branch.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_whole_semantic_model_fills_deeplab_and_frozen_branches(trained_model, tmp_path, suffix):
    frozen = randomise(build_semantic_branch(frozen_config(trained_model)))
    path = tmp_path / f"model{suffix}"
    write_checkpoint_file(path, {"model": frozen.model.state_dict()})
    again = build_semantic_branch(frozen_config(trained_model))
    report = load_semantic_weights(again, path)
    assert report.layout == "detectron2" and not report.random_parts and not report.dropped
    assert equal_states(again.model, frozen.model)
    cfg = deeplab_config()
    cfg.MODEL.SEM_SEG_HEAD.NAME = "PluginDeepLabV3PlusHead"
    deeplab = build_semantic_branch(cfg)
    load_semantic_weights(deeplab, path)
    assert equal_states(deeplab.head, frozen.model.sem_seg_head)
    assert equal_states(deeplab.backbone, frozen.model.backbone)
    dropped = load_semantic_weights(build_semantic_branch(cfg), path, True).ignored
    assert sorted(dropped) == ["head.predictor.bias", "head.predictor.weight"]


def equal_states(first, second):
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_a_frozen_panoptic_deeplab_serves_too(tmp_path):
    cfg = tiny_config()
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    frozen = frozen_config(path)
    frozen.MODEL.SEM_SEG_HEAD.NUM_CLASSES = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    output = build_semantic_branch(frozen)(torch.randn(1, 3, 64, 64))
    assert isinstance(output, SemanticOutput) and output.logits.shape == (1, 8, 16, 16)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"NAME": "MscaleOCR"}, "MscaleOCRBranch"),
        ({"LOSS": "focal"}, "SEMANTIC.LOSS is 'focal'"),
        ({"OHEM_THRESH": 1.5}, "OHEM_THRESH"),
        ({"ACTIVATION": "relu"}, "softmax, sigmoid"),
        ({"TRAIN_SCALES": [0.5, 2.0]}, "TRAIN_SCALES"),
        ({"TEST_SCALES": []}, "TEST_SCALES"),
        ({"MSCALE_WEIGHT": [0.05]}, "MSCALE_WEIGHT has 1 entries, expected 2"),
        ({"FUSION_STRIDE": 3}, "1 or 4"),
        ({"BACKBONE": {"NAME": "", "DEPTH": 2, "MODULES": [1, 1, 1], "BLOCKS": 1}}, "backbone of its own"),
        ({"NAME": "FrozenModelBranch"}, "MODEL_CONFIG"),
    ],
)
def test_mistakes_name_the_key(keys, message):
    with pytest.raises(ConfigError, match=message):
        build_semantic_branch(ocr_config(**keys))


@torch.no_grad()
def test_a_head_that_gives_full_size_logits_can_be_frozen_too():
    class Head(torch.nn.Module):
        def forward(self, features):
            return features["p2"].repeat(1, 2, 1, 1)[:, :NUM_CLASSES], {}

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.sem_seg_head = lambda images: {"p2": images}, Head()
            self.pixel_mean, self.pixel_std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)

    branch = FrozenModelBranch(
        model=Model(),
        pixel_mean=[1.0, 2.0, 3.0],
        pixel_std=[2.0, 2.0, 2.0],
        num_classes=NUM_CLASSES,
        loss=SemanticLoss(loss_type="ohem", ignore_value=255),
    )
    images = torch.randn(1, 3, 9, 11)
    output = branch(images)
    assert output.stride == 1
    torch.testing.assert_close(output.logits[:, 1], 2 * images[:, 1] + 2)


def test_a_shared_backbone_sees_one_scale():
    cfg = deeplab_config(BACKBONE={"NAME": "", "DEPTH": 2, "MODULES": [1, 1, 1], "BLOCKS": 1})
    with pytest.raises(ConfigError, match="no backbone to share"):
        build_semantic_branch(cfg)
    cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.TEST_SCALES = [0.5, 1.0]
    with pytest.raises(ConfigError, match=r"set .*TRAIN_SCALES and TEST_SCALES to \[1.0\]"):
        build_semantic_branch(cfg)
    cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.TEST_SCALES = [1.0]
    cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.TEST_FLIP = True
    with pytest.raises(ConfigError, match="TEST_FLIP to False"):
        build_semantic_branch(cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["MODEL"].pop("SEM_SEG_HEAD"), "MODEL.SEM_SEG_HEAD"),
        (lambda content: content.update(_BASE_="other.yaml"), "no complete config"),
        (lambda content: content["MODEL"]["SEM_SEG_HEAD"].update(NUM_CLASSES=7), "has 7 classes"),
    ],
)
def test_a_config_of_no_use_to_a_frozen_branch(trained_model, tmp_path, change, message):
    content = yaml.safe_load(trained_model.read_text())
    change(content)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        build_semantic_branch(frozen_config(path))
