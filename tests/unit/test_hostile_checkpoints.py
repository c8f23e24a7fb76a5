"""Weights files made to harm: whatever they hold, one sentence says so, nothing runs, and nothing is waited for."""

from __future__ import annotations

import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file, load_state_dict_file
from panoptic_plugin.errors import CheckpointError


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def ways_to_call(command: str) -> dict[str, bytes]:
    """Pickles that would run ``command``, by the opcode that does it."""
    return {
        "GLOBAL REDUCE": b"\x80\x02cposix\nsystem\n(" + text(command) + b"tR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93(" + text(command) + b"tR.",
        "INST": b"(S'" + command.encode() + b"'\ni" + b"posix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + text(command) + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(]"
        + text("/bin/sh")
        + b"a"
        + text("-c")
        + b"a"
        + text(command)
        + b"at\x81.",
        "BUILD": b"\x80\x02cos\nenviron\n}" + text("PATH") + text(command) + b"sb.",
        "through getattr": b"\x80\x02cbuiltins\ngetattr\n(cposix\nsystem\n"
        + text("__call__")
        + b"tR"
        + text(command)
        + b"\x85R.",
        "through a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.__init__\x93" + text(command) + b"\x85R.",
        "EXT": b"\x80\x02\x82\x01.",
        "PERSID": b"Pposix.system\n.",
    }


WAYS = sorted(ways_to_call(""))


@pytest.mark.parametrize("kind", ["pickle", "zip", "before 1.6", "tar"])
@pytest.mark.parametrize("way", WAYS)
def test_no_opcode_runs_anything(way, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, marker, before = tmp_path / "weights.pth", tmp_path / "marker", dict(os.environ)
    content = ways_to_call(f"touch {marker}")[way]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in (("data.pkl", content), ("byteorder", b"little"), ("version", b"3\n")):
                archive.writestr(f"archive/{name}", part)
    elif kind == "tar":
        (tmp_path / "pickle").write_bytes(content)
        with tarfile.open(path, "w") as archive:
            archive.add(tmp_path / "pickle", "pickle")
    else:
        head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        path.write_bytes(b"".join(head if kind == "before 1.6" else []) + content)
    with pytest.raises(CheckpointError, match=r"weights\.pth \([\d,]+ bytes\)"):
        load_checkpoint_file(path)
    assert not marker.exists() and dict(os.environ) == before


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",  # a text of that many bytes
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"x.",  # a bytearray
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"x.",  # a frame
        b"\x80\x02cnumpy\nndarray\n\x8a\x08" + struct.pack("<Q", 1 << 57) + b"\x85\x85R.",
        struct.pack("<Q", 1 << 39) + b'{"a":1}',  # a header of safetensors
    ],
)
def test_a_length_that_no_machine_has_is_an_error_of_the_file(content, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth \([\d,]+ bytes\) (asks for more memory|cannot be read)"):
        load_checkpoint_file(tmp_path / "x.pth")


def test_an_archive_that_unpacks_to_far_more_is_not_unpacked(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data/1", bytes(32 << 20))
    assert (tmp_path / "x.pth").stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match="33,554,.* bytes long when unpacked"):
        load_checkpoint_file(tmp_path / "x.pth")


def test_a_mapping_that_holds_itself_has_no_weights(tmp_path):
    content: dict = {}
    content["model"] = content
    for name in ("x.pkl", "x.pth"):
        if name == "x.pkl":
            (tmp_path / name).write_bytes(pickle.dumps(content))
        else:
            torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match="holds no weights"):
            load_state_dict_file(tmp_path / name)
        with pytest.raises(CheckpointError, match="holds no weights"):
            PluginCheckpointer(nn.Linear(4, 4)).load(str(tmp_path / name))


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "back")
    (tmp_path / "back").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "fifo", tmp_path / "loop", "/dev/zero"):
        with pytest.raises(CheckpointError, match=f"{path} is no regular file"):
            load_checkpoint_file(path)
    for path in ("x" * 5000, "a\0b"):
        with pytest.raises(CheckpointError, match="does not exist"):
            load_checkpoint_file(path)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(b"x")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointError, match=r"x\.pth .*Permission denied"):
        load_checkpoint_file(tmp_path / "x.pth")


