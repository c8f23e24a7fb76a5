"""A short soak: killed, terminated and damaged, and nothing lost."""

from __future__ import annotations

import json

import pytest

from panoptic_plugin.cli import chaos
from panoptic_plugin.cli.chaos import main
from panoptic_plugin.engine.chaos import Disturbance

pytestmark = pytest.mark.slow

DISTURBANCES = [
    Disturbance("kill all", num_saves=3, delay=0.3, damage="truncate", seed=1),
    Disturbance("terminate", num_saves=2, delay=0.7, damage="empty pointer", seed=1),
]


def test_a_disturbed_training_ends_as_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos, "plan", lambda *_, **__: iter(DISTURBANCES + [None] * 9))
    words = ["--minutes", "0.25", "--processes", "1", "--workers", "0", "--iterations", "20", "--seed", "5"]
    code = main([*words, "--output", str(tmp_path / "soak")])
    report = json.loads((tmp_path / "soak" / "report.json").read_text())
    assert code == 0 and report["equal"], report["fault"]
    assert set(report["digests"]) == {report["digest_undisturbed"]}
    assert (tmp_path / "soak" / "chaos.png").read_bytes().startswith(b"\x89PNG")
    assert report["disturbances"]["kill all"] == 1
