"""One test for each fault of the original joint system that concerns its model: it had the fault, ours has not.

The table in docs/joint.md says where the other faults are held.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from joint_models import joint_config
from panoptic_deeplab_models import training_sample

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.pretrained import load_pretrained_parts
from panoptic_plugin.errors import CheckpointError, ConfigError
from panoptic_plugin.losses.center import center_mse
from panoptic_plugin.postprocessing.resize import offsets_to_output_size
from panoptic_plugin.systems.joint import foreground


def test_embedding_width_needs_no_key_that_is_called_an_oracle():
    """Theirs had no embedding, and crashed, unless ORACLE_SEMANTIC was True."""
    keys = get_cfg().MODEL.PANOPTIC_DEEPLAB.INSTANCE
    assert not [key for key in keys if "ORACLE" in key]
    model = build_model(joint_config(INJECT="res2_concat", SEMANTIC_EMBED_CHANNELS=5))
    assert model.semantic_embedder.conv2.out_channels == 5


def test_a_wrong_embedding_width_is_an_error_with_a_reason():
    """Theirs crashed in the middle of the first forward pass for any other width than 64."""
    with pytest.raises(ConfigError, match="64 channels"):
        build_model(joint_config(SEMANTIC_EMBED_CHANNELS=63))


def test_nothing_is_frozen_unless_it_is_asked_for():
    """The default of theirs was to freeze everything but the semantic branch."""
    assert get_cfg().MODEL.PANOPTIC_DEEPLAB.FREEZE_MODULE == ""


def test_centers_are_supervised_on_stuff_too():
    """Theirs had a weight of 0 there, so that nothing taught the network where no centers are."""
    from panoptic_plugin.data.targets import PanopticDeepLabTargets

    ids = torch.ones(8, 8, dtype=torch.int64)
    ids[2:4, 2:4] = 2
    segments = [{"id": 1, "category_id": 0, "iscrowd": 0}, {"id": 2, "category_id": 5, "iscrowd": 0}]
    targets = PanopticDeepLabTargets(ignore_label=255, thing_ids=[5], sigma=1)(ids.numpy(), segments)
    assert (targets["center_weights"] == 1).all()
    heatmap = torch.zeros(1, 1, 8, 8)
    heatmap[..., 7, 7] = 1.0  # a center on stuff
    truth, weights = targets["center"][None, None], targets["center_weights"][None]
    assert center_mse(heatmap, truth, weights) > center_mse(torch.zeros_like(heatmap), truth, weights)


@pytest.mark.parametrize(("small", "large"), [(128, 512), (129, 513), (100, 333)])
def test_offsets_are_scaled_by_the_true_ratio_of_sizes(small, large):
    """Theirs multiplied by (H - 1) // (h - 1), an integer that is right for sizes of 4 k + 1 alone."""
    offsets = torch.ones(2, small, small)
    scaled = offsets_to_output_size(offsets, (small, small), (large, large))
    torch.testing.assert_close(scaled, torch.full((2, large, large), large / small))


def test_train_does_not_wake_a_frozen_branch():
    """Theirs set the batch norms of the frozen branch to evaluation once; any later train() undid it."""
    cfg = joint_config()
    cfg.MODEL.PANOPTIC_DEEPLAB.FREEZE_MODULE = "semantic"
    model = build_model(cfg)
    for mode in (True, False, True):
        model.train(mode)
        assert model.training is mode
        assert not any(module.training for module in model.semantic_branch.modules())
    before = model.semantic_branch.bn1.running_mean.clone()
    model([training_sample(32, 64)] * 2)
    assert torch.equal(before, model.semantic_branch.bn1.running_mean)


def test_pretrained_weights_that_are_not_there_are_an_error(tmp_path):
    """Theirs went on from random weights, without a word."""
    cfg = joint_config()
    cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.PRETRAINED = str(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="nothing.pth"):
        load_pretrained_parts(cfg, build_model(cfg))


def test_weights_that_fit_in_part_are_an_error(tmp_path):
    """Theirs loaded everything with strict=False and reported nothing."""
    cfg = joint_config()
    model = build_model(cfg)
    state = {f"semantic_branch.{key}": value for key, value in model.semantic_branch.state_dict().items()}
    del state["semantic_branch.conv2.weight"]
    torch.save({"model": state}, tmp_path / "part.pth")
    cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.PRETRAINED = str(tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="conv2.weight"):
        load_pretrained_parts(cfg, model)


def test_instances_see_in_training_what_they_see_in_use():
    """Theirs joined the true foreground to the mask in training alone; ours only where asked, and not at the end."""
    assert get_cfg().MODEL.PANOPTIC_DEEPLAB.INSTANCE.GT_FOREGROUND_PROB == 0
    shown = foreground.ShownForeground(probability=1.0, until=50, thing_ids=(1,))
    assert shown.share(50) == shown.share(100) == 0


def test_no_name_that_is_gone_from_its_package_is_used(repository: Path):
    """Theirs needs torch._six, np.float, np.int, tune.checkpoint_dir."""
    gone = {("torch", "_six"), ("np", "float"), ("np", "int"), ("tune", "checkpoint_dir")}
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (repository / "panoptic_plugin").rglob("*.py")]
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    used = {(node.value.id, node.attr) for node in nodes if isinstance(node.value, ast.Name)}
    assert used and not used & gone
