"""The command: mistakes are one line; the page holds what the study found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from shape_scenes import write_shapes_config
from surrogate_objectives import BASELINE, SPACE, STEPS, Surrogate, counts_of, flat, planted

from panoptic_plugin.cli import main as cli
from panoptic_plugin.cli.tune import main
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.reports.tuning_page import write_page
from panoptic_plugin.tuning import engine as engines
from panoptic_plugin.tuning.engine import LocalEngine, choose_engine
from panoptic_plugin.tuning.journal import Journal
from panoptic_plugin.tuning.postprocessing import choose_setting
from panoptic_plugin.tuning.study import Plan, tune


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_shapes_config(tmp_path_factory.mktemp("cli"), "tune_cli", count=4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--objective", "total_loss"], "TUNE.OBJECTIVE is 'total_loss': a loss cannot tell"),
        (["--objective", "AP"], "TUNE.OBJECTIVE"),
        (["--grace", "0.05"], "TUNE.GRACE is 0.05"),
        (["--seeds", "1"], "TUNE.SEEDS is 1"),
        (["--parameters", "centr"], "center"),
        (["--tuning-cities", "nowhere"], "nowhere"),
        (["--engine", "local", "--address", "auto"], "--address"),
        (["--space", "missing.yaml"], "--space missing.yaml"),
        (["--postprocessing"], "--weights"),
        (["DATASETS.TRAIN", "('tune_cli_val',)", "DATASETS.TEST", "()"], "results are reported on"),
        (["TUNE.TRIALS", "2", "--seed", "3"], "put all options before"),
        (["TUNE.TRAILS", "2"], "TUNE.TRIALS"),
    ],
)
def test_mistakes_are_told_in_one_line(words, told, config, tmp_path, capsys):
    first = [] if "--engine" in words else ["--engine", "local"]
    assert main(["--cfg", str(config), "--output", str(tmp_path), *first, *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ") and told in error[-1]
    assert not list(tmp_path.glob("trials/*"))


def test_the_command_is_known_and_explains_itself(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["tune", "--help"])
    assert ended.value.code == 0
    assert "--cfg" in capsys.readouterr().out


def test_the_engine_is_ray_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert choose_engine("auto", None) == "local" == choose_engine("local", None)
    for asked, address in (("ray", None), ("auto", "auto")):
        with pytest.raises(ConfigError, match=r"pip install 'panoptic-plugin\[tune\]'"):
            choose_engine(asked, address)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    assert choose_engine("auto", None) == "ray" == choose_engine("auto", "host:1")


def finished(found, **more):
    """What a study's JSON holds beside what the method found."""
    split = {
        "source": "a_train", "groups": ["x"], "of_groups": 3, "image_ids": {"tuning_fit": [1, 2], "tuning_score": [3]},
        "fingerprints": {"tuning_fit": "1f", "tuning_score": "2f"}, "held_out": {"a_val": {"fingerprint": "3f"}},
    }  # fmt: skip
    study = {"kind": "training", "objective": "PQ", "created": "now", "split": split, "baseline": BASELINE,
             "versions": {"torch": "2"}, "command": ["panoptic", "tune"], "config_sha256": "ab", "engine": "local",
             "keys": {"MODEL.X": 2.0}, "space": SPACE.described(), "plan": {"seed": 0, "grace": 0.3}}  # fmt: skip
    return json.loads(json.dumps({**study, **found, **more}))


class OneCrash(Surrogate):
    def run(self, request, report) -> None:
        if request.key == "search-003":
            raise RuntimeError("<out of memory>")
        super().run(request, report)


@pytest.mark.parametrize("height", [planted, flat])
def test_the_page_tells_the_whole_study(height, tmp_path):
    objective = OneCrash(height)
    found = tune(SPACE, BASELINE, objective, LocalEngine(objective, Journal(None, {})), Plan(8, STEPS[-1]))
    page = write_page(finished(found), tmp_path / "report.html").read_text()
    assert f"Verdict: {found['verdict']}" in page and "2f" in page and "3f" in page
    assert "http" not in page.replace("http://www.w3.org", "") and "<script src" not in page
    if height is planted:
        assert "&lt;out of memory&gt;" in page and "Response to center" in page and "Finalists less baseline" in page
    else:
        assert "Response to center" not in page and "No effect can be detected" in page


def test_the_page_of_post_processing_tells_what_was_tried(tmp_path):
    key = "MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD"
    settings = [{key: float(number)} for number in range(12)]
    found = choose_setting(counts_of(np.random.default_rng(0), 12, 3), settings, settings[0])
    more = {"grid": {key: [one[key] for one in settings]}, "baseline": settings[0], "keys": found["values"]}
    study = finished(found, kind="postprocessing", network={"checkpoint": None, "config": "ab"}, **more)
    page = write_page(study, tmp_path / "postprocessing.html").read_text()
    assert "Grid: 12 settings" in page and "Response to CENTER_THRESHOLD" in page and "Held-out gain" in page


def test_a_page_that_cannot_be_written_says_so(tmp_path):
    found = {"verdict": "baseline kept", "reason": "r", "values": BASELINE, "search": [], "final": None,
             "check": {"points": [{"name": "baseline", "values": BASELINE, "scores": [1.0], "records": [{"seed": 1}]}],
                       "spread": None, "failed": [], "detected": True}}  # fmt: skip
    with pytest.raises(ValueError, match="cannot be written"):
        write_page(finished(found), tmp_path / "no" / "folder.html")
