"""Weights for the semantic branch in each format, and what a report must say."""

from __future__ import annotations

import pytest
import torch
from semantic_branches import NUM_CLASSES, as_hrnet_ocr, as_nvidia, ocr_branch

from panoptic_plugin.backbones.weights import convert_state_dict
from panoptic_plugin.cli.convert_weights import main as convert
from panoptic_plugin.engine.checkpoint_file import load_state_dict_file
from panoptic_plugin.engine.semantic_weights import load_semantic_weights
from panoptic_plugin.errors import CheckpointError

CLASS_TENSORS = ["ocr.regions.3.weight", "ocr.regions.3.bias", "ocr.predictor.weight", "ocr.predictor.bias"]
NAMES = ["road", "wall", "sky", "car", "rider"]


@pytest.fixture(scope="module")
def source():
    return ocr_branch(seed=1).eval()


@pytest.fixture
def save(tmp_path):
    def save(content, name="weights.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def equal_state(branch, source, parts=("",)):
    state, expected = branch.state_dict(), source.state_dict()
    return all(torch.equal(state[name], expected[name]) for name in state if name.startswith(parts))


def in_format(source, name):
    weights = source.state_dict()
    if name == "hrnet":
        return {k[len("backbone.") :]: v for k, v in weights.items() if k.startswith("backbone.")} | {
            "classifier.weight": torch.ones(3, 2)
        }
    if name == "joint":
        return {"model": {f"semantic_branch.{k}": v for k, v in weights.items()} | {"backbone.x": torch.ones(1)}}
    return {"own": {"model": weights}, "hrnet_ocr": as_hrnet_ocr(weights), "nvidia_ocr": as_nvidia(weights)}[name]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "layout", "random_parts", "dropped"),
    [
        ("own", "own", [], []),
        ("joint", "own", [], ["backbone.x"]),
        ("nvidia_ocr", "nvidia_ocr", [], []),
        ("hrnet_ocr", "hrnet_ocr", ["multi_scale"], ["loss.criterion.weight"]),
        ("hrnet", "hrnet", ["multi_scale", "ocr"], ["classifier.weight"]),
    ],
)
def test_each_format_is_recognised_and_fills_its_parts(source, save, name, layout, random_parts, dropped):
    branch = ocr_branch(seed=2).eval()
    report = load_semantic_weights(branch, save(in_format(source, name)))
    assert (report.layout, sorted(report.random_parts), report.dropped) == (layout, random_parts, dropped)
    assert not (report.missing or report.unexpected or report.mismatched or report.ignored)
    filled = tuple(part for part in ("backbone", "ocr", "multi_scale") if part not in random_parts)
    assert equal_state(branch, source, filled)
    images = torch.randn(1, 3, 32, 64)
    assert torch.equal(branch(images).logits, source(images).logits) == (not random_parts)
    assert len(report.loaded) == sum(key.startswith(filled) for key in branch.state_dict())


@pytest.mark.parametrize("name", ["own", "nvidia_ocr", "hrnet_ocr"])
def test_ignore_head_drops_exactly_the_tensors_with_a_row_a_class(source, save, name):
    branch = ocr_branch(seed=2, num_classes=NUM_CLASSES + 2)
    state, given = branch.state_dict(), source.state_dict()
    before = {key: state[key].clone() for key in CLASS_TENSORS}
    report = load_semantic_weights(branch, save(in_format(source, name)), True)
    assert sorted(report.ignored) == sorted(CLASS_TENSORS)
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert all(torch.equal(state[key], given[key]) for key in report.loaded)
    assert "left out (IGNORE_HEAD): ocr." in str(report)


def test_rows_are_carried_over_by_class_name(source, save):
    branch = ocr_branch(seed=2, num_classes=3)
    before = {key: branch.state_dict()[key].clone() for key in CLASS_TENSORS}
    report = load_semantic_weights(
        branch, save(as_nvidia(source.state_dict())), source_classes=NAMES, target_classes=["car", "tram", "road"]
    )
    assert report.carried == ["car", "road"] and report.new_classes == ["tram"]
    for key in CLASS_TENSORS:
        found, given = branch.state_dict()[key], source.state_dict()[key]
        assert torch.equal(found[0], given[3]) and torch.equal(found[2], given[0])
        assert torch.equal(found[1], before[key][1])


@pytest.mark.parametrize(
    ("names", "message"),
    [(NAMES[:4], "names 4 classes"), (["a", "b", "c", "d", "e"], "none of PRETRAINED_CLASSES")],
)
def test_class_names_that_do_not_fit(source, save, names, message):
    branch = ocr_branch(num_classes=3)
    with pytest.raises(CheckpointError, match=message):
        load_semantic_weights(
            branch, save(as_hrnet_ocr(source.state_dict())), source_classes=names, target_classes=NAMES[:3]
        )


