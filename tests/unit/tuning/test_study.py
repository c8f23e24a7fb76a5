"""The whole method on made-up learning curves."""

from __future__ import annotations

import math

import pytest
from surrogate_objectives import BASELINE, SPACE, STEPS, Surrogate, flat, planted

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.tuning import proposals
from panoptic_plugin.tuning.engine import LocalEngine
from panoptic_plugin.tuning.halving import Halving
from panoptic_plugin.tuning.journal import Journal
from panoptic_plugin.tuning.study import BEATEN, KEPT, NO_EFFECT, Plan, tune


def run(objective, *, seed=0, trials=24, journal=None, **changes):
    plan = Plan(trials=trials, max_step=STEPS[-1], seed=seed, **changes)
    engine = LocalEngine(objective, journal or Journal(None, {}))
    return tune(SPACE, BASELINE, objective, engine, plan)


@pytest.mark.parametrize("with_optuna", [True, False])
def test_a_planted_optimum_is_found_within_a_factor_of_three(with_optuna, monkeypatch):
    if with_optuna:
        pytest.importorskip("optuna")
    else:
        monkeypatch.setattr(proposals.importlib.util, "find_spec", lambda name: None)
    found, again = run(Surrogate(planted)), run(Surrogate(planted))
    assert found["verdict"] == BEATEN
    assert 1 / 3 < found["values"]["center"] / 100 < 3
    assert 1 / 3 < found["values"]["offset"] / 0.02 < 3
    for study in (found, again):
        for one in [*study["search"], *(r for p in [*study["check"]["points"], *study["final"]] for r in p["records"])]:
            one.pop("seconds")
    assert found == again


def test_a_flat_surface_is_called_flat_in_95_of_100_studies():
    verdicts = [run(Surrogate(flat, study=number), trials=6)["verdict"] for number in range(40)]
    assert verdicts.count(NO_EFFECT) >= 38
    assert BEATEN not in verdicts


def test_searching_a_flat_surface_anyway_keeps_the_baseline():
    verdicts = [run(Surrogate(flat, study=number), trials=8, search_anyway=True)["verdict"] for number in range(20)]
    assert verdicts.count(NO_EFFECT) >= 19


def test_a_baseline_that_is_the_optimum_is_kept():
    found = run(Surrogate(lambda values: planted({"center": values["center"] / 2, "offset": 2 * values["offset"]})))
    assert found["verdict"] == KEPT and found["values"] == BASELINE
    assert found["check"]["detected"]


def leader(values, share):
    """Small centers lead early and stay behind in the end."""
    early = values["center"] < 150
    return min(1.0, 2.5 * share) if early else share**1.5 * (1.0 if share > 0.25 else 0.5)


def height(values):
    return 40.0 if values["center"] < 150 else 60 - 10 * math.log10(values["center"] / 600) ** 2


def test_the_grace_period_keeps_who_overtakes_the_early_leader():
    pytest.importorskip("optuna")
    found = run(Surrogate(height, curve=leader), grace=0.6)
    assert found["verdict"] == BEATEN and 200 < found["values"]["center"] < 1800


def test_deciding_early_would_have_stopped_who_overtakes():
    """The reason for the grace period: the same curves under a rule that decides at a twentieth of the training."""
    rule = Halving(100, 0.3)
    object.__setattr__(rule, "grace", 0.05)
    slow, fast = {"center": 600.0}, {"center": 50.0}
    decisions = {}
    for name, values in (("fast", fast), ("slow", slow)):
        decisions[name] = rule.goes_on(name, 20, height(values) * leader(values, 0.2))
    assert decisions == {"fast": True, "slow": False}
    patient = Halving(100, 0.8)
    at_80 = {name: height(v) * leader(v, 0.8) for name, v in (("fast", fast), ("slow", slow))}
    assert patient.goes_on("fast", 80, at_80["fast"]) and patient.goes_on("slow", 80, at_80["slow"])


def test_no_trial_is_stopped_within_the_grace_period_and_the_baseline_never():
    found = run(Surrogate(planted), grace=0.5)
    stopped = [one for one in found["search"] if one["status"] == "stopped"]
    assert stopped and all(one["curve"][-1][0] >= 50 for one in stopped)
    assert found["search"][0]["status"] == "done" and found["search"][0]["values"] == BASELINE


class Fragile(Surrogate):
    """Some values crash, some give NaN."""

    def run(self, request, report) -> None:
        if request.phase == "search" and request.values["center"] > 700:
            raise RuntimeError("loss is not finite\nin two lines")
        if request.phase == "search" and request.values["offset"] > 0.05:
            report(20, math.nan, {})
        super().run(request, report)


