"""What a training or evaluation left in its folder, read so that nothing that is missing or cut off stops a report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from panoptic_plugin.errors import DatasetError, one_line
from panoptic_plugin.reports.run_log import LogFacts, read_log

CONFIG, LOG, SCALARS, BENCHMARK = "config.yaml", "log.txt", "metrics.json", "benchmark.json"


@dataclass
class Run:
    """One OUTPUT_DIR.

    Attributes:
        name: short and unique among the runs of a report.
        folder: OUTPUT_DIR.
        config: dotted key -> value; empty where there is none.
        scalars: name -> [(iteration, value), ...] of the training, by rising iteration.
        results: content of the evaluation's ``metrics.json``, {} where there is none.
        results_folder: where that file is, or would be.
        benchmark: content of ``benchmark.json``, {} where there is none.
        log: what the log says.
        problems: sentences about what is missing, with the remedy.
    """

    name: str
    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    results_folder: Path = Path()
    benchmark: dict[str, Any] = field(default_factory=dict)
    log: LogFacts = field(default_factory=LogFacts)
    problems: list[str] = field(default_factory=list)

    @property
    def dataset(self) -> str | None:
        """Name of the dataset that was evaluated, or would be."""
        named = self.config.get("DATASETS.TEST") or []
        return self.results.get("dataset") or (named[0] if named else None)


def read_runs(folders: Sequence[str | Path], dataset: str | None = None) -> list[Run]:
    """Read every folder.

    Args:
        folders: OUTPUT_DIRs.
        dataset: which one, where a run evaluated several; the first by default.

    Raises:
        DatasetError: a folder that is not there, or holds nothing that a run writes.
    """
    paths = [Path(folder) for folder in folders]
    return [read_run(path, name, dataset) for path, name in zip(paths, short_names(paths), strict=True)]


def read_run(folder: Path, name: str, dataset: str | None = None) -> Run:
    """Read one folder; see :func:`read_runs`."""
    if not folder.is_dir():
        raise DatasetError(f"run folder {folder} does not exist; give the OUTPUT_DIR of a training or evaluation")
    if not any((folder / one).exists() for one in (CONFIG, LOG, SCALARS, "inference")):
        raise DatasetError(
            f"{folder} holds none of {CONFIG}, {LOG}, {SCALARS}, inference/; give the OUTPUT_DIR of a training or "
            "evaluation"
        )
    run = Run(name, folder)
    run.config = _read_config(run)
    run.scalars = _read_scalars(run)
    run.log = read_log(folder / LOG)
    if not (folder / LOG).is_file():
        run.problems.append(f"{LOG} is not there, so the environment and the times of the evaluation are unknown.")
    run.benchmark = _read_json(folder / BENCHMARK, run) if (folder / BENCHMARK).is_file() else {}
    run.results_folder = _results_folder(run, dataset)
    _read_results(run)
    return run


def short_names(paths: Sequence[Path]) -> list[str]:
    """As few last parts of each path as tell them apart; "run" alone says little, so its parent comes along."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        plain = depth == 1 and any(name in ("run", "output", "out") for name in names)
        if len(set(names)) == len(names) and not plain:
            return names
    return [f"{'/'.join(one[-2:])} ({number})" for number, one in enumerate(parts, start=1)]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _read_config(run: Run) -> dict[str, Any]:
    path = run.folder / CONFIG
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        run.problems.append(f"{CONFIG} is not there, so the settings and the dataset of the run are unknown.")
        return {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        run.problems.append(f"{CONFIG} cannot be read: {one_line(error)}")
        return {}
    return flatten(content) if isinstance(content, Mapping) else {}


def _read_scalars(run: Run) -> dict[str, list[tuple[int, float]]]:
    """One JSON object a line. A resumed training writes iterations again, and the later line counts."""
    path = run.folder / SCALARS
    if not path.is_file():
        run.problems.append(
            f"{SCALARS} is not there: nothing was trained in this folder, so it has no learning curves."
        )
        return {}
    values: dict[str, dict[int, float]] = {}
    broken = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            iteration = int(record["iteration"])
        except (ValueError, TypeError, KeyError):
            broken += 1
            continue
        for name, value in record.items():
            if name != "iteration" and isinstance(value, (int, float)) and math.isfinite(value):
                values.setdefault(name, {})[iteration] = float(value)
    if broken:
        run.problems.append(
            f"{SCALARS} has {broken} line{'s' if broken > 1 else ''} that cannot be read, as a training leaves it that "
            "is stopped while writing; the other lines are shown."
        )
    if not values:
        run.problems.append(f"{SCALARS} holds no values yet: the first line comes after 20 iterations.")
    return {name: sorted(series.items()) for name, series in values.items()}


def _results_folder(run: Run, dataset: str | None) -> Path:
    """``inference``, or a folder of the dataset's name in it where several are evaluated."""
    root = run.folder / "inference"
    if dataset:
        named = [str(name) for name in run.config.get("DATASETS.TEST") or []]
        if dataset not in named and not (root / dataset).is_dir():
            raise DatasetError(
                f"{run.folder} evaluated no dataset {dataset!r} (--dataset); there is: {', '.join(named) or 'none'}"
            )
        return root / dataset if (root / dataset).is_dir() else root
    if (root / "metrics.json").is_file() or not root.is_dir():
        return root
    named = [root / str(name) for name in run.config.get("DATASETS.TEST") or []]
    found = [folder for folder in named if (folder / "metrics.json").is_file()]
    if len(found) > 1:
        others = ", ".join(folder.name for folder in found[1:])
        run.problems.append(f"Shown is the evaluation on {found[0].name}; choose another with --dataset: {others}.")
    return found[0] if found else root


def _read_results(run: Run) -> None:
    path = run.results_folder / "metrics.json"
    if not path.is_file():
        run.problems.append(
            "There is no evaluation yet (inference/metrics.json), so scores are missing. Make one with: panoptic train "
            f"--config-file {run.folder / CONFIG} --eval-only --resume OUTPUT_DIR {run.folder}"
        )
        return
    run.results = _read_json(path, run)


def _read_json(path: Path, run: Run) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        run.problems.append(f"{path.relative_to(run.folder)} cannot be read: {one_line(error)}")
        return {}
    if isinstance(content, dict):
        return content
    run.problems.append(f"{path.relative_to(run.folder)} holds a {type(content).__name__}, expected an object")
    return {}
