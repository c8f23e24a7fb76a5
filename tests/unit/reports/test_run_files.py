"""What is read from a run's folder, whole or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import LOG, write_dataset, write_run

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.reports.run_files import flatten, read_run, read_runs, short_names
from panoptic_plugin.reports.run_log import log_facts, read_log
from panoptic_plugin.reports.run_tables import config_rows, inference_time


@pytest.fixture
def run_folder(tmp_path):
    write_dataset(tmp_path / "set")
    return write_run(tmp_path / "one", tmp_path / "set", "report_files_set")


def test_a_whole_run(run_folder):
    run = read_run(run_folder, "one")
    assert run.problems == []
    assert run.scalars["total_loss"][0] == (19, 0.25) and len(run.scalars["panoptic_seg/PQ"]) == 2
    assert run.config["SOLVER.BASE_LR"] == 0.01 and run.dataset == "report_files_set"
    assert run.results["results"]["panoptic_seg"]["SQ"] == 80.0


def test_a_crash_while_writing(run_folder):
    file = run_folder / "metrics.json"
    file.write_text(file.read_text() + '{"iteration": 119, "total_lo')
    run = read_run(run_folder, "one")
    assert len(run.scalars["total_loss"]) == 5
    assert any("1 line that cannot be read" in text for text in run.problems)


def test_a_resumed_training_replaces_iterations(run_folder):
    file = run_folder / "metrics.json"
    file.write_text(file.read_text() + '{"iteration": 39, "total_loss": 7.0, "note": "x", "bad": NaN}\n')
    run = read_run(run_folder, "one")
    assert run.scalars["total_loss"][1] == (39, 7.0) and len(run.scalars["total_loss"]) == 5
    assert "note" not in run.scalars and "bad" not in run.scalars


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("config.yaml", "a: [", "config.yaml cannot be read"),
        ("config.yaml", None, "config.yaml is not there"),
        ("log.txt", None, "log.txt is not there"),
        ("metrics.json", None, "nothing was trained"),
        ("metrics.json", "", "holds no values yet"),
        ("inference/metrics.json", None, "There is no evaluation yet"),
        ("inference/metrics.json", '{"resul', "inference/metrics.json cannot be read"),
        ("inference/metrics.json", "[]", "holds a list"),
        ("benchmark.json", "{", "benchmark.json cannot be read"),
    ],
)
def test_what_is_missing_is_said(run_folder, name, content, message):
    (run_folder / name).unlink(missing_ok=True)
    if content is not None:
        (run_folder / name).write_text(content)
    assert any(message in text for text in read_run(run_folder, "one").problems)


def test_several_datasets(run_folder):
    for name in ("first", "second"):
        (run_folder / "inference" / name).mkdir()
        (run_folder / "inference" / "metrics.json").rename(run_folder / "inference" / name / "metrics.json")
        (run_folder / "inference" / "metrics.json").write_text('{"dataset": "x"}')
    (run_folder / "inference" / "metrics.json").unlink()
    config = run_folder / "config.yaml"
    config.write_text(config.read_text().replace("TEST:\n  - report_files_set", "TEST: [first, second]"))
    run = read_run(run_folder, "one")
    assert run.results_folder.name == "first" and "--dataset: second" in " ".join(run.problems)
    assert read_run(run_folder, "one", "second").results_folder.name == "second"


def test_no_run(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        read_runs([tmp_path / "nothing"])
    with pytest.raises(DatasetError, match="holds none of"):
        read_runs([tmp_path])


def test_names():
    assert short_names([Path("/a/b"), Path("/a/c")]) == ["b", "c"]
    assert short_names([Path("/a/run"), Path("/b/run")]) == ["a/run", "b/run"]
    assert short_names([Path("/a/output")]) == ["a/output"]
    assert short_names([Path("/a/b"), Path("/a/b")]) == ["a/b (1)", "a/b (2)"]


def test_the_log(tmp_path):
    facts = log_facts(LOG.splitlines())
    assert facts.environment == [("Python", "3.11.7"), ("torch", "2.11.0+cu130"), ("CPU threads", "2")]
    assert facts.command == "panoptic train --config-file tiny.yaml"
    assert facts.evaluation == {"data": 0.0044, "inference": 0.1905, "evaluation": 0.0123}
    assert (facts.training_time, facts.seconds_per_iteration, facts.interrupted) == ("0:11:43", 1.1726, False)
    assert facts.warnings == ["a <warning>"]
    assert log_facts(LOG.splitlines()[:7]).interrupted
    assert read_log(tmp_path / "none").environment == []


def test_time_by_stage(run_folder):
    run = read_run(run_folder, "one")
    assert inference_time(run) == pytest.approx({"data": 4.4, "network and post-processing": 190.5, "evaluation": 12.3})
    run.benchmark = {"network_ms_mean": 80.0, "postprocessing_ms_mean": 9.0}
    run.results["timing"] = {"scoring_seconds": 0.4, "saving_seconds": None}
    assert inference_time(run) == pytest.approx(
        {"data": 4.4, "network": 80.0, "post-processing": 9.0, "evaluation": 100.0}
    )
    run.log.evaluation = {}
    run.benchmark, run.results["timing"] = {}, None
    assert inference_time(run) == {}


def test_settings(run_folder, tmp_path):
    runs = [read_run(run_folder, "one"), read_run(run_folder, "two")]
    runs[1].config = {**runs[1].config, "SOLVER.BASE_LR": 0.1}
    differing, shared = config_rows(runs, {**runs[0].config, "SOLVER.IMS_PER_BATCH": 16})
    assert differing == [("SOLVER.BASE_LR", ["0.01", "0.1"])]
    assert shared == [("SOLVER.IMS_PER_BATCH", ["2"])]
    assert flatten({"A": {"B": (1, 2), "C": {}}}) == {"A.B": [1, 2], "A.C": {}}
