"""A tiny training whose rate goes by its evaluations: it ends early, resumes exactly, and two processes agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import write_config

from panoptic_plugin.cli.train import main

pytestmark = pytest.mark.slow

PERIOD, EARLY_STOP, MAX_ITER = 2, 2, 60
RATES = [1e-3, 1e-4]


@pytest.fixture(scope="module")
def config(scenes, tmp_path_factory) -> Path:
    """Evaluates where it saves. The rate drops at the first evaluation that is not better, the second in a row ends."""
    return write_config(
        tmp_path_factory.mktemp("config"),
        SOLVER__LR_SCHEDULER_NAME="WarmupPlateau",
        SOLVER__BASE_LR=RATES[0],
        SOLVER__WARMUP_ITERS=1,
        SOLVER__MAX_ITER=MAX_ITER,
        SOLVER__CHECKPOINT_PERIOD=PERIOD,
        SOLVER__PLATEAU={"METRIC": "sem_seg/mIoU", "PATIENCE": 0, "EARLY_STOP": EARLY_STOP, "MIN_LR": RATES[1]},
        TEST__EVAL_PERIOD=PERIOD,
        TEST__SAVE_PREDICTIONS=False,
    )


def run(config: Path, out: Path, *words: str) -> None:
    assert main(["--config-file", str(config), "--num-gpus", "0", *words, "OUTPUT_DIR", str(out)]) == 0


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run(config, out)
    return out


def evaluations(out: Path, log: str = "log.txt") -> list[tuple[int, float]]:
    """(iterations that were done, mIoU) of each."""
    found = re.findall(r"sem_seg/mIoU is ([\d.]+) after iteration (\d+)", (out / log).read_text())
    return [(int(iteration) + 1, float(figure)) for figure, iteration in found]


def final(out: Path) -> dict:
    return torch.load(out / "model_final.pth", weights_only=True)


def assert_same_end(first: dict, second: dict) -> None:
    assert first["iteration"] == second["iteration"]
    for part in (lambda end: end["model"], lambda end: end["trainer"]["_trainer"]["optimizer"]["state"]):
        assert_equal(part(first), part(second))
    assert first["trainer"]["hooks"] == second["trainer"]["hooks"]


def assert_equal(first, second) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    else:
        assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))


def test_ends_in_good_order_where_nothing_improves(trained):
    found = evaluations(trained)
    last, figures = found[-1][0], [figure for _, figure in found]
    assert last < MAX_ITER, "choose another seed: each evaluation was better than the one before"
    assert [done for done, _ in found] == list(range(PERIOD, last + 1, PERIOD))
    assert max(figures) == figures[-1 - EARLY_STOP]
    end = final(trained)
    assert end["iteration"] == last - 1
    schedule = end["trainer"]["hooks"]["LRScheduler"]
    assert schedule["last_epoch"] == last and schedule["since_best"] == EARLY_STOP
    assert schedule["best"] == pytest.approx(max(figures), abs=1e-4)
    assert set(schedule["rates"]) == {RATES[1]}
    assert (trained / "last_checkpoint").read_text() == "model_final.pth"
    log = (trained / "log.txt").read_text()
    assert "learning rate is lowered from 0.001 to 0.0001" in log and "Training is done" in log
    assert f"the training ends after iteration {last - 1}" in log
    assert log.count("Results written") == len(found)  # none is made twice


def test_resumed_after_its_end_it_trains_no_further(config, trained, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    before = (out / "model_final.pth").stat()
    run(config, out, "--resume")
    after = (out / "model_final.pth").stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    assert sorted(path.name for path in out.glob("*.pth")) == sorted(path.name for path in trained.glob("*.pth"))
    assert (out / "log.txt").read_text().count("Training is done") == 2


@pytest.mark.parametrize("evaluations_to_make", [1, 3])
def test_resumed_in_the_middle_it_ends_the_same(config, trained, tmp_path, evaluations_to_make):
    """From a checkpoint that was written before the evaluation that ended the training; or before that of the best."""
    there = evaluations(trained)[-evaluations_to_make:]
    name = f"model_{there[0][0] - 1:07d}.pth"
    shutil.copy(trained / name, tmp_path / name)
    (tmp_path / "last_checkpoint").write_text(name)
    run(config, tmp_path, "--resume")
    assert_same_end(final(trained), final(tmp_path))
    assert evaluations(tmp_path) == there
    assert (tmp_path / "log.txt").read_text().count("Results written") == len(there)


def test_two_processes_end_together(config, tmp_path, repository):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    scripts = [str(Path(__file__).with_name("two_process_job.py")), str(repository / "train_panoptic_deeplab.py")]
    words = ["--config-file", str(config), "--num-gpus", "0", "OUTPUT_DIR", str(tmp_path)]
    words += ["SOLVER.PLATEAU.EARLY_STOP", "1"]
    done = subprocess.run([sys.executable, *torchrun, *scripts, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    digests = [path.read_text() for path in tmp_path.glob("weights.*.sha1")]
    assert len(digests) == 2 and len(set(digests)) == 1
    found = [evaluations(tmp_path, path.name) for path in tmp_path.glob("log.txt*")]
    assert len(found) == 2 and found[0] == found[1]
    last = found[0][-1][0]
    assert last < MAX_ITER and final(tmp_path)["iteration"] == last - 1
