from __future__ import annotations

import pickle
import runpy
import sys

import numpy as np
import pytest
import torch
from torch import nn

from panoptic_plugin.backbones.hrnet import HRNet
from panoptic_plugin.cli.convert_weights import main
from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.checkpoint_file import load_state_dict_file

SMALL = {"width": 2, "modules": (1, 1, 1), "blocks": 1}


class Hostile:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


@pytest.fixture()
def official(tmp_path):
    """A file in the layout of HRNet's ImageNet checkpoints, and the backbone in it."""
    backbone = HRNet(**SMALL)
    head = {"incre_modules.0.0.conv1.weight": torch.rand(2, 2), "classifier.bias": torch.rand(3)}
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in {**backbone.state_dict(), **head}.items()}, "epoch": 3},
        tmp_path / "official.pth",
    )
    return str(tmp_path / "official.pth"), backbone


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
def test_converted_file_fills_every_tensor_of_the_backbone(suffix, official, tmp_path, capsys):
    source, backbone = official
    target = str(tmp_path / f"h{suffix}")
    assert main([source, target]) == 0
    model = nn.ModuleDict({"backbone": HRNet(**SMALL)})
    PluginCheckpointer(model, eval_only=True).load(target)
    assert all(torch.equal(v, backbone.state_dict()[k]) for k, v in model["backbone"].state_dict().items())
    out = capsys.readouterr().out
    assert "HRNet" in out and f"Wrote {len(backbone.state_dict())} tensors" in out
    assert "MODEL.RESNETS.DEPTH 2" in out


def test_pickle_has_the_format_of_detectron2s_model_zoo(official, tmp_path):
    assert main([official[0], str(tmp_path / "h.pkl")]) == 0
    content = pickle.loads((tmp_path / "h.pkl").read_bytes())
    assert content["matching_heuristics"] is True and content["__author__"]
    assert all(isinstance(value, np.ndarray) for value in content["model"].values())


def test_table_counts_each_kind_and_shortens_long_lists(official, tmp_path, capsys):
    main([official[0], str(tmp_path / "h.pkl")])
    short = capsys.readouterr().out
    main([official[0], str(tmp_path / "h.pkl"), "--verbose"])
    full = capsys.readouterr().out
    for kind in ("matched", "renamed", "dropped", "missing", "other shape"):
        assert kind in short
    assert "module.classifier.bias" in short and "module.conv1.weight -> conv1.weight" in short
    assert "more (--verbose lists all)" in short and "more (" not in full
    assert "module.bn1.bias -> bn1.bias" in full and len(full) > len(short)


def test_converting_twice_changes_nothing(official, tmp_path):
    first, second = str(tmp_path / "one.pkl"), str(tmp_path / "two.safetensors")
    assert main([official[0], first]) == 0 and main([first, second]) == 0
    one, two = load_state_dict_file(first), load_state_dict_file(second)
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_implausible_match_fails_and_writes_nothing(official, tmp_path, capsys):
    target = tmp_path / "x.pkl"
    assert main([official[0], str(target), "--arch", "xception_65"]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not target.exists()


def test_hostile_file_is_not_executed(tmp_path, capsys):
    marker = tmp_path / "marker"
    for name, save in (("e.pkl", lambda o, p: p.write_bytes(pickle.dumps(o))), ("e.pth", torch.save)):
        save({"model": {"conv1.weight": torch.zeros(1), "x": Hostile(marker)}}, tmp_path / name)
        assert main([str(tmp_path / name), str(tmp_path / "out.pkl")]) == 2
        assert "nothing in it was executed" in capsys.readouterr().err
    assert not marker.exists() and not (tmp_path / "out.pkl").exists()


@pytest.mark.parametrize(
    "source, target, message",
    [
        ("nowhere.pth", "out.pkl", "nowhere.pth does not exist"),
        ("official.pth", "out.bin", "expected a name that ends in .pkl"),
        ("official.pth", "no/such/folder/out.pkl", "does not exist; make it first"),
        ("official.pth", "official.pth", "the same file"),
    ],
)
def test_mistakes_are_one_line_on_stderr(source, target, message, official, tmp_path, capsys):
    assert main([str(tmp_path / source), str(tmp_path / target)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_script_is_the_command(official, tmp_path, repository, monkeypatch):
    script = str(repository / "convert-pretrain-model-to-d2.py")
    monkeypatch.setattr(sys, "argv", [script, official[0], str(tmp_path / "h.pkl")])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(script, run_name="__main__")
    assert exit_info.value.code == 0 and (tmp_path / "h.pkl").exists()
