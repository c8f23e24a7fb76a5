from __future__ import annotations

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from panoptic_plugin.engine import checkpoint_file
from panoptic_plugin.engine.checkpoint import PluginCheckpointer, load_state_dict_file
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file, write_checkpoint_file
from panoptic_plugin.errors import CheckpointError

WEIGHTS = OrderedDict(a=torch.arange(6.0).reshape(2, 3), n=torch.tensor(4), h=torch.ones(2).half())


class Hostile:
    """Makes the folder ``path`` when it is unpickled by a reader that calls what a pickle names."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Network(nn.Module):
    def __init__(self, classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            OrderedDict(conv1=nn.Conv2d(3, width, 1), bn1=nn.BatchNorm2d(width), conv2=nn.Conv2d(width, width, 1))
        )
        self.predictor = nn.Conv2d(width, classes, 1)


def _save(path, kind: str) -> None:
    if kind == "torch":
        torch.save({"state_dict": WEIGHTS, "epoch": np.float64(3), "rng": np.arange(3)}, path)
    elif kind == "torch before 1.6":
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        write_checkpoint_file(path.with_suffix(".safetensors"), {"model": WEIGHTS, "__author__": "x"})
        path.with_suffix(".safetensors").rename(path)
    else:
        arrays = {key: value.numpy() for key, value in WEIGHTS.items()}
        content = {"model": WEIGHTS if "tensors" in kind else arrays, "__author__": "x"}
        path.write_bytes(pickle.dumps(content, protocol=int(kind[-1])))


KINDS = ["torch", "torch before 1.6", "safetensors", "arrays 2", "arrays 4", "arrays 5", "tensors 2", "tensors 4"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_read_whatever_its_name(kind, tmp_path):
    _save(tmp_path / "weights", kind)
    found = load_state_dict_file(tmp_path / "weights")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in WEIGHTS.items())


def test_arrays_of_numpy_1_are_read(tmp_path):
    content = pickle.dumps({"model": {"a": np.arange(3.0)}}, protocol=2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "old.pkl").write_bytes(content)
    assert b"numpy.core.multiarray" in content
    assert load_state_dict_file(tmp_path / "old.pkl")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_truncated_file_is_named_with_its_size(kind, part, tmp_path):
    path = tmp_path / "weights.pth"
    _save(path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part) + 1])
    with pytest.raises(CheckpointError, match=rf"weights.pth \({path.stat().st_size:,} bytes\).*again"):
        load_state_dict_file(path)


@pytest.mark.parametrize("wrap", ["pickle", "torch", "torch before 1.6", "storage"])
def test_no_code_of_a_file_runs(wrap, tmp_path):
    path, marker = tmp_path / "weights.pkl", tmp_path / "marker"
    content = {"model": {"a": torch.zeros(1)}, "extra": Hostile(marker)}
    if wrap == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif wrap == "storage":  # a pickled tensor holds a file of torch.save, which holds the code
        torch.save(Hostile(marker), tmp_path / "inner", _use_new_zipfile_serialization=False)
        inner = (tmp_path / "inner").read_bytes()
        path.write_bytes(pickle.dumps({"model": StorageOf(inner)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=wrap == "torch")
    with pytest.raises(CheckpointError, match=r"weights.pkl .*refers to \w+.mkdir, and nothing in it was executed"):
        load_checkpoint_file(path)
    assert not marker.exists()


class StorageOf:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"\(0 bytes\) is empty"),
        (b"<!DOCTYPE html><html>", "like a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"hello world", "of no known kind"),
        (pickle.dumps([1, 2]), "holds no weights"),
        (pickle.dumps({"model": {"a": "text"}}), "holds no weights"),
    ],
)
def test_wrong_content_is_explained(content, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.pth.*{message}"):
        load_state_dict_file(tmp_path / "x.pth")


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.pth does not exist.*MODEL.WEIGHTS"):
        PluginCheckpointer(Network()).load(str(tmp_path / "nowhere.pth"))
    with pytest.raises(CheckpointError, match="is a folder"):
        load_state_dict_file(tmp_path)


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pt", ".safetensors"])
def test_written_weights_come_back(suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    tied = {**WEIGHTS, "tied": WEIGHTS["a"], "b": torch.ones(2).bfloat16()}
    write_checkpoint_file(path, {"model": tied, "__author__": "me", "matching_heuristics": True})
    content = load_checkpoint_file(path)
    assert content["matching_heuristics"] is True and content["__author__"] == "me"
    assert all(torch.equal(value, tied[key].to(value.dtype)) for key, value in load_state_dict_file(path).items())


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"ends in '\.bin', expected one of \.pkl"):
        write_checkpoint_file(tmp_path / "w.bin", {"model": WEIGHTS})


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"old")

    def write(stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint_file.write_atomically(path, write)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_killed_save_leaves_the_last_checkpoint_usable(tmp_path, monkeypatch):
    network = Network()
    checkpointer = PluginCheckpointer(network, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_file.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_0000002", iteration=2)
    monkeypatch.undo()
    assert PluginCheckpointer(network, str(tmp_path)).resume_or_load("") == {"iteration": 1}
    checkpointer.save("model_0000002", iteration=2)
    assert PluginCheckpointer(network, str(tmp_path)).resume_or_load("") == {"iteration": 2}
    assert not list(tmp_path.glob(".*"))


def test_state_of_the_training_is_resumed(tmp_path):
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.5)
    PluginCheckpointer(network, str(tmp_path), optimizer=optimizer).save("m", iteration=7, best=np.float64(0.5))
    other, fresh = Network(), torch.optim.Adam(network.parameters(), lr=0.1)
    rest = PluginCheckpointer(other, str(tmp_path), optimizer=fresh).resume_or_load("", resume=True)
    assert rest == {"iteration": 7, "best": 0.5} and fresh.param_groups[0]["lr"] == 0.5
    assert torch.equal(other.predictor.weight, network.predictor.weight)


def test_checkpoints_go_both_ways_between_ours_and_detectron2(tmp_path):
    network, other = Network(), Network()
    PluginCheckpointer(network, str(tmp_path)).save("ours")
    DetectionCheckpointer(other).load(str(tmp_path / "ours.pth"))
    assert torch.equal(other.predictor.weight, network.predictor.weight)
    other = Network()
    DetectionCheckpointer(network, str(tmp_path)).save("theirs")
    PluginCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(other.predictor.weight, network.predictor.weight)


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
@pytest.mark.parametrize("keys", ["backbone alone", "backbone among others"])
def test_backbone_weights_are_matched_by_the_ends_of_their_names(suffix, keys, tmp_path):
    weights = Network().backbone.state_dict()
    others = {} if keys == "backbone alone" else {"fc.weight": torch.zeros(2)}
    path = str(tmp_path / f"backbone{suffix}")
    write_checkpoint_file(path, {"model": {**weights, **others}, "__author__": "x", "matching_heuristics": True})
    network = Network()
    PluginCheckpointer(network).load(path)
    assert all(torch.equal(value, weights[key]) for key, value in network.backbone.state_dict().items())


def test_matching_by_ends_can_be_asked_for_in_the_path(tmp_path):
    weights = Network().backbone.state_dict()
    torch.save(weights, tmp_path / "b.pth")
    network = Network()
    PluginCheckpointer(network).load(f"{tmp_path}/b.pth?matching_heuristics=True")
    assert torch.equal(network.backbone.conv1.weight, weights["conv1.weight"])


def test_prefix_of_parallel_training_is_taken_off(tmp_path):
    weights = Network().state_dict()
    torch.save({"model": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "m.pth")
    network = Network()
    PluginCheckpointer(network, eval_only=True).load(str(tmp_path / "m.pth"))
    assert torch.equal(network.predictor.weight, weights["predictor.weight"])


@pytest.mark.parametrize("heuristics", [True, False])
def test_weights_of_another_network_stop_the_run(heuristics, tmp_path):
    path = str(tmp_path / "other.pkl")
    write_checkpoint_file(
        path, {"model": {"layer.weight": torch.zeros(1)}, "__author__": "x", "matching_heuristics": heuristics}
    )
    with pytest.raises(CheckpointError, match="other.pkl fills 0 of 8 weights of the backbone.*layer.weight"):
        PluginCheckpointer(Network()).load(path)


def test_backbone_of_another_width_stops_the_run(tmp_path):
    PluginCheckpointer(Network(width=8), str(tmp_path)).save("wide")
    with pytest.raises(CheckpointError, match=r"backbone.conv1.weight \(8, 3, 1, 1\) instead of \(4, 3, 1, 1\)"):
        PluginCheckpointer(Network()).load(str(tmp_path / "wide.pth"))


def test_name_that_fits_several_places_stops_the_run(tmp_path):
    model = nn.ModuleDict({"backbone": nn.ModuleDict({name: Network().backbone for name in ("one", "two")})})
    path = str(tmp_path / "b.pkl")
    write_checkpoint_file(
        path, {"model": Network().backbone.state_dict(), "__author__": "x", "matching_heuristics": True}
    )
    with pytest.raises(CheckpointError, match="does not fit the model"):
        PluginCheckpointer(model).load(path)


def test_other_classes_are_an_error_in_evaluation_and_on_resume_and_a_warning_before_training(tmp_path, caplog):
    PluginCheckpointer(Network(classes=3), str(tmp_path)).save("m")
    path = str(tmp_path / "m.pth")
    message = r"predictor.bias \(3,\) instead of \(5,\), predictor.weight .*NUM_CLASSES"
    with pytest.raises(CheckpointError, match=message):
        PluginCheckpointer(Network(classes=5), eval_only=True).load(path)
    with pytest.raises(CheckpointError, match=message):
        PluginCheckpointer(Network(classes=5), str(tmp_path)).resume_or_load("", resume=True)
    with caplog.at_level("WARNING"):
        PluginCheckpointer(Network(classes=5)).resume_or_load(path, resume=False)
    assert "predictor.bias (3,) instead of (5,)" in caplog.text


def test_missing_weights_are_an_error_in_evaluation(tmp_path):
    weights = {key: value for key, value in Network().state_dict().items() if not key.startswith("predictor")}
    torch.save(weights, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="not in the file: predictor.weight, predictor.bias"):
        PluginCheckpointer(Network(), eval_only=True).load(str(tmp_path / "b.pth"))


def test_caffe2_and_pycls_files_follow_detectron2s_rules(tmp_path):
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"res2": nn.ModuleDict({"conv1": nn.Conv2d(2, 2, 1)})})})
    arrays = {
        "res2_conv1_w": np.ones((2, 2, 1, 1), np.float32),
        "res2_conv1_b": np.ones(2, np.float32),
        "res2_conv1_w_momentum": np.zeros(1, np.float32),
    }
    (tmp_path / "c2.pkl").write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    PluginCheckpointer(model).load(str(tmp_path / "c2.pkl"))
    assert model["backbone"]["res2"]["conv1"].weight.eq(1).all()
    torch.save(
        {"model_state": {"res2.conv1.weight": torch.zeros(2, 2, 1, 1), "res2.conv1.bias": torch.zeros(2)}},
        tmp_path / "p.pyth",
    )
    PluginCheckpointer(model).load(str(tmp_path / "p.pyth"))
    assert model["backbone"]["res2"]["conv1"].weight.eq(0).all()


def test_empty_path_loads_nothing():
    assert PluginCheckpointer(Network()).load("") == {}
