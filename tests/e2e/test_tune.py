"""Tuning as a user runs it: on scenes, killed and resumed, on Ray; and an effect that is real."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from shape_scenes import write_shapes_config

from panoptic_plugin.cli.tune import main
from panoptic_plugin.config import load_config
from panoptic_plugin.data.catalog import register_custom_datasets
from panoptic_plugin.tuning.journal import FILE_NAME
from panoptic_plugin.tuning.space import read_space
from panoptic_plugin.tuning.split import make_split
from panoptic_plugin.tuning.training import TrainingObjective
from panoptic_plugin.tuning.trial import Request, carry_out

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def keys_of(journal: Path) -> list[str]:
    lines = journal.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["key"] for line in lines[1:] if line.endswith("}")]


def wait_for(journal: Path, number: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 240
    while not journal.exists() or len(keys_of(journal)) < number:
        assert process.poll() is None, "the study ended by itself"
        assert time.monotonic() < end, "the study does not get on"
        time.sleep(0.05)


def test_a_killed_study_is_resumed_to_its_end(tmp_path, repository):
    config = write_shapes_config(tmp_path, "killed", count=8, iterations=2)
    out = tmp_path / "out"
    words = ["--cfg", str(config), "--output", str(out), "--engine", "local", "--parameters", "center", "--trials", "2",
             "--finalists", "1", "--evaluations", "1", "--search-anyway"]  # fmt: skip
    script = repository / "tools" / "tune_params.py"
    process = subprocess.Popen([sys.executable, str(script), *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for(out / FILE_NAME, 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = keys_of(out / FILE_NAME)
    times = {key: (out / "trials" / key / "log.txt").stat().st_mtime_ns for key in before}
    assert main(words) == 2  # a study is there, and nobody said to go on with it
    assert main([*words, "--resume"]) == 0
    after = keys_of(out / FILE_NAME)
    assert after[: len(before)] == before and len(after) == len(set(after)) == 9 + 2 + 6
    assert times == {key: (out / "trials" / key / "log.txt").stat().st_mtime_ns for key in before}
    study = json.loads((out / "tuning.json").read_text())
    assert [one["name"] for one in study["final"]] == ["baseline", "search-001"]
    weights = sorted(path.parent.name for path in out.glob("trials/*/*.pth"))
    assert len(weights) == 6 and all(name.startswith("final-") for name in weights)
    trial = yaml.safe_load((out / "trials" / "search-001" / "config.yaml").read_text())
    assert trial["MODEL"]["INS_EMBED_HEAD"]["CENTER_LOSS_WEIGHT"] == study["search"][1]["values"]["center"]
    assert trial["SOLVER"]["MAX_ITER"] == 2 and trial["DATASETS"]["TEST"] == ["killed_train_tuning_score"]
    page = (out / "report.html").read_text()
    assert study["verdict"] in page and "search-001" in page and "http" not in page.replace("http://www.w3.org", "")
    both = tmp_path / "both.yaml"
    both.write_text(yaml.safe_dump({"_BASE_": [str(config), str(out / "tuned.yaml")], "VERSION": 2}))
    expected = study["keys"]["MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT"]
    assert expected == load_config(both).MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT
    weights_file = next(out.glob("trials/final-baseline-*/model_final.pth"))
    tuned = [*words[:4], "--postprocessing", "--weights", str(weights_file)]
    assert main(tuned) == 0
    grid = json.loads((out / "postprocessing.json").read_text())
    assert grid["num_settings"] > 50 and (out / "postprocessing.html").is_file()


def test_without_a_center_loss_things_are_lost(tmp_path):
    """A real effect, though the network is tiny: no things without centers, a PQ of 65 with them."""
    config = write_shapes_config(tmp_path, "real", squares=False, TUNE={"EVALUATIONS": 1})
    cfg = load_config(config)
    register_custom_datasets(cfg)
    make_split(cfg, tmp_path / "split")
    objective = TrainingObjective(cfg, read_space(cfg), tmp_path)
    things = {}
    for center in (200.0, 0.0):
        record = carry_out(objective, Request(f"center-{center:g}", "check", {"center": center, "offset": 0.1}, 0))
        assert record.status == "done", record.error
        things[center] = record.figures["PQ things"]
    assert things[200.0] - things[0.0] > 5


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_study_runs_on_ray_and_is_resumed(tmp_path, repository):
    job = [sys.executable, str(Path(__file__).with_name("ray_job.py")), str(tmp_path)]
    paths = f"{repository / 'tests'}{os.pathsep}{repository}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(job, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail("the study on Ray does not end")
    assert process.returncode == 0, errors.decode()[-3000:]
    first, resumed = json.loads((tmp_path / "results.json").read_text())
    search = first["study"]["search"]
    assert [one["key"] for one in search] == ["search-000", "search-001", "search-002"]
    assert search[0]["status"] == "done" and search[0]["values"] == {"center": 200, "offset": 0.01}
    failed = [one for one in search if one["status"] == "failed"]
    assert all(one["values"]["center"] < 30 and "too small" in one["error"] for one in failed) and failed
    assert all(one["curve"][-1][0] >= 40 for one in search if one["status"] == "stopped")
    assert resumed["study"] == first["study"] and len(resumed["known"]) == 15 + 3 + 6
