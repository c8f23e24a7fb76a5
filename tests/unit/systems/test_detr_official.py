"""DETR against the official network: every name and shape of its files, the numbers of its parts, its backbone."""

from __future__ import annotations

import argparse
import itertools

import pytest
import torch
import torchvision
from detr_models import make_cfg, on_meta, small_cfg
from torchvision.ops import FrozenBatchNorm2d

from panoptic_plugin.cli.convert_weights import main
from panoptic_plugin.engine.checkpoint import load_state_dict_file
from panoptic_plugin.engine.model import build_model
from panoptic_plugin.systems.detr.meta_arch import PanopticDETR
from panoptic_plugin.systems.detr.weights import to_native, to_official

COCO = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 133, "DATASETS.TRAIN": ("coco_2017_train_panoptic",)}
D, FFN = 256, 2048
NORMS = ("weight", "bias", "running_mean", "running_var")


def linear(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def attention(name):
    return {f"{name}.in_proj_weight": (3 * D, D), f"{name}.in_proj_bias": (3 * D,), **linear(f"{name}.out_proj", D, D)}


def layer(name, attentions, num_norms):
    shapes = {}
    for one in attentions:
        shapes |= attention(f"{name}.{one}")
    shapes |= linear(f"{name}.linear1", FFN, D) | linear(f"{name}.linear2", D, FFN)
    for number in range(1, num_norms + 1):
        shapes |= {f"{name}.norm{number}.weight": (D,), f"{name}.norm{number}.bias": (D,)}
    return shapes


def detector():
    """The official detector without its backbone."""
    shapes = {}
    for number in range(6):
        shapes |= layer(f"transformer.encoder.layers.{number}", ["self_attn"], 2)
        shapes |= layer(f"transformer.decoder.layers.{number}", ["self_attn", "multihead_attn"], 3)
    shapes |= {"transformer.decoder.norm.weight": (D,), "transformer.decoder.norm.bias": (D,)}
    shapes |= linear("class_embed", 251, D)
    for number, out in enumerate((D, D, 4)):
        shapes |= linear(f"bbox_embed.layers.{number}", out, D)
    return shapes | {
        "query_embed.weight": (100, D),
        "input_proj.weight": (D, 2048, 1, 1),
        "input_proj.bias": (D,),
    }


def norm(name, channels):
    return {f"{name}.{part}": (channels,) for part in NORMS}


def resnet(blocks):
    """torchvision's ResNet with frozen norms, without its classifier."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    into = 64
    for stage, num_blocks in enumerate(blocks):
        width = 64 * 2**stage
        for number in range(num_blocks):
            name = f"layer{stage + 1}.{number}"
            sizes = ((width, into, 1), (width, width, 3), (4 * width, width, 1))
            for place, (out, before, size) in enumerate(sizes, start=1):
                shapes[f"{name}.conv{place}.weight"] = (out, before, size, size)
                shapes |= norm(f"{name}.bn{place}", out)
            if number == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, into, 1, 1)
                shapes |= norm(f"{name}.downsample.1", 4 * width)
            into = 4 * width
    return shapes


def mask_parts():
    """bbox_attention and mask_head."""
    shapes = linear("bbox_attention.q_linear", D, D) | linear("bbox_attention.k_linear", D, D)
    widths = (264, 264, 128, 64, 32, 16)
    for number, (before, after) in enumerate(itertools.pairwise(widths), start=1):
        shapes |= {f"mask_head.lay{number}.weight": (after, before, 3, 3), f"mask_head.lay{number}.bias": (after,)}
        shapes |= {f"mask_head.gn{number}.weight": (after,), f"mask_head.gn{number}.bias": (after,)}
    shapes |= {"mask_head.out_lay.weight": (1, 16, 3, 3), "mask_head.out_lay.bias": (1,)}
    for number, (before, after) in enumerate(((1024, 128), (512, 64), (256, 32)), start=1):
        shapes |= {
            f"mask_head.adapter{number}.weight": (after, before, 1, 1),
            f"mask_head.adapter{number}.bias": (after,),
        }
    return shapes


def official_table(blocks, *, masks):
    prefix = "detr." if masks else ""
    parts = detector() | {f"backbone.0.body.{name}": shape for name, shape in resnet(blocks).items()}
    named = {prefix + name: shape for name, shape in parts.items()}
    return named | (mask_parts() if masks else {})


@pytest.mark.parametrize(
    ("changes", "blocks", "count"),
    [
        ({}, (3, 4, 6, 3), 490),
        ({"MODEL.DETR.DILATION": True}, (3, 4, 6, 3), 490),
        ({"MODEL.RESNETS.DEPTH": 101}, (3, 4, 23, 3), 745),
        ({"MODEL.MASK_ON": False}, (3, 4, 6, 3), 458),
    ],
    ids=["R50", "DC5", "R101", "boxes"],
)
def test_every_name_and_shape_of_the_official_files(changes, blocks, count):
    state = on_meta(make_cfg(**COCO, **changes)).state_dict()
    official = to_official(state)
    table = official_table(blocks, masks=changes.get("MODEL.MASK_ON", True))
    assert len(table) == count
    assert {name: tuple(value.shape) for name, value in official.items()} == table
    back = to_native(official)
    assert list(back) == list(state) and all(back[name] is value for name, value in state.items())


def test_parts_have_the_official_numbers_of_parameters():
    model = on_meta(make_cfg(**COCO))
    detr = model.detr
    counts = {
        "backbone": sum(one.numel() for one in model.backbone.parameters()),
        "transformer": sum(one.numel() for one in detr.transformer.parameters()),
        "attention": sum(
            one.numel()
            for name, one in detr.transformer.named_parameters()
            if "self_attn" in name or "multihead" in name
        ),
        "input_proj": sum(one.numel() for one in detr.input_proj.parameters()),
        "query_embed": detr.query_embed.weight.numel(),
        "class_embed": sum(one.numel() for one in detr.class_embed.parameters()),
        "bbox_embed": sum(one.numel() for one in detr.bbox_embed.parameters()),
        "masks": sum(one.numel() for part in (model.bbox_attention, model.mask_head) for one in part.parameters()),
    }
    assert counts == {
        "backbone": 23_454_912,
        "transformer": 17_363_456,
        "attention": 18 * 263_168,
        "input_proj": 524_544,
        "query_embed": 25_600,
        "class_embed": 64_507,
        "bbox_embed": 132_612,
        "masks": 1_333_657,
    }


@pytest.mark.parametrize("dc5", [False, True], ids=["R50", "DC5"])
def test_the_backbone_is_that_of_torchvision(dc5):
    """With its weights renamed, frozen norms and the first 3x3 convolution of a dilated stage included."""
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(
        weights=None, norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, dc5]
    ).eval()
    weights = {
        name: torch.rand_like(value) * 0.2 + 0.4 if name.endswith("running_var") else value
        for name, value in reference.state_dict().items()
        if not name.startswith("fc.")
    }
    reference.load_state_dict(weights, strict=False)
    anchors = {
        "query_embed.weight": torch.ones(1),
        "transformer.encoder.layers.0.self_attn.in_proj_weight": torch.ones(1),
    }
    native = to_native(anchors | {f"backbone.0.body.{name}": value for name, value in weights.items()})
    with torch.device("meta"):
        backbone = PanopticDETR(make_cfg(**{"MODEL.DETR.DILATION": dc5})).backbone
    ours = {name.removeprefix("backbone."): value for name, value in native.items() if name.startswith("backbone.")}
    backbone.load_state_dict(ours, strict=True, assign=True)
    image = torch.randn(1, 3, 70, 101)
    with torch.no_grad():
        found = backbone.eval()(image)
        features = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
        for number, name in enumerate(("res2", "res3", "res4", "res5"), start=1):
            features = getattr(reference, f"layer{number}")(features)
            assert found[name].shape == features.shape
            assert torch.allclose(found[name], features, rtol=1e-4, atol=2e-6 * float(features.abs().max())), name


@pytest.mark.parametrize("height, width, cells, masks", [(64, 96, (2, 3), (16, 24)), (69, 101, (3, 4), (18, 26))])
def test_shapes_at_any_size(height, width, cells, masks):
    """Nothing has to be a multiple of anything: the map is rounded up at each stride."""
    model = PanopticDETR(small_cfg()).eval()
    with torch.no_grad():
        outputs = model.network.detect(
            torch.zeros(1, 3, height, width), torch.zeros(1, height, width, dtype=torch.bool)
        )
        found = model.network.masks(outputs, [torch.arange(7)])
    assert outputs.memory.shape[-2:] == cells and found.shape == (7, *masks)
    assert outputs.logits.shape == (2, 1, 7, 35) and outputs.boxes.shape == (2, 1, 7, 4)


def layouts(model):
    """One model as the official code and its users write it: what -> content of a file."""
    official = to_official(model.state_dict())
    boxes = {name.removeprefix("detr."): value for name, value in official.items() if name.startswith("detr.")}
    wrapper = {}
    for name, value in model.state_dict().items():
        wrapper[f"detr.detr.backbone.0.{name}" if name.startswith("backbone.") else f"detr.{name}"] = value
    options = argparse.Namespace(lr=1e-4, frozen_weights=None, output_dir="x")
    return {
        "hub boxes": {"model": boxes},
        "main.py": {"model": official, "optimizer": {}, "lr_scheduler": {}, "epoch": 24, "args": options},
        "wrapper": {"model": wrapper, "__author__": "x"},
    }


@pytest.mark.parametrize("layout", ["hub boxes", "main.py", "wrapper"])
def test_the_converter_goes_there_and_back_tensor_by_tensor(layout, tmp_path, capsys):
    torch.manual_seed(1)
    model = PanopticDETR(small_cfg())
    torch.save(layouts(model)[layout], tmp_path / "in.pth")
    assert main([str(tmp_path / "in.pth"), str(tmp_path / "ours.pth")]) == 0
    assert main([str(tmp_path / "ours.pth"), str(tmp_path / "official.pth"), "--to-official"]) == 0
    assert "34 classes and no object" in capsys.readouterr().out
    state = model.state_dict()
    wanted = {
        name: value for name, value in state.items() if layout != "hub boxes" or "detr" in name or "backbone" in name
    }
    found = load_state_dict_file(str(tmp_path / "ours.pth"))
    assert found.keys() == wanted.keys() and all(torch.equal(value, found[name]) for name, value in wanted.items())
    official = load_state_dict_file(str(tmp_path / "official.pth"))
    expected = to_official(wanted)
    assert official.keys() == expected.keys() and all(torch.equal(v, official[name]) for name, v in expected.items())


def test_the_config_builds_the_model_by_name():
    assert isinstance(build_model(small_cfg()), PanopticDETR)
