"""A study on Ray with made-up curves, and the same resumed, in a process of its own: ``python ray_job.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from surrogate_objectives import BASELINE, SPACE, STEPS, Surrogate, planted

from panoptic_plugin.tuning.engine import choose_engine
from panoptic_plugin.tuning.journal import Journal
from panoptic_plugin.tuning.ray_engine import RayEngine, RayResources
from panoptic_plugin.tuning.study import Plan, tune


class Fragile(Surrogate):
    """Crashes at some values, in the search only."""

    def run(self, request, report) -> None:
        if request.phase == "search" and request.values["center"] < 30:
            raise RuntimeError("too small")
        super().run(request, report)


def main(folder: Path) -> None:
    results = []
    for resume in (False, True):
        objective = Fragile(planted)
        journal = Journal(folder / "journal.jsonl", {"study": 1}, resume=resume)
        known = sorted(journal.records)
        plan = Plan(trials=3, max_step=STEPS[-1], finalists=1)
        assert choose_engine("auto", None) == "ray"
        with RayEngine(objective, journal, folder / "ray", RayResources(cpus=1, num_cpus=1)) as engine:
            results.append({"study": tune(SPACE, BASELINE, objective, engine, plan), "known": known})
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
