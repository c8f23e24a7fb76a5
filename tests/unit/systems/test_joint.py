"""The wiring of the joint network: guidance, gradients, freezing, what cannot be built, and its outputs."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from joint_models import NUM_CLASSES, THINGS, joint_config
from panoptic_deeplab_models import smooth_image, training_sample

from panoptic_plugin.engine.averaging import AveragedWeights
from panoptic_plugin.engine.optim import build_optimizer
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.folding import fold_batch_norm
from panoptic_plugin.systems.joint.foreground import ShownForeground
from panoptic_plugin.systems.joint.semantic_output import SemanticOutput
from panoptic_plugin.systems.joint.tta import PluginJointPanopticWithTTA

INJECTIONS = ("stem_add", "res2_concat", "decoder_concat")
INPUTS = ("thing_prob", "all_prob", "feature")


def batch_of(height=32, width=64, number=2):
    return [training_sample(height, width, seed=seed) for seed in range(number)]


def make(seed=0, freeze="", **instance):
    cfg = joint_config(**instance)
    cfg.MODEL.PANOPTIC_DEEPLAB.FREEZE_MODULE = freeze
    torch.manual_seed(seed)
    return build_model(cfg)


def gradient_of_semantics(model, losses):
    parameters = [p for p in model.semantic_branch.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(sum(losses), parameters, allow_unused=True)
    return sum(0.0 if gradient is None else float(gradient.abs().sum()) for gradient in gradients)


@pytest.mark.parametrize("injected", INJECTIONS)
def test_zero_init_is_the_instance_network_without_semantics(injected):
    """Bit by bit; but for decoder_concat, whose wider convolution may sum in another order."""
    guided = make(INJECT=injected).eval()
    alone = make(seed=1, USE_SEMANTIC=False).eval()
    state = guided.state_dict()
    own = alone.state_dict()
    alone.load_state_dict({key: _cut(state[key], value) for key, value in own.items()})
    images = guided.images([{"image": smooth_image(32, 64, seed=0)}]).tensor
    with torch.no_grad():
        for found, wanted in zip(guided.predict(images), alone.predict(images), strict=True):
            if injected == "decoder_concat":
                torch.testing.assert_close(found, wanted)
            else:
                assert torch.equal(found, wanted)


def _cut(value, wanted):
    """The part of a wider tensor that the narrower one has: first the projected channels, last those of the decoder."""
    if value.shape == wanted.shape:
        return value
    axis = next(axis for axis, (a, b) in enumerate(zip(value.shape, wanted.shape, strict=True)) if a != b)
    keep = list(range(4)) + list(range(4 + 64, value.shape[axis]))
    return value.index_select(axis, torch.tensor(keep))


@pytest.mark.parametrize("injected", INJECTIONS)
@pytest.mark.parametrize("shown", INPUTS)
def test_semantics_reach_the_instances_when_the_embedding_is_not_zero(injected, shown):
    model = make(INJECT=injected, SEMANTIC_INPUT=shown, ZERO_INIT=False).eval()
    images = model.images([{"image": smooth_image(32, 64, seed=0)}]).tensor
    with torch.no_grad():
        before = model.predict(images)[1]
        model.semantic_branch.predictor.weight.mul_(50)
        model.semantic_branch.conv2.weight.mul_(2)
        assert not torch.equal(before, model.predict(images)[1])


@pytest.mark.parametrize("shown", INPUTS)
@pytest.mark.parametrize("detach", [True, False])
def test_detach_semantic_decides_whether_instance_losses_reach_the_semantic_branch(shown, detach):
    model = make(SEMANTIC_INPUT=shown, DETACH_SEMANTIC=detach, ZERO_INIT=False, INJECT="res2_concat").train()
    torch.nn.init.normal_(model.semantic_branch.predictor.weight)
    torch.nn.init.normal_(model.ins_embed_head.center_predictor.weight)
    losses = model(batch_of())
    found = gradient_of_semantics(model, [losses["loss_center"], losses["loss_offset"]])
    assert found == 0 if detach else found > 0


@pytest.mark.parametrize("size", [(32, 64), (33, 65), (37, 50), (50, 31), (1, 1)])
@pytest.mark.parametrize("injected", INJECTIONS)
def test_strides_agree_for_odd_and_even_sizes(size, injected):
    cfg = joint_config(INJECT=injected, ZERO_INIT=False)
    cfg.MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY = 1  # nothing is padded
    model = build_model(cfg).eval()
    image = torch.randint(0, 255, (3, *size), dtype=torch.uint8)
    with torch.no_grad():
        result = model([{"image": image}])[0]
    assert result["sem_seg"].shape == (NUM_CLASSES, *size)
    assert result["panoptic_seg"][0].shape == size


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        ({"SEMANTIC_EMBED_CHANNELS": 32}, "a stem of 64 channels; set it to 64"),
        ({"SEMANTIC_EMBED_CHANNELS": 0, "INJECT": "res2_concat"}, "at least 1"),
        ({"INJECT": "stem_ad"}, "Did you mean 'stem_add'"),
        ({"SEMANTIC_INPUT": "thing_probs"}, "Did you mean 'thing_prob'"),
        ({"SEMANTIC_INPUT": "feature", "branch": "FeaturelessSemanticBranch"}, "logits and no features"),
        ({"branch": "TinyBranch"}, "Did you mean 'TinySemanticBranch'"),
        ({"GT_FOREGROUND_PROB": 1.5}, "from 0 to 1"),
        ({"GT_FOREGROUND_PROB": 0.5, "SEMANTIC_INPUT": "all_prob"}, "hides no pixel"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(instance, reason):
    with pytest.raises(ConfigError, match=reason):
        build_model(joint_config(**instance))


def test_a_backbone_whose_stem_takes_nothing_is_refused_for_stem_add():
    cfg = joint_config()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.DEPTH = "build_resnet_backbone", 18
    with pytest.raises(ConfigError, match="takes no further input"):
        build_model(cfg)
    cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE.INJECT = "decoder_concat"
    model = build_model(cfg).eval()
    assert model([{"image": smooth_image(32, 64, seed=0)}])[0]["panoptic_seg"][0].shape == (32, 64)


def test_a_shared_backbone_cannot_take_the_semantics_into_its_stem_nor_be_half_frozen():
    cfg = joint_config("DeepLabSemanticBranch")
    cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.BACKBONE.NAME = ""
    cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.TRAIN_SCALES = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.TEST_SCALES = [1.0]
    with pytest.raises(ConfigError, match="the backbone whose stem it would change"):
        build_model(cfg)
    cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE.INJECT = "res2_concat"
    assert set(build_model(cfg).train()(batch_of())) >= {"loss_sem_seg", "loss_center", "loss_offset"}
    cfg.MODEL.PANOPTIC_DEEPLAB.FREEZE_MODULE = "semantic"
    with pytest.raises(ConfigError, match="one backbone"):
        build_model(cfg)


def test_the_semantic_branch_alone_leaves_things_void():
    model = make(ENABLE=False)
    assert set(model.train()(batch_of())) == {"loss_sem_seg"}
    assert model.backbone is None
    with torch.no_grad():
        model.eval().semantic_branch.predictor.bias[THINGS[0]] += 100
        result = model([{"image": smooth_image(33, 64, seed=0)}])[0]
    assert (result["panoptic_seg"][0] == -1).all()
    assert len(result["instances"]) == 0


@pytest.mark.parametrize("freeze", ["semantic", "instance"])
def test_a_frozen_branch_stays_byte_for_byte(freeze):
    model = make(freeze=freeze, ZERO_INIT=False).train()
    parts = {
        "semantic": ("semantic_branch.",),
        "instance": ("backbone.", "ins_embed_head.", "semantic_embedder.", "injection."),
    }[freeze]
    cfg = joint_config()
    optimizer = build_optimizer(cfg, model)
    averaged = AveragedWeights(model, decay=0.9)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(5):
        model.train()
        losses = model(batch_of())
        assert set(losses) == ({"loss_center", "loss_offset"} if freeze == "semantic" else {"loss_sem_seg"})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        averaged.update(model)
    after = model.state_dict()
    frozen = {key for key in before if key.startswith(parts)}
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert all(torch.equal(before[key], averaged.averages[key]) for key in frozen)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and not changed & frozen
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for name, p in model.named_parameters() if name.startswith(parts)}


def test_every_weight_that_is_trained_gets_a_gradient():
    """So DistributedDataParallel needs no search for unused ones."""
    for freeze in ("", "semantic", "instance"):
        model = make(freeze=freeze, ZERO_INIT=False).train()
        sum(model(batch_of()).values()).backward()
        lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not lacking, freeze


def test_freezing_what_leaves_nothing_to_train_is_refused():
    for freeze in ("semantic", "instance"):
        with pytest.raises(ConfigError, match="INSTANCE.ENABLE is False"):
            make(freeze=freeze, ENABLE=False)
    with pytest.raises(ConfigError, match="FREEZE_MODULE is 'all'"):
        make(freeze="all")


def test_instance_weights_change_the_semantic_loss_alone():
    cfg = joint_config()
    samples = [{**sample, "instance_ids": (sample["sem_seg"] == THINGS[0]).long()} for sample in batch_of()]
    losses = {}
    for mode in ("none", "small_area", "instance_ce"):
        cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE_WEIGHT.MODE = mode
        torch.manual_seed(0)
        model = build_model(cfg).train()
        model.semantic_branch.dropout.eval()
        losses[mode] = model(samples)
    assert len({found["loss_sem_seg"].item() for found in losses.values()}) == 3
    assert len({found["loss_center"].item() for found in losses.values()}) == 1


def test_true_foreground_is_shown_less_and_less():
    shown = ShownForeground(probability=1.0, until=10, thing_ids=THINGS)
    assert [shown.share(iteration) for iteration in (0, 5, 10, 99)] == [1.0, 0.5, 0.0, 0.0]
    targets = torch.tensor([[[0, THINGS[0]], [255, THINGS[1]]]])
    assert torch.equal(shown(targets), torch.tensor([[[False, True], [False, True]]]))
    assert ShownForeground(probability=0.0, until=10, thing_ids=THINGS)(targets) is None


def test_thing_probabilities_are_shown_where_a_thing_is_most_likely():
    embedder = make().semantic_embedder
    logits = torch.zeros(1, NUM_CLASSES, 2, 2)
    logits[0, THINGS[0], 0, 0] = 5.0
    logits[0, 0, 1, 1] = 5.0
    shown = embedder.shown(SemanticOutput(logits, stride=1), (2, 2))
    assert shown.shape == (1, len(THINGS), 2, 2)
    assert shown[0, 0, 0, 0] > 0.9
    assert (shown[0, :, 1, 1] == 0).all()
    foreground = torch.tensor([[[False, False], [False, True]]])
    assert (embedder.shown(SemanticOutput(logits, stride=1), (2, 2), foreground)[0, :, 1, 1] > 0).all()


def test_the_embedder_has_the_size_of_the_specification():
    """40.6 k parameters for six thing classes and 64 channels."""
    from panoptic_plugin.systems.joint.embedder import EmbedderOptions, thing_prob

    options = EmbedderOptions(17, tuple(range(11, 17)), "softmax", None, 64, "BN", True)
    assert sum(parameter.numel() for parameter in thing_prob(options).parameters()) == 40576


def test_folding_and_augmentation_keep_the_outputs():
    model = make(ZERO_INIT=False).eval()
    images = model.images([{"image": smooth_image(32, 64, seed=0)}]).tensor
    with torch.no_grad():
        for found, wanted in zip(fold_batch_norm(model).predict(images), model.predict(images), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    options = {"SCALES": [0.5, 1.0], "MIN_SIZES": [], "MAX_SIZE": 4000, "FLIP": True}
    result = PluginJointPanopticWithTTA(model, options)([{"image": smooth_image(32, 64, seed=0)}])[0]
    assert result["sem_seg"].shape == (NUM_CLASSES, 32, 64)
