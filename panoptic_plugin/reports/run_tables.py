"""The tables of a report: headline, classes, sizes, time, environment, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from panoptic_plugin.evaluation import pq
from panoptic_plugin.reports.run_files import Run
from panoptic_plugin.reports.run_matching import SIZES, count_segments
from panoptic_plugin.reports.run_scores import Analysis

# (column, task, name in metrics.json)
HEADLINE = (
    ("PQ", "panoptic_seg", "PQ"),
    ("SQ", "panoptic_seg", "SQ"),
    ("RQ", "panoptic_seg", "RQ"),
    ("PQ things", "panoptic_seg", "PQ_th"),
    ("PQ stuff", "panoptic_seg", "PQ_st"),
    ("mIoU", "sem_seg", "mIoU"),
    ("AP", "segm", "AP"),
    ("AP50", "segm", "AP50"),
)
CLASS_SCORES = ("PQ", "SQ", "RQ", "IoU", "AP")
STAGES = ("data", "network", "post-processing", "network and post-processing", "saving", "evaluation")
# (row, dotted key of metrics.json)
EVALUATED = (
    ("Dataset", "dataset"),
    ("Images", "num_images"),
    ("Fingerprint of the dataset", "dataset_fingerprint"),
    ("Checkpoint", "checkpoint.path"),
    ("SHA-256 of the checkpoint", "checkpoint.sha256"),
    ("Iteration", "iteration"),
    ("SHA-256 of the config", "config_sha256"),
    ("Predictions", "predictions"),
    ("Made", "created"),
)
# Where a run is or what it is called says nothing about how it was trained.
NOT_A_SETTING = ("OUTPUT_DIR",)


def headline(run: Run) -> dict[str, float | None]:
    """Column -> percent."""
    results = run.results.get("results", {})
    return {column: _number(results.get(task, {}).get(name)) for column, task, name in HEADLINE}


def class_scores(run: Run, analysis: Analysis | None) -> list[dict[str, Any]]:
    """One dict a class that occurs: class, kind, and percent of each of :data:`CLASS_SCORES` or None.

    What the evaluation did not write by class (SQ, RQ) comes from the saved predictions.
    """
    rows = [dict(row) for row in run.results.get("per_class") or []]
    if analysis is not None:
        names, counts = analysis.class_names, analysis.counts()
        if not rows:
            things = analysis.thing_ids
            rows = [{"class": n, "kind": "thing" if c in things else "stuff"} for c, n in enumerate(names)]
        by_name = {names[category]: pq.quality(one) for category, one in counts.items()}
        for row in rows:
            quality = by_name.get(row["class"])
            for name in ("PQ", "SQ", "RQ"):
                if row.get(name) is None and quality is not None:
                    row[name] = 100 * getattr(quality, name.lower())
    for row in rows:
        row.update({name: _number(row.get(name)) for name in CLASS_SCORES})
    return [row for row in rows if any(row[name] is not None for name in CLASS_SCORES)]


def size_scores(analysis: Analysis) -> list[dict[str, Any]]:
    """One dict a size of things: size, limits in words, PQ (mean over the classes), SQ, RQ, objects, missed, false."""
    rows = []
    things = analysis.thing_ids
    segments = [one for score in analysis.scores for one in score.segments if one[1] in things]
    for name, least, limit in SIZES:
        counts = count_segments(segments, least, limit)
        mean = pq.average(counts, counts)
        found, missed = sum(len(one.ious) for one in counts.values()), sum(one.fn for one in counts.values())
        rows.append(
            {
                "size": name,
                **{key: 100 * getattr(mean, key.lower()) if mean else None for key in ("PQ", "SQ", "RQ")},
                "objects": found + missed,
                "missed": missed,
                "false": sum(one.fp for one in counts.values()),
            }
        )
    return rows


def inference_time(run: Run) -> dict[str, float]:
    """Milliseconds an image by stage, in the order of :data:`STAGES`; {} where nothing is known.

    The log has loading and inference a batch, ``benchmark.json`` network and post-processing apart, and
    ``metrics.json`` the times of saving and scoring, which the log calls evaluation where it is older.
    """
    seconds, batch = run.log.evaluation, max(int(run.config.get("TEST.BATCH_SIZE") or 1), 1)
    timing, images = run.results.get("timing") or {}, run.results.get("num_images") or 0
    network, post = (_number(run.benchmark.get(f"{stage}_ms_mean")) for stage in ("network", "postprocessing"))
    whole = 1000 * seconds["inference"] / batch if seconds else None
    found = {
        "data": 1000 * seconds["data"] / batch if seconds else None,
        "network": network if post is not None else None,
        "post-processing": post if network is not None else None,
        "network and post-processing": whole if network is None or post is None else None,
        "saving": _milliseconds(timing.get("saving_seconds"), images),
        "evaluation": _milliseconds(timing.get("scoring_seconds"), images),
    }
    if found["evaluation"] is None and seconds:
        found["evaluation"] = 1000 * seconds["evaluation"] / batch
    return {stage: value for stage in STAGES if (value := found[stage]) is not None}


def _milliseconds(seconds: Any, images: int) -> float | None:
    value = _number(seconds)
    return 1000 * value / images if value is not None and images else None


def evaluation_rows(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(name, a value a run): what was scored, and when."""
    rows = []
    for name, key in EVALUATED:
        values = [_at(run.results, key) for run in runs]
        if any(value is not None for value in values):
            rows.append((name, ["unknown" if value is None else str(value) for value in values]))
    return rows


def _at(content: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def config_rows(
    runs: Sequence[Run], defaults: Mapping[str, Any]
) -> tuple[list[tuple[str, list[str]]], list[tuple[str, list[str]]]]:
    """(key, a value a run) of the settings that differ between the runs, and of those that all have alike but differ
    from the defaults."""
    configs = [run.config for run in runs if run.config]
    keys = sorted({key for config in configs for key in config if key not in NOT_A_SETTING})
    differing, shared = [], []
    for key in keys:
        values = [_shown(run.config.get(key, "(not set)") if run.config else "(unknown)") for run in runs]
        known = {_shown(config.get(key, "(not set)")) for config in configs}
        if len(known) > 1:
            differing.append((key, values))
        elif known != {_shown(defaults.get(key, "(not set)"))}:
            shared.append((key, values[:1]))
    return differing, shared


def environment_rows(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(name, a value a run)."""
    tables = [dict(run.log.environment) for run in runs]
    names = list(dict.fromkeys(name for table in tables for name in table))
    return [(name, [table.get(name, "unknown") for table in tables]) for name in names]


def _shown(value: Any) -> str:
    return str(value) if not isinstance(value, str) or value else repr(value)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