ODD_WEIGHTS = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "complex": lambda: torch.ones(4, 4, dtype=torch.complex64),
    "without values": lambda: torch.empty(4, 4, device="meta"),
    "text": lambda: "text",
    "objects": lambda: np.array([None, {}], dtype=object),
    "records": lambda: np.zeros(4, dtype=[("a", "f4")]),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.parametrize("kind", ODD_WEIGHTS)
def test_weights_of_odd_kinds_are_missing(kind, tmp_path):
    path = tmp_path / "x.pkl"
    content = {"model": {"weight": ODD_WEIGHTS[kind](), "bias": torch.zeros(4)}}
    if kind in ("objects", "records"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"x\.pkl .*weight"):
        PluginCheckpointer(nn.Linear(4, 4), eval_only=True).load(str(path))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    weights = nn.Linear(4, 4).state_dict()
    weights["bias"][2] = value
    torch.save({"model": weights}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth holds infinite or NaN weights \(bias\)"):
        PluginCheckpointer(nn.Linear(4, 4)).load(str(tmp_path / "x.pth"))


class Picky:
    """As an optimizer or a schedule takes its state."""

    def state_dict(self):
        return {"groups": 2}

    def load_state_dict(self, state):
        if state["groups"] != 2:
            raise ValueError("loaded state dict has a different number of parameter groups")


@pytest.mark.parametrize(
    ("state", "message"),
    [({"groups": 1}, "parameter groups"), (5, "TypeError"), ({}, "KeyError"), (None, "holds weights and no state")],
)
def test_state_of_another_training_is_not_resumed(state, message, tmp_path):
    model = nn.Linear(4, 4)
    others = {} if state is None else {"trainer": state}
    torch.save({"model": model.state_dict(), "iteration": 3, **others}, tmp_path / "model_final.pth")
    checkpointer = PluginCheckpointer(model, str(tmp_path), trainer=Picky())
    with pytest.raises(CheckpointError, match=rf"model_final\.pth.*{message}.*MODEL\.WEIGHTS"):
        checkpointer.resume_or_load("")
    checkpointer.resume_or_load(str(tmp_path / "model_final.pth"), resume=False)  # the weights alone are fine


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "outside.pth").write_bytes(b"not to be touched")
    PluginCheckpointer(nn.Linear(4, 4), str(folder)).save("model_0000001", iteration=1)
    return folder


@pytest.mark.parametrize(
    "pointer",
    [b"../outside.pth", b"/etc/passwd", b"", b"\xff\xfe", b"a\0b", b"x" * 5000, b"model_9.pth", "fifo", "folder"],
)
def test_a_pointer_leads_nowhere_else(pointer, run):
    (run / "last_checkpoint").unlink()
    if pointer == "fifo":
        os.mkfifo(run / "last_checkpoint")
    elif pointer == "folder":
        (run / "last_checkpoint").mkdir()
    else:
        (run / "last_checkpoint").write_bytes(pointer)
    assert PluginCheckpointer(nn.Linear(4, 4), str(run)).resume_or_load("") == {"iteration": 1}


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_save_does_not_write_through_what_lies_in_its_way(kind, run, tmp_path):
    for name in (".model_0000002.pth.tmp", ".last_checkpoint.tmp"):
        if kind == "link":
            (run / name).symlink_to(tmp_path / "outside.pth")
        elif kind == "fifo":
            os.mkfifo(run / name)
        else:
            (run / name).mkdir()
    checkpointer = PluginCheckpointer(nn.Linear(4, 4), str(run))
    if kind == "folder":
        with pytest.raises(CheckpointError, match=r"cannot write .*model_0000002\.pth"):
            checkpointer.save("model_0000002", iteration=2)
    else:
        checkpointer.save("model_0000002", iteration=2)
    assert checkpointer.resume_or_load("") == {"iteration": 1 if kind == "folder" else 2}
    assert (tmp_path / "outside.pth").read_bytes() == b"not to be touched"
