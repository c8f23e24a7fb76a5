"""Which checkpoints a DETR starts from, how many weights they fill, and which files it refuses."""

from __future__ import annotations

import logging

import pytest
import torch
from detr_models import make_cfg, on_meta, small_cfg

from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.errors import CheckpointError
from panoptic_plugin.systems.detr.meta_arch import PanopticDETR
from panoptic_plugin.systems.detr.weights import is_detr, to_native, to_official

COCO = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 133, "DATASETS.TRAIN": ("coco_2017_train_panoptic",)}
SECOND_STAGE = {"MODEL.DETR.FROZEN_WEIGHTS": "boxes.pth"}


@pytest.fixture(scope="module")
def boxes():
    """A small box model under the official names."""
    torch.manual_seed(3)
    return to_official(PanopticDETR(small_cfg(**{"MODEL.MASK_ON": False})).state_dict())


def load(cfg, weights, tmp_path):
    torch.manual_seed(4)
    model = PanopticDETR(cfg)
    torch.save({"model": weights}, tmp_path / "boxes.pth")
    PluginCheckpointer(model).load(str(tmp_path / "boxes.pth"))
    return model


def test_an_official_box_model_fills_all_but_the_mask_head(tmp_path, caplog):
    """458 tensors of ResNet-50's size; their values take no room on disk."""
    state = on_meta(make_cfg(**COCO, **{"MODEL.MASK_ON": False})).state_dict()
    weights = {name: torch.full((1,), 0.5).expand(value.shape) for name, value in to_official(state).items()}
    assert len(weights) == 458 and "backbone.0.body.conv1.weight" in weights
    model = on_meta(make_cfg(**COCO, **SECOND_STAGE)).to_empty(device="cpu")
    for value in model.state_dict().values():
        value.zero_()
    torch.save({"model": weights}, tmp_path / "boxes.pth")
    with caplog.at_level(logging.INFO, "panoptic_plugin"):
        PluginCheckpointer(model).load(str(tmp_path / "boxes.pth"))
    line = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("Weights of"))
    assert "backbone 265/265, detr 193/193, bbox_attention 0/4, mask_head 0/28" in line
    assert line.endswith("32 missing, 0 of another shape, 0 unexpected")
    filled = model.state_dict()
    assert all((filled[name] == 0.5).all() for name in state) and 265 + 193 == 458
    trained = [one for one in model.parameters() if one.requires_grad]
    assert len(trained) == 32 and sum(one.numel() for one in trained) == 1_333_657


def test_the_frozen_detector_gives_what_the_box_model_gave(boxes, tmp_path):
    torch.manual_seed(3)
    alone = PanopticDETR(small_cfg(**{"MODEL.MASK_ON": False})).eval()
    both = load(small_cfg(**SECOND_STAGE), boxes, tmp_path).eval()
    with torch.no_grad():
        arguments = (torch.randn(1, 3, 61, 75), torch.zeros(1, 61, 75, dtype=torch.bool))
        first, second = alone.network.detect(*arguments), both.network.detect(*arguments)
    assert all(torch.equal(value, both.state_dict()[name]) for name, value in alone.state_dict().items())
    assert torch.allclose(first.logits, second.logits, atol=1e-5) and torch.allclose(
        first.boxes, second.boxes, atol=1e-6
    )


def wrong_files(boxes):
    native = to_native(boxes)
    backbone = {name: value for name, value in native.items() if name.startswith("backbone.")}
    narrow = {name: value[:1] if "transformer.encoder" in name else value for name, value in boxes.items()}
    fewer = {name: value[:20] if "class_embed" in name else value for name, value in boxes.items()}
    other = {name: value for name, value in boxes.items() if "decoder.layers.1" not in name}
    return {
        "a backbone alone": (backbone, r"lacks 6\d weights that do not train.*detr\.transformer"),
        "another width": (narrow, "lacks 12 weights that do not train"),
        "other classes": (fewer, "lacks 2 weights.*class_embed.*same backbone and number of classes"),
        "fewer layers": (other, "lacks 18 weights.*decoder.layers.1"),
        "unknown names": (
            {f"odd_{name.replace('.', '_')}": value for name, value in boxes.items()},
            r"lacks 1\d\d weights",
        ),
    }


@pytest.mark.parametrize(
    "kind", ["a backbone alone", "another width", "other classes", "fewer layers", "unknown names"]
)
def test_a_second_stage_refuses_what_is_not_its_detector(kind, boxes, tmp_path):
    weights, words = wrong_files(boxes)[kind]
    with pytest.raises(CheckpointError, match=words):
        load(small_cfg(**SECOND_STAGE), weights, tmp_path)


def test_what_is_no_detr_is_said_so():
    assert not is_detr({"backbone.conv1.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="no DETR: none of its 1 names ends in query_embed.weight"):
        to_native({"backbone.conv1.weight": torch.ones(1)})


def test_counters_of_old_files_are_no_part_of_the_network(boxes):
    counted = {**boxes, "backbone.0.body.bn1.num_batches_tracked": torch.ones(())}
    assert to_native(counted).keys() == to_native(boxes).keys()


def test_by_name_rows_are_those_of_the_official_head(boxes, tmp_path):
    """The whole way through the checkpointer: a head of 250 classes into one of Cityscapes' ids."""
    dim = boxes["class_embed.weight"].shape[1]
    coco = {
        **boxes,
        "class_embed.weight": torch.arange(251.0)[:, None].expand(-1, dim).clone(),
        "class_embed.bias": torch.arange(251.0),
    }
    model = load(small_cfg(**{"MODEL.DETR.HEAD_INIT": "by_name"}), coco, tmp_path)
    # Cityscapes' ids: road 7, person 24, car 26, bicycle 33; the last row is "no object".
    assert model.detr.class_embed.bias[[7, 24, 26, 33, 34]].tolist() == [149, 1, 3, 2, 250]
    anew = load(small_cfg(), coco, tmp_path)
    assert bool((anew.detr.class_embed.weight.abs() < 1).all())
    assert torch.equal(anew.detr.query_embed.weight, model.detr.query_embed.weight)
