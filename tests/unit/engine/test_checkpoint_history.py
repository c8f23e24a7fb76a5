"""Resuming where the newest checkpoint is torn, flipped, lost or misnamed; and the best model across resumes."""

from __future__ import annotations

import hashlib
import types

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from panoptic_plugin.engine.best_checkpoint import BestCheckpointHook
from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.checkpoint_history import resume_candidates
from panoptic_plugin.errors import CheckpointError

POINTER = "last_checkpoint"


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(64, 64)


@pytest.fixture
def folder(tmp_path):
    """A run with the checkpoints of iterations 1, 3 and 5."""
    checkpointer = PluginCheckpointer(Network(), str(tmp_path))
    for iteration in (1, 3, 5):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return tmp_path


def resume(folder) -> int:
    return PluginCheckpointer(Network(), str(folder)).resume_or_load("", resume=True)["iteration"]


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    weights = load_checkpoint_file(path)["model"]["backbone.weight"].numpy().tobytes()
    content[bytes(content).index(weights) + 1001] ^= 4
    path.write_bytes(bytes(content))


DAMAGE = {
    "truncated": truncate,
    "a flipped bit in a tensor": flip,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "lost": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_the_newest_good_checkpoint_takes_the_place_of_a_damaged_one(damage, folder, caplog):
    damage(folder / "model_0000005.pth")
    with caplog.at_level("WARNING"):
        assert resume(folder) == 3
    warnings = [record.message for record in caplog.records if "Resuming from" in record.message]
    assert len(warnings) == 1 and "model_0000003.pth" in warnings[0] and "model_0000005.pth" in warnings[0]
    damage(folder / "model_0000003.pth")
    assert resume(folder) == 1


def test_a_flipped_bit_is_named_wherever_weights_are_loaded(folder):
    flip(folder / "model_0000005.pth")
    with pytest.raises(CheckpointError, match=r"model_0000005\.pth .*checksum of its part .* does not match"):
        PluginCheckpointer(Network()).load(str(folder / "model_0000005.pth"))
    torch.load(folder / "model_0000005.pth", weights_only=True)  # which PyTorch itself takes without a word


@pytest.mark.parametrize("content", [None, b"", b"\n", b"model_0000009.pth", b"../evil.pth", b"/etc/passwd", b"\xff"])
def test_without_a_usable_pointer_the_newest_checkpoint_is_taken(content, folder):
    (folder.parent / "evil.pth").write_bytes(b"")
    if content is None:
        (folder / POINTER).unlink()
    else:
        (folder / POINTER).write_bytes(content)
    assert PluginCheckpointer(Network(), str(folder)).has_checkpoint()
    assert resume(folder) == 5


def test_where_all_are_damaged_training_does_not_start_from_scratch(folder):
    for path in folder.glob("model_*"):
        truncate(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be resumed from: .*0000005.*0000003.*0000001"):
        resume(folder)


def test_a_pointer_to_nothing_in_an_empty_folder_is_an_error(tmp_path):
    (tmp_path / POINTER).write_text("")
    with pytest.raises(CheckpointError, match="names no checkpoint"):
        resume(tmp_path)


def test_a_checkpoint_of_another_model_is_no_damaged_one(folder):
    other = nn.Module()
    other.backbone = nn.Linear(8, 64)
    with pytest.raises(CheckpointError, match="does not fit|belongs to another"):
        PluginCheckpointer(other, str(folder)).resume_or_load("", resume=True)


def test_candidates_are_newest_first_and_the_best_last(folder):
    for name in ("model_final.pth", "model_best.pth", "other.pth", ".model_0000009.pth.tmp", "model_0000010.pth"):
        (folder / name).touch()
    numbers = ["model_0000010.pth", "model_0000003.pth", "model_0000001.pth"]
    names = [path.name for path in resume_candidates(folder)]
    assert names == ["model_0000005.pth", "model_final.pth", *numbers, "model_best.pth"]


def test_leftovers_of_a_killed_save_are_removed_and_never_read(folder):
    (folder / ".model_0000007.pth.tmp").write_bytes((folder / "model_0000005.pth").read_bytes())
    assert resume(folder) == 5
    assert not list(folder.glob(".*"))


def test_the_pointer_never_names_the_best_model(folder):
    PluginCheckpointer(Network(), str(folder)).save("model_best", iteration=5)
    assert (folder / POINTER).read_text() == "model_0000005.pth" and resume(folder) == 5


def test_checksums_of_published_files_are_compared(folder, caplog):
    path = folder / "model_0000001.pth"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    PluginCheckpointer(Network()).load(f"{path}?sha256={digest[:12]}")
    for wrong in ("0" * 64, digest[:4]):
        with pytest.raises(CheckpointError, match=rf"model_0000001.pth .*SHA-256 {digest}, expected '{wrong}'"):
            PluginCheckpointer(Network()).load(f"{path}?sha256={wrong}")


def test_an_address_without_a_checksum_is_loaded_with_a_warning(folder, caplog):
    checkpointer = PluginCheckpointer(Network())
    path = folder / "model_0000001.pth"
    checkpointer.path_manager = types.SimpleNamespace(get_local_path=lambda url: str(path))
    checkpointer.load("https://example.com/model.pth")
    assert "loaded unchecked" in caplog.text
    caplog.clear()
    checkpointer.load(f"https://example.com/model.pth?sha256={hashlib.sha256(path.read_bytes()).hexdigest()}")
    assert "unchecked" not in caplog.text


class Run:
    """As much of a trainer as the hook needs; evaluates to the given figures, one an iteration."""

    def __init__(self, folder, figures, start: int = 0, state=None) -> None:
        self.start_iter, self.max_iter = start, start + len(figures)
        self.hook = BestCheckpointHook(PluginCheckpointer(Network(), str(folder)), ["panoptic_seg/PQ", "sem/mIoU"], 1)
        self.hook.trainer = self
        self.hook.load_state_dict(state or {})
        with EventStorage(start) as self.storage:
            self.hook.before_train()
            for iteration, figure in enumerate(figures, start):
                if figure is not None:
                    self.storage.put_scalar("panoptic_seg/PQ", figure)
                self.iter = iteration
                if iteration + 1 < self.max_iter:
                    self.hook.after_step()
            self.iter = self.max_iter  # as the loop leaves it at the end of a training
            self.hook.after_train()


def best(folder) -> dict:
    return load_checkpoint_file(folder / "model_best.pth")


def test_the_best_figure_survives_a_resume(tmp_path):
    run = Run(tmp_path, [50.0, 60.0, 40.0])
    assert best(tmp_path)["best"] == {"metric": "panoptic_seg/PQ", "value": 60.0, "iteration": 1}
    Run(tmp_path, [30.0], start=3, state=run.hook.state_dict())
    assert best(tmp_path)["iteration"] == 1
    Run(tmp_path, [61.0], start=4, state=run.hook.state_dict())
    assert best(tmp_path)["iteration"] == 4 and best(tmp_path)["best"]["value"] == 61.0


def test_a_best_model_that_is_newer_than_the_checkpoint_counts(tmp_path):
    Run(tmp_path, [50.0, 60.0])
    Run(tmp_path, [55.0], start=2, state={"metric": "panoptic_seg/PQ", "value": 50.0, "iteration": 0})
    assert best(tmp_path)["best"]["value"] == 60.0


def test_a_new_run_in_the_same_folder_starts_anew(tmp_path):
    Run(tmp_path, [60.0])
    Run(tmp_path, [40.0])
    assert best(tmp_path)["best"]["value"] == 40.0


@pytest.mark.parametrize("figure", [None, float("nan"), float("inf")])
def test_a_figure_that_is_none_saves_nothing(tmp_path, figure):
    Run(tmp_path, [figure])
    assert not (tmp_path / "model_best.pth").exists()
