"""The report of ``panoptic tune``: one HTML page, from the content of ``tuning.json`` or ``postprocessing.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.files import replace_file
from panoptic_plugin.reports.page import Cell, Table, number_cell, render
from panoptic_plugin.reports.run_sections import Fold, Section
from panoptic_plugin.reports.tuning_plots import (
    best_trial,
    differences_plot,
    points_plot,
    response_plot,
    trial_curves_plot,
    values_plot,
)
from panoptic_plugin.version import __version__

Study = Mapping[str, Any]
FIGURES = ("PQ things", "PQ stuff", "mIoU", "AP")
STATUS = {"done": "trained to the end", "stopped": "stopped early", "failed": "failed"}


def write_page(study: Study, path: Path) -> Path:
    """Write the page of a study; returns its path.

    Raises:
        DatasetError: the file cannot be written.
    """
    is_training = study["kind"] == "training"
    sections = training_sections(study) if is_training else postprocessing_sections(study)
    page = render(
        "run.html",
        title=f"Tuning of {'loss weights' if is_training else 'post-processing'}: {study['verdict']}",
        about=f"{study['split']['source']}, objective {study['objective']}. Made {study['created']} with "
        f"panoptic_plugin {__version__}.",
        sections=sections,
    )
    try:
        replace_file(path, page)
    except OSError as error:
        raise DatasetError(f"report {path} cannot be written: {error.strerror}") from None
    return path


def training_sections(study: Study) -> list[Section]:
    """Of a study of trainings."""
    sections = [_verdict_section(study), _check_section(study["check"])]
    if study["search"]:
        sections.append(_search_section(study))
    if study["final"]:
        sections.append(_final_section(study["final"]))
    return [*sections, _origin_section(study)]


def postprocessing_sections(study: Study) -> list[Section]:
    """Of a study of post-processing."""
    return [_verdict_section(study), _grid_section(study), _origin_section(study)]


def _verdict_section(study: Study) -> Section:
    section = Section("verdict", f"Verdict: {study['verdict']}")
    section.texts.append(f"{study['reason'][:1].upper()}{study['reason'][1:]}.")
    if study["kind"] == "training":
        section.texts.append(
            "Loss weights are ratios to the semantic weight, which stays as it is. The override holds the keys below."
        )
    rows = [
        [Cell(name, header=True), number_cell(study["baseline"][name], "{:.4g}"), number_cell(value, "{:.4g}")]
        for name, value in study["values"].items()
    ]
    section.tables.append(Table("Values", ["Parameter", "Baseline", "To use"], rows, frozenset({1, 2})))
    keys = [[Cell(key, header=True), Cell(f"{value:.6g}", value)] for key, value in study["keys"].items()]
    section.tables.append(Table("Config keys", ["Key", "Value"], keys, frozenset({1})))
    return section


def _check_section(check: Study) -> Section:
    section = Section("check", "Do the parameters matter at all?")
    section.texts.append(
        "Before a search, the baseline and the extremes of the space are trained with the same seeds. If they differ "
        "by no more than seeds explain, a search would rank noise."
    )
    spread = check["spread"]
    if spread is not None:
        in_errors = spread["spread"] / spread["standard_error"] if spread["standard_error"] else None
        errors = f", {in_errors:.1f} standard errors of a difference" if in_errors is not None else ""
        section.texts.append(
            f"Highest less lowest mean: {spread['spread']:.2f}{errors}. By chance it exceeds {spread['threshold']:.2f} "
            f"in {100 * spread['level']:.0f} of 100 studies (Tukey's studentised range; p = {spread['p_value']:.2g}). "
            f"{'There is an effect.' if check['detected'] else 'No effect can be detected.'}"
        )
    if check["failed"]:
        section.warnings.append(f"Not every training came to its end at: {'; '.join(check['failed'])}.")
    points = check["points"]
    rows = [[Cell(point["name"], header=True), *_value_cells(point["values"]), *_score_cells(point["scores"]),
             _mean_cell(point["scores"])] for point in points]  # fmt: skip
    seeds = [f"Seed {record['seed']}" for record in points[0]["records"]]
    columns = ["Point", *points[0]["values"], *seeds, "Mean"]
    section.tables.append(Table("Scores in percent", columns, rows, frozenset(range(1, len(columns)))))
    section.plots.append(
        points_plot("check", "Baseline and extremes", [(point["name"], point["scores"]) for point in points])
    )
    return section


def _search_section(study: Study) -> Section:
    trials = study["search"]
    section = Section("search", f"Search: {len(trials)} trials")
    counts = {status: sum(trial["status"] == status for trial in trials) for status in STATUS}
    told = ", ".join(f"{number} {STATUS[status]}" for status, number in counts.items() if number)
    plan = study["plan"]
    section.texts.append(
        f"All with seed {plan['seed']}, so that order of images, augmentation and initial weights are the same; "
        f"{told}. Nothing is stopped in the first {100 * plan['grace']:.0f} % of a training, the baseline never."
    )
    best = best_trial(trials)
    names = list(study["baseline"])
    rows = []
    for number, trial in enumerate(trials):
        name = f"{trial['key']} (baseline)" if number == 0 else trial["key"]
        last = trial["curve"][-1] if trial["curve"] else (None, None)
        rows.append([
            Cell(name, header=True), *_value_cells(trial["values"]), Cell(STATUS[trial["status"]]),
            number_cell(last[0], "{:d}"), number_cell(last[1], "{:.2f}", strong=trial is best),
            *(number_cell(trial["figures"].get(figure), "{:.2f}") for figure in FIGURES),
            number_cell(trial["seconds"], "{:.0f}"),
        ])  # fmt: skip
    columns = [
        "Trial",
        *names,
        "What came of it",
        "Iteration",
        "Score",
        "PQ things",
        "PQ stuff",
        "mIoU",
        "AP",
        "Seconds",
    ]
    numbers = frozenset(range(1, len(columns))) - {len(names) + 1}
    section.tables.append(Table("Scores of the last evaluation, in percent", columns, rows, numbers))
    section.plots.append(trial_curves_plot(trials))
    section.plots += [response_plot(one, trials, study["values"][one["name"]]) for one in study["space"]]
    errors = [f"{trial['key']}: {trial['error']}" for trial in trials if trial["error"]]
    if errors:
        section.folds.append(Fold(f"{len(errors)} trials failed", "\n".join(errors)))
    return section


def _final_section(final: Sequence[Study]) -> Section:
    section = Section("final", "Finalists against the baseline")
    section.texts.append(
        "Each is trained again with seeds that the search did not use. A finalist is better where the interval of its "
        "difference (paired bootstrap over the images) is above 0, and the difference above what chance does to "
        "trainings; both levels are shared among the finalists."
    )
    rows = []
    for one in final:
        comparison = one["comparison"] or {}
        interval = f"{comparison['low']:+.2f} to {comparison['high']:+.2f}" if comparison else "–"
        outcome = "" if one["name"] == "baseline" else "not complete"
        if comparison:
            outcome = "better" if comparison["better"] else "not better"
        rows.append([
            Cell(one["name"], header=True), *_value_cells(one["values"]), *_score_cells(one["scores"]),
            number_cell(one["mean"], "{:.2f}"), number_cell(comparison.get("difference"), "{:+.2f}"), Cell(interval),
            number_cell(comparison.get("by_chance"), "{:.2f}"), Cell(outcome),
        ])  # fmt: skip
    seeds = [f"Seed {record['seed']}" for record in final[0]["records"]]
    columns = ["Point", *final[0]["values"], *seeds, "Mean", "Difference", "Interval", "By chance", "Outcome"]
    numbers = frozenset(range(1, len(columns))) - {len(columns) - 3, len(columns) - 1}
    section.tables.append(Table("Scores in percent", columns, rows, numbers))
    compared = [(one["name"], one["comparison"]) for one in final if one["comparison"]]
    if compared:
        section.plots.append(differences_plot("finalists", "Finalists less baseline", compared))
    section.plots.append(points_plot("final", "Scores by seed", [(one["name"], one["scores"]) for one in final]))
    return section


def _grid_section(study: Study) -> Section:
    section = Section("grid", f"Grid: {study['num_settings']} settings")
    section.texts.append(
        f"On the same saved outputs of the network. PQ of the baseline: {study['baseline_score']:.2f}, of the best "
        f"setting on the same images: {study['best_score']:.2f}. Some of that is luck, so the verdict rests on the "
        "held-out gain: each image with the setting that is best on the other images."
    )
    keys = list(study["grid"])
    rows = [
        [
            Cell(str(number), number, header=True),
            *(number_cell(one["setting"][key], "{:g}") for key in keys),
            number_cell(one["score"], "{:.2f}", strong=number == 1),
        ]
        for number, one in enumerate(study["scores"], start=1)
    ]
    columns = ["Rank", *(key.rsplit(".", 1)[-1] for key in keys), "PQ"]
    section.tables.append(Table(f"The best {len(rows)}", columns, rows, frozenset(range(1, len(columns)))))
    section.plots.append(differences_plot("held_out", "Held-out gain", [("best setting", study["comparison"])]))
    section.plots += [
        values_plot(number, key, found, study["baseline"][key])
        for number, (key, found) in enumerate(study["by_value"].items())
    ]
    return section


def _origin_section(study: Study) -> Section:
    section = Section("origin", "What it was made of")
    split = study["split"]
    ids, groups = split["image_ids"], split["groups"]
    shown = f"{', '.join(groups[:12])}{' ...' if len(groups) > 12 else ''}, {len(groups)} of {split['of_groups']}"
    section.texts.append(
        f"Images of {split['source']}: {len(ids['tuning_score'])} to score on, {len(ids['tuning_fit'])} to train on. "
        f"Scored are the groups {shown}. No image of {', '.join(split['held_out']) or 'another set'} is among them, "
        "which the hashes of the images prove."
    )
    rows = [[Cell(part, header=True), Cell(value)] for part, value in split["fingerprints"].items()]
    rows += [[Cell(name, header=True), Cell(one["fingerprint"])] for name, one in split["held_out"].items()]
    section.tables.append(Table("SHA-256 of the images of each set", ["Set", "Fingerprint"], rows))
    facts = {**{f"version of {name}": value for name, value in study["versions"].items()},
             "SHA-256 of the config": study.get("config_sha256") or study.get("network", {}).get("config"),
             "engine": study.get("engine"), "command": " ".join(study["command"])}  # fmt: skip
    if study.get("network") and study["network"]["checkpoint"]:
        facts["SHA-256 of the weights"] = study["network"]["checkpoint"]["sha256"]
    rows = [[Cell(name, header=True), Cell(str(value))] for name, value in facts.items() if value]
    section.folds.append(Fold("Versions, config, command", table=Table("Facts", ["Fact", "Value"], rows)))
    if study["kind"] == "training":
        rows = [[Cell(name, header=True), Cell(f"{value:g}" if isinstance(value, float) else str(value))]
                for name, value in study["plan"].items()]  # fmt: skip
        section.folds.append(Fold("Plan", table=Table("How much was tried", ["Key", "Value"], rows)))
    return section


def _value_cells(values: Mapping[str, float]) -> list[Cell]:
    return [number_cell(value, "{:.4g}") for value in values.values()]


def _score_cells(scores: Sequence[float | None]) -> list[Cell]:
    return [Cell("failed") if score is None else number_cell(score, "{:.2f}") for score in scores]


def _mean_cell(scores: Sequence[float | None]) -> Cell:
    known = [score for score in scores if score is not None]
    return number_cell(sum(known) / len(known), "{:.2f}") if len(known) == len(scores) else Cell("–")
