"""Trials on Ray: one machine or a cluster, several at a time. Nothing of Ray is imported before an engine is made.

Proposals are Optuna's through Ray Tune's ``OptunaSearch``; early stopping is Ray's ``ASHAScheduler`` with the same
grace period and reduction as the local engine's. Several trials at a time finish in an order that no seed fixes, so a
search on more than one slot is not repeatable to the digit; its verdict does not rest on it, but on the finals.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.tuning.engine import Search, log_record
from panoptic_plugin.tuning.halving import Halving
from panoptic_plugin.tuning.journal import Journal
from panoptic_plugin.tuning.proposals import optuna_distributions
from panoptic_plugin.tuning.trial import DONE, FAILED, STOPPED, Objective, Record, Request, carry_out

logger = logging.getLogger(__name__)

# No reports about usage, no tables of progress between the lines of our log.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class RayResources:
    """Where trials run and what each needs.

    Attributes:
        address: of a cluster ("auto", "host:port"); None starts Ray on this machine.
        cpus, gpus: of a trial.
        num_cpus: of this machine, where Ray is started on it; None is all.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    num_cpus: int | None = None


class RayEngine:
    """See :class:`~panoptic_plugin.tuning.engine.Engine`; a context, within which Ray runs.

    Args:
        objective: pickled; on a cluster its folder must be on a disk that all machines share.
        journal: written by this process only.
        storage: folder of Ray Tune's own files.
        resources: see :class:`RayResources`.
    """

    name = "ray"

    def __init__(self, objective: Objective, journal: Journal, storage: Path, resources: RayResources) -> None:
        self._objective, self._journal = objective, journal
        self._storage, self._resources = storage, resources
        self._temporary: str | None = None

    def __enter__(self) -> RayEngine:
        os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
        import ray

        if self._resources.address:
            try:
                ray.init(address=self._resources.address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError) as error:
                raise ConfigError(
                    f"no Ray cluster answers at --address {self._resources.address} ({error}); start one with "
                    "ray start --head, or leave out --address"
                ) from None
            return self
        # A short path: Ray puts sockets below it, whose names may have some 100 characters only.
        self._temporary = tempfile.mkdtemp(prefix="ray", dir=_short_folder())
        ray.init(
            num_cpus=self._resources.num_cpus,
            include_dashboard=False,
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=self._temporary,
            _node_ip_address="127.0.0.1",
        )
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def run_all(self, requests: Sequence[Request]) -> list[Record]:
        import ray

        needs = self._resources
        remote = ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0)(carry_out)
        missing = [request for request in requests if request.key not in self._journal.records]
        objective = ray.put(self._objective)
        running = {remote.remote(objective, request): request for request in missing}
        while running:
            finished, _ = ray.wait(list(running), num_returns=1)
            request = running.pop(finished[0])
            try:
                record = ray.get(finished[0])
            except ray.exceptions.RayError as error:  # the worker process is gone
                record = failed(request, error)
            self._add(record)
        return [self._journal.records[request.key] for request in requests]

    def search(self, search: Search, rule: Halving) -> list[Record]:
        known = self._known(search)
        first = self.run_all([search.request(0, search.baseline)])  # to its end, whatever the scheduler would say
        if len(known) + 1 < search.num_trials and first[0].score is not None:
            self._run_tune(search, rule, [first[0], *known], search.num_trials - 1 - len(known))
        return [*first, *self._known(search)][: search.num_trials]

    def _known(self, search: Search) -> list[Record]:
        """Records of this search but its baseline's, by number."""
        baseline = search.request(0, search.baseline).key
        found = [one for one in self._journal.records.values() if one.phase == "search" and one.key != baseline]
        return sorted(found, key=lambda record: record.key)

    def _run_tune(self, search: Search, rule: Halving, known: Sequence[Record], num_new: int) -> None:
        import optuna
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        told = [record for record in known if record.curve]
        algorithm = OptunaSearch(
            space=optuna_distributions(search.space),
            metric="score",
            mode="max",
            seed=search.seed + len(known),  # a resumed search must not propose again what it proposed first
            points_to_evaluate=[record.values for record in told],
            evaluated_rewards=[record.curve[-1][1] for record in told],
        )
        scheduler = ASHAScheduler(
            time_attr="step",
            max_t=rule.max_step,
            grace_period=rule.first_step,
            reduction_factor=rule.reduction,
            metric="score",
            mode="max",
        )
        objective, seed = self._objective, search.trial_seed

        def trainable(values: Mapping[str, float]) -> None:
            key = tune.get_context().get_trial_name()

            def report(step: int, score: float, figures: Mapping[str, float]) -> None:
                tune.report({"step": step, "score": score, "figures": dict(figures)})

            run_and_report(objective, Request(key, "search", dict(values), seed), report)

        first = 1 + max(int(record.key.rpartition("-")[2]) for record in known)
        recorder = make_recorder(self._add, search, rule.max_step)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": self._resources.cpus, "gpu": self._resources.gpus}),
            tune_config=tune.TuneConfig(
                search_alg=algorithm,
                scheduler=scheduler,
                num_samples=num_new,
                trial_name_creator=make_names(search, first),
            ),
            run_config=tune.RunConfig(
                name=f"search-from-{first}",
                storage_path=str(self._storage.resolve()),
                callbacks=[recorder],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        tuner.fit()

    def _add(self, record: Record) -> None:
        self._journal.add(record)
        log_record(record)


def run_and_report(objective: Objective, request: Request, report: Any) -> None:
    """A trial within Ray Tune: each evaluation is reported, a failure is raised with its words.

    Raises:
        RuntimeError: the trial failed.
    """

    def watch(record: Record) -> bool:
        step, score = record.curve[-1]
        report(step, score, record.figures)
        return True

    record = carry_out(objective, request, watch)
    if record.status == FAILED:
        raise RuntimeError(record.error)


def failed(request: Request, error: BaseException) -> Record:
    """The record of a trial whose process is gone."""
    text = " ".join(str(error).split())[:500]
    return Record(request.key, request.phase, dict(request.values), request.seed, FAILED, error=text)


def make_names(search: Search, first: int) -> Any:
    """A function that names Ray's trials as ours, in the order in which they are made.

    Args:
        search: what the trials are of.
        first: number of the first trial.
    """
    numbers: dict[str, int] = {}

    def name(trial: Any) -> str:
        return search.request(numbers.setdefault(trial.trial_id, first + len(numbers)), {}).key

    return name


def make_recorder(add: Any, search: Search, last_step: int) -> Any:
    """A callback of Ray Tune that turns its trials into records, in this process.

    Args:
        add: is given each record when its trial has ended.
        search: what the trials are of.
        last_step: of a whole training.
    """
    from ray.tune import Callback

    class Recorder(Callback):
        def __init__(self) -> None:
            self._records: dict[str, Record] = {}

        def _record(self, trial: Any) -> Record:
            key = str(trial)  # its name
            return self._records.setdefault(key, Record(key, "search", dict(trial.config), search.trial_seed))

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            record = self._record(trial)
            record.curve.append((int(result["step"]), float(result["score"])))
            record.figures = dict(result.get("figures") or {})
            record.seconds = round(float(result.get("time_total_s", 0.0)), 3)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            record = self._record(trial)
            ended = bool(record.curve) and record.curve[-1][0] >= last_step
            record.status = DONE if ended else STOPPED
            add(record)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            record = self._record(trial)
            record.status = FAILED
            record.error = _cause(trial)
            add(record)

    return Recorder()


def _cause(trial: Any) -> str:
    """The last line of a trial's error file that says something."""
    try:
        lines = Path(trial.error_file).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except (OSError, TypeError):
        return "the trial ended without a word"
    return lines[-1][:500] if lines else "the trial ended without a word"


def _short_folder() -> str:
    """A folder for temporary files with a short path."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 30 else "/tmp"