def test_the_search_goes_on_after_crashes_and_nan():
    found = run(Fragile(planted))
    failed = [one for one in found["search"] if one["status"] == "failed"]
    errors = {one["error"].split(":")[0] for one in failed}
    assert errors == {"RuntimeError", "NotFinite"}
    assert all("\n" not in one["error"] for one in failed)
    assert found["verdict"] == BEATEN and len(found["search"]) == 24


def test_a_baseline_that_fails_is_the_users_to_mend():
    class Broken(Surrogate):
        def run(self, request, report) -> None:
            raise RuntimeError("no such device")

    with pytest.raises(ConfigError, match="baseline itself.*no such device"):
        run(Broken(flat))


def test_points_that_cannot_be_trained_are_an_effect():
    class Corner(Surrogate):
        def run(self, request, report) -> None:
            if request.phase == "check" and request.values["center"] > 1999:
                raise FloatingPointError("loss")
            super().run(request, report)

    found = run(Corner(flat), trials=4)
    assert found["check"]["failed"] == ["center high, offset low", "center high, offset high"]
    assert found["check"]["detected"] and found["verdict"] == KEPT


def test_all_trials_of_a_phase_share_their_seeds_and_phases_share_none():
    found = run(Surrogate(planted))
    search = {one["seed"] for one in found["search"]}
    check = [[record["seed"] for record in point["records"]] for point in found["check"]["points"]]
    final = [[record["seed"] for record in point["records"]] for point in found["final"]]
    assert len(search) == 1 and len({tuple(one) for one in check}) == 1 and len({tuple(one) for one in final}) == 1
    assert not search & set(check[0]) and not set(check[0]) & set(final[0]) and not search & set(final[0])
    assert len(final[0]) == 3 and final[0] != check[0]


class Killed(BaseException):
    pass


def test_a_killed_study_goes_on_where_it_was(tmp_path):
    whole = run(Surrogate(planted))

    class Killing(Surrogate):
        def run(self, request, report) -> None:
            if len(self.calls) == 25:
                raise Killed
            super().run(request, report)

    first = Killing(planted)
    with pytest.raises(Killed):
        run(first, journal=Journal(tmp_path / "journal.jsonl", {"config": "a"}))
    with open(tmp_path / "journal.jsonl", "a", encoding="utf-8") as file:
        file.write('{"key": "search-0')  # killed while it wrote
    second = Surrogate(planted)
    resumed = run(second, journal=Journal(tmp_path / "journal.jsonl", {"config": "a"}, resume=True))
    assert not set(first.calls) & set(second.calls)
    assert resumed["values"] == whole["values"] and resumed["verdict"] == whole["verdict"]
    third = Surrogate(planted)
    run(third, journal=Journal(tmp_path / "journal.jsonl", {"config": "a"}, resume=True))
    assert third.calls == []


def test_what_failed_for_a_reason_outside_is_tried_again(tmp_path):
    class Full(Surrogate):
        def run(self, request, report) -> None:
            raise OSError("no space left on device")

    with pytest.raises(ConfigError, match="no space left"):
        run(Full(planted), journal=Journal(tmp_path / "journal.jsonl", {}))
    mended = run(Surrogate(planted), journal=Journal(tmp_path / "journal.jsonl", {}, resume=True))
    assert mended["verdict"] == BEATEN
    fragile = Fragile(planted)
    run(fragile, journal=Journal(tmp_path / "search.jsonl", {}))
    again = Fragile(planted)
    run(again, journal=Journal(tmp_path / "search.jsonl", {}, resume=True))
    assert again.calls == []  # a value that fails in the search is not tried twice


def test_a_journal_is_only_resumed_on_purpose_and_with_the_same_study(tmp_path):
    path = tmp_path / "journal.jsonl"
    run(Surrogate(flat), trials=4, journal=Journal(path, {"config": "a", "seed": 1}))
    with pytest.raises(ConfigError, match="--resume"):
        Journal(path, {"config": "a", "seed": 1})
    with pytest.raises(ConfigError, match="another study: config differ"):
        Journal(path, {"config": "b", "seed": 1}, resume=True)
    path.write_text("no journal\n")
    with pytest.raises(ConfigError, match="no journal"):
        Journal(path, {}, resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"seeds": 2}, "TUNE.SEEDS"), ({"trials": 1}, "TUNE.TRIALS"), ({"grace": 0.1}, "TUNE.GRACE"),
     ({"reduction": 1}, "TUNE.REDUCTION")],
)  # fmt: skip
def test_plans_that_cannot_decide_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        Plan(**{"trials": 4, "max_step": 100, **changes})
