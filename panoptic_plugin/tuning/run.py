"""A study of a real training from its config: split, journal, engine, method, and the files it leaves."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from panoptic_plugin.evaluation.fingerprint import config_sha256, now, software
from panoptic_plugin.files import replace_file
from panoptic_plugin.tuning.engine import Engine, LocalEngine, choose_engine
from panoptic_plugin.tuning.journal import FILE_NAME, Journal
from panoptic_plugin.tuning.objective import check_objective
from panoptic_plugin.tuning.space import read_space
from panoptic_plugin.tuning.split import make_split
from panoptic_plugin.tuning.study import Plan, tune
from panoptic_plugin.tuning.training import TrainingObjective
from panoptic_plugin.tuning.trial import Objective

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunOptions:
    """What no config key says.

    Attributes:
        engine: "auto", "local" or "ray".
        address: of a Ray cluster.
        cpus_per_trial, gpus_per_trial: for Ray.
        resume: go on with the study in the folder.
        search_anyway: also where the check finds no effect.
        space: entries in the place of TUNE.SPACE.
        command: the words of the command line, for the report.
    """

    engine: str = "auto"
    address: str | None = None
    cpus_per_trial: float = 1
    gpus_per_trial: float = 0
    resume: bool = False
    search_anyway: bool = False
    space: Sequence[Any] = ()
    command: Sequence[str] = ()


def tune_training(cfg: CfgNode, folder: Path, options: RunOptions) -> dict[str, Any]:
    """Run the study of a config and write ``tuning.json`` and ``tuned.yaml``.

    Args:
        cfg: of the baseline, with its datasets registered.
        folder: receives everything.
        options: how.

    Returns:
        The content of ``tuning.json``.

    Raises:
        ConfigError, DatasetError: what cannot be tuned, or on what.
    """
    folder = folder.resolve()
    check_objective(cfg.TUNE.OBJECTIVE)
    engine_name = choose_engine(options.engine, options.address)
    space = read_space(cfg, options.space)
    baseline = space.baseline(cfg)
    plan = make_plan(cfg, search_anyway=options.search_anyway)
    journal_path = folder / FILE_NAME
    split = make_split(cfg, folder / "split")
    about = {
        "space": space.described(), "objective": cfg.TUNE.OBJECTIVE, "plan": _of_study(asdict(plan)),
        "config_sha256": config_sha256(_untuned(cfg)), "initial_weights": cfg.MODEL.WEIGHTS,
        "split": split.manifest["fingerprints"], "engine": engine_name,
    }  # fmt: skip
    journal = Journal(journal_path, about, resume=options.resume)
    objective = TrainingObjective(cfg, space, folder)
    logger.info("Baseline: %s; engine: %s; trials write below %s", _text(baseline), engine_name, folder / "trials")
    with make_engine(engine_name, objective, journal, folder, options) as engine:
        found = tune(space, baseline, objective, engine, plan)
    override = folder / "tuned.yaml"
    study = {
        "schema_version": SCHEMA_VERSION, "kind": "training", **found, "baseline": baseline, **about,
        "plan": asdict(plan), "split": dict(split.manifest), "command": list(options.command),
        "versions": {**software(), **_versions(engine_name)}, "created": now(),
        "override": str(override), "keys": _pairs(space.overrides(cfg, found["values"])),
    }  # fmt: skip
    replace_file(folder / "tuning.json", json.dumps(study, indent=1) + "\n")
    write_override(override, study["keys"], f"{found['verdict']}: {found['reason']}")
    logger.info("%s: %s", found["verdict"], found["reason"])
    return study


def make_plan(cfg: CfgNode, *, search_anyway: bool = False) -> Plan:
    """The plan of TUNE.*; steps are iterations."""
    tuning = cfg.TUNE
    return Plan(
        trials=tuning.TRIALS,
        max_step=cfg.SOLVER.MAX_ITER,
        seeds=tuning.SEEDS,
        finalists=tuning.FINALISTS,
        grace=tuning.GRACE,
        reduction=tuning.REDUCTION,
        seed=tuning.SEED,
        search_anyway=search_anyway,
    )


@contextmanager
def make_engine(
    name: str, objective: Objective, journal: Journal, folder: Path, options: RunOptions
) -> Iterator[Engine]:
    """The engine of that name; Ray is left again afterwards."""
    if name == "local":
        yield LocalEngine(objective, journal)
        return
    from panoptic_plugin.tuning.ray_engine import RayEngine, RayResources

    resources = RayResources(options.address, options.cpus_per_trial, options.gpus_per_trial)
    with RayEngine(objective, journal, folder / "ray", resources) as engine:
        yield engine


def write_override(path: Path, keys: Mapping[str, Any], comment: str) -> None:
    """A YAML file with some keys, to be named after a config in ``_BASE_``."""
    content: dict[str, Any] = {}
    for dotted, value in keys.items():
        *parents, last = dotted.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    replace_file(path, f"# {comment}\n{yaml.safe_dump(content)}")


def _pairs(words: Sequence[Any]) -> dict[str, Any]:
    return {key: _rounded(value) for key, value in zip(words[::2], words[1::2], strict=True)}


def _rounded(value: Any) -> Any:
    """Numbers of six digits: what a training reads is what a person can read."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _of_study(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What of the plan must not change when a study is resumed; it may be made longer."""
    return {key: value for key, value in plan.items() if key not in ("trials", "finalists", "search_anyway")}


def _untuned(cfg: CfgNode) -> CfgNode:
    """The config without what may change when a study is resumed."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TUNE.TRIALS = cfg.TUNE.FINALISTS = 0
    return cfg


def _versions(engine: str) -> dict[str, str]:
    names = ["optuna", *(["ray"] if engine == "ray" else [])]
    return {name: version(name) for name in names if importlib.util.find_spec(name) is not None}


def _text(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