def test_another_number_of_classes_is_an_error_with_the_remedy(source, save):
    branch = ocr_branch(num_classes=3)
    before = {key: value.clone() for key, value in branch.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"other shapes: .*PRETRAINED_CLASSES or set SEMANTIC.IGNORE_HEAD True"):
        load_semantic_weights(branch, save(as_nvidia(source.state_dict())))
    assert all(torch.equal(before[key], value) for key, value in branch.state_dict().items())


@pytest.mark.parametrize("name", ["own", "nvidia_ocr", "hrnet_ocr"])
def test_a_tensor_that_is_missing_is_an_error_unless_allowed(source, save, name):
    content = in_format(source, name)
    weights = content.get("model", content.get("state_dict", content))
    gone = next(key for key in weights if key.endswith("stage4.0.fuse_layers.0.1.0.weight"))
    del weights[gone]
    path = save(content)
    with pytest.raises(CheckpointError, match=r"missing: backbone.stage4.0.fuse_layers.0.1.0.weight"):
        load_semantic_weights(ocr_branch(), path)
    report = load_semantic_weights(ocr_branch(), path, strict=False)
    assert report.missing == ["backbone.stage4.0.fuse_layers.0.1.0.weight"]


def test_an_attention_that_no_scale_needs_is_not_dropped_silently(source, save):
    one_scale = ocr_branch(TRAIN_SCALES=[1.0], TEST_SCALES=[1.0])
    with pytest.raises(CheckpointError, match=r"unexpected: multi_scale.*TRAIN_SCALES"):
        load_semantic_weights(one_scale, save(as_nvidia(source.state_dict())))


@pytest.mark.parametrize(
    ("name", "align", "warnings"),
    [("nvidia_ocr", True, ["ALIGN_CORNERS False", "FUSION_STRIDE 1"]), ("hrnet_ocr", False, ["ALIGN_CORNERS True"])],
)
def test_resizing_other_than_in_training_is_warned_of(source, save, caplog, name, align, warnings):
    load_semantic_weights(ocr_branch(ALIGN_CORNERS=align), save(in_format(source, name)))
    assert all(words in caplog.text for words in warnings)
    caplog.clear()
    load_semantic_weights(ocr_branch(ALIGN_CORNERS=not align, FUSION_STRIDE=1), save(in_format(source, name)))
    assert "was trained with" not in caplog.text


def test_another_width_names_both_shapes(source, save):
    other = ocr_branch(BACKBONE={"NAME": "d2_hrnet", "DEPTH": 3, "MODULES": [1, 1, 1], "BLOCKS": 1})
    with pytest.raises(CheckpointError, match=r"has shape \(2,.* expected \(3,"):
        load_semantic_weights(other, save(as_hrnet_ocr(source.state_dict())))


@pytest.mark.parametrize(
    ("content", "message"),
    [({"fc.weight": torch.ones(2)}, "no known checkpoint"), ([1, 2], "holds no weights")],
)
def test_files_of_other_kinds(save, content, message):
    with pytest.raises(CheckpointError, match=message):
        load_semantic_weights(ocr_branch(), save(content))


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_semantic_weights(ocr_branch(), tmp_path / "gone.pth")


def test_numbered_layers_of_the_older_attention(source, save):
    content = as_nvidia(source.state_dict())
    names = {"conv0": "0", "bn0": "1", "conv1": "3", "bn1": "4", "conv2": "6"}

    def older(key):
        parts = key.split(".")
        return ".".join([*parts[:2], names.get(parts[2], parts[2]), *parts[3:]]) if parts[1] == "scale_attn" else key

    content["state_dict"] = {older(key): value for key, value in content["state_dict"].items()}
    branch = ocr_branch(seed=2)
    assert not load_semantic_weights(branch, save(content)).random_parts and equal_state(branch, source)


@pytest.mark.parametrize("name", ["hrnet_ocr", "nvidia_ocr"])
def test_the_converter_writes_a_whole_semantic_model(source, save, tmp_path, capsys, name):
    path = save(in_format(source, name))
    assert convert([str(path), str(tmp_path / "out.pth")]) == 0
    said = capsys.readouterr().out
    assert "HRNet-OCR" in said and "PluginHRNetOCRHead" in said and "DEPTH 2" in said
    converted = load_state_dict_file(tmp_path / "out.pth")
    assert {key.partition(".")[0] for key in converted} - {"multi_scale"} == {"backbone", "sem_seg_head"}
    branch = ocr_branch(seed=2)
    report = load_semantic_weights(branch, tmp_path / "out.pth")  # what was converted serves as PRETRAINED, too
    assert report.layout == "detectron2" and equal_state(branch, source, ("backbone", "ocr"))


def test_a_damaged_file_is_not_taken_for_a_network(source):
    weights = as_nvidia(source.state_dict())["state_dict"]
    weights["module.ocr.conv3x3_ocr.0.bias"] = torch.ones(3)
    del weights["module.ocr.cls_head.bias"]
    _, report = convert_state_dict(weights)
    assert report.missing == ["sem_seg_head.predictor.bias"]
    assert [key for key, *_ in report.mismatched] == ["sem_seg_head.pixels.0.bias"]
