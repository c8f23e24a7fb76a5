"""A short soak: killed, terminated and damaged, and nothing lost."""

from __future__ import annotations

import json
import logging
import time

import pytest

from panoptic_plugin.cli import chaos
from panoptic_plugin.cli.chaos import main
from panoptic_plugin.engine.chaos import Disturbance

pytestmark = pytest.mark.slow

DISTURBANCES = [
    Disturbance("kill all", num_saves=3, delay=0.3, damage="truncate", seed=1),
    Disturbance("terminate", num_saves=2, delay=0.7, damage="empty pointer", seed=1),
]


@pytest.fixture
def soak(tmp_path, monkeypatch):
    def run(*words: str) -> tuple[int, dict]:
        monkeypatch.setattr(logging.getLogger("panoptic_plugin"), "level", logging.INFO)  # the soak changes it
        monkeypatch.setattr(chaos, "plan", lambda *_, **__: iter(DISTURBANCES + [None] * 9))
        words = ("--minutes", "0.01", "--processes", "1", "--workers", "0", "--seed", "5", *words)
        code = main([*words, "--output", str(tmp_path / "soak")])
        return code, json.loads((tmp_path / "soak" / "report.json").read_text())

    return run


def test_a_disturbed_training_ends_as_an_undisturbed_one(soak, tmp_path, monkeypatch):
    disturbed = chaos.Soak.disturbed
    # However slow the machine is, both disturbances happen, and then one training is enough.
    monkeypatch.setattr(chaos.Soak, "disturbed", lambda self, plan, deadline: disturbed(self, plan, deadline + 600))
    code, report = soak("--iterations", "20")
    assert code == 0 and report["equal"], report["fault"]
    assert report["digests"] == [report["digest_undisturbed"]]
    assert report["counts"] == {"trainings": 1, "kills": 1, "sigterms": 1, "damages": 2, "resumes": 2, "equal": 1}
    assert (tmp_path / "soak" / "chaos.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "soak").rglob("*.pth"))) == 2  # the two ends


def test_another_end_is_found(soak, monkeypatch):
    """What the soak would say of a training that a resume has changed."""

    def disturbed(self, plan, deadline):
        time.sleep(max(0.0, deadline - time.monotonic()))
        return "another"

    monkeypatch.setattr(chaos.Soak, "undisturbed", lambda self: "the undisturbed one's")
    monkeypatch.setattr(chaos.Soak, "disturbed", disturbed)
    code, report = soak("--iterations", "20")
    assert code == 1 and not report["equal"]
    assert "0 of 1 ended with exactly" in report["summary"]
