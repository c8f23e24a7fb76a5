"""The disturbances of a soak: chosen by the seed, really damaging, and compared by all that a training's state is."""

from __future__ import annotations

import itertools

import pytest
import torch

from panoptic_plugin.engine.chaos import DAMAGES, damage_newest, digest, plan
from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.checkpoint_history import POINTER, newest_readable, read_pointer, resume_candidates
from panoptic_plugin.errors import CheckpointError


def first(number: int, **arguments):
    return list(
        itertools.islice(plan(**{"seed": 3, "processes": 1, "workers": 0, "max_saves": 5, **arguments}), number)
    )


def test_the_plan_is_a_function_of_the_seed():
    assert first(50) == first(50)
    assert first(50) != first(50, seed=4)


@pytest.mark.parametrize(
    ("processes", "workers", "ends"),
    [(1, 0, {"kill all", "terminate"}), (2, 1, {"kill all", "terminate", "kill one", "kill worker"})],
)
def test_the_plan_disturbs_what_there_is_in_every_way(processes, workers, ends):
    planned = first(300, processes=processes, workers=workers)
    assert {one.end for one in planned} == ends
    assert {one.damage for one in planned} == {"", *DAMAGES}
    assert {one.num_saves for one in planned} == set(range(6))


@pytest.fixture
def folder(tmp_path):
    model = torch.nn.Linear(8, 8)
    for iteration in (1, 3):
        PluginCheckpointer(model, str(tmp_path)).save(f"model_{iteration:07d}", iteration=iteration)
    return tmp_path


@pytest.mark.parametrize("kind", sorted(DAMAGES))
@pytest.mark.parametrize("seed", range(5))
def test_a_damage_is_one_and_leaves_a_good_checkpoint(kind, seed, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = damage_newest(folder, kind, seed)
    target = POINTER if "pointer" in kind else "model_0000003.pth"
    assert words.startswith(f"{target}: ")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in before if after.get(name) != before[name]} <= {target}
    path, content = newest_readable(resume_candidates(folder), load_checkpoint_file)
    assert content["iteration"] in ((3,) if "pointer" in kind else (1, 3))  # a bit between two parts hurts nobody


def test_the_last_good_checkpoint_is_left_alone(folder):
    (folder / "model_0000001.pth").write_bytes(b"")
    assert damage_newest(folder, "delete", 0) == ""
    assert read_pointer(folder) == "model_0000003.pth"
    assert damage_newest(folder, "empty pointer", 0) == "last_checkpoint: emptied"


def checkpoint(path, **changes):
    trainer = {"_trainer": {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}, "data": {"seed": 1}}
    trainer["hooks"] = {"LRScheduler": {"last_epoch": 3}}
    torch.save({"model": {"w": torch.arange(3.0)}, "trainer": trainer, "iteration": 3, **changes}, path)
    return digest(path)


def test_a_digest_sees_every_bit_of_the_state_and_nothing_else(tmp_path):
    same = checkpoint(tmp_path / "a.pth")
    assert same == checkpoint(tmp_path / "b.pth", note="made on Tuesday")
    weights = torch.arange(3.0)
    weights[1] = torch.nextafter(weights[1], torch.tensor(2.0))
    for change in ({"model": {"w": weights}}, {"iteration": 4}, {"ema": {"num_updates": 1}}):
        assert checkpoint(tmp_path / "c.pth", **change) != same
    torch.save({"model": {"w": weights}}, tmp_path / "d.pth")
    with pytest.raises(CheckpointError, match="no state of a training"):
        digest(tmp_path / "d.pth")
