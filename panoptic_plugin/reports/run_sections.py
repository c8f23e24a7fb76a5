"""The sections of a report about runs, in the order of the page; each says itself what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from panoptic_plugin.reports.page import Cell, Table, number_cell
from panoptic_plugin.reports.plot_style import Plot
from panoptic_plugin.reports.run_files import Run
from panoptic_plugin.reports.run_plots import bars_plot, confusion_plot, curves_plot, histogram_plot, stacked_plot
from panoptic_plugin.reports.run_scores import Analysis
from panoptic_plugin.reports.run_tables import (
    CLASS_SCORES,
    HEADLINE,
    STAGES,
    class_scores,
    config_rows,
    environment_rows,
    evaluation_rows,
    headline,
    inference_time,
    size_scores,
)

Analyses = Mapping[str, Analysis]
MAX_CONFUSED = 40  # classes of a confusion plot; more are too small to read
MANY_CLASSES = 45  # from here on the bars of each class are folded away
SCORE_CURVES = ("panoptic_seg/PQ", "panoptic_seg/SQ", "panoptic_seg/RQ", "sem_seg/mIoU", "segm/AP")
OTHER_CURVES = (("lr", "Learning rate"), ("grad_norm", "Gradient norm"), ("time", "Seconds an iteration"),
                ("data_time", "Seconds of waiting for data an iteration"))  # fmt: skip


@dataclass
class Fold:
    """A part that is closed until it is opened."""

    title: str
    text: str = ""
    table: Table | None = None
    plots: list[Plot] = field(default_factory=list)


@dataclass
class Section:
    """One section; ``groups`` are those of ``run_gallery.py``."""

    id: str
    title: str
    texts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)

    def all_plots(self) -> list[Plot]:
        """Also the folded ones."""
        return [*self.plots, *(plot for fold in self.folds for plot in fold.plots)]


def missing_section(runs: Sequence[Run]) -> Section | None:
    """What the runs lack; None where they lack nothing."""
    problems = [f"{run.name}: {text}" if len(runs) > 1 else text for run in runs for text in run.problems]
    return Section("missing", "Not in this report", warnings=problems) if problems else None


def results_section(runs: Sequence[Run]) -> Section:
    """The headline table; with several runs the best of a column is bold and differences to the first are shown."""
    scores = [headline(run) for run in runs]
    columns = [name for name, _, _ in HEADLINE if any(one[name] is not None for one in scores)]
    section = Section("results", "Results")
    if not columns:
        section.warnings.append("No run has an evaluation, so there are no scores.")
    rows = []
    for run, one in zip(runs, scores, strict=True):
        cells = [Cell(run.name, header=True)]
        for name in columns:
            values = [score for other in scores if (score := other[name]) is not None]
            first, value = scores[0][name], one[name]
            note = f"{value - first:+.1f}" if run is not runs[0] and value is not None and first is not None else ""
            best = len(runs) > 1 and value is not None and value == max(values)
            cells.append(number_cell(value, note=note, strong=best))
        images = run.results.get("num_images")
        last = max((points[-1][0] for points in run.scalars.values()), default=None)
        time = run.log.training_time or ("not finished" if run.log.interrupted else "–")
        cells += [number_cell(images, "{:d}"), number_cell(last, "{:d}"), Cell(time)]
        cells.append(Cell(run.dataset or "unknown"))
        rows.append(cells)
    table = Table(
        "Scores in percent" + ("; differences are to the first run, the best is bold" if len(runs) > 1 else ""),
        ["Run", *columns, "Images", "Iterations", "Training time", "Dataset"],
        rows,
        frozenset(range(1, len(columns) + 3)),
    )
    section.tables.append(table)
    if len({run.dataset for run in runs if run.dataset}) > 1:
        section.warnings.append("The runs were evaluated on different datasets, so their scores cannot be compared.")
    return section


def curves_section(runs: Sequence[Run]) -> Section:
    """Losses, scores of evaluations during the training, then rate, gradient and times."""
    names = list(dict.fromkeys(name for run in runs for name in run.scalars))
    losses = sorted((name for name in names if "loss" in name), key=lambda name: (name != "total_loss", name))
    wanted = [(name, _title(name), True) for name in losses if "/" not in name or name.count("/") == 1]
    wanted += [(name, f"{name.split('/')[1]} (%)", False) for name in SCORE_CURVES]
    wanted += [(name, title, False) for name, title in OTHER_CURVES]
    section = Section("curves", "Learning curves")
    for name, title, log_scale in wanted:
        curves = {run.name: run.scalars.get(name, []) for run in runs}
        # One evaluation at the end is a number of the table above, not a curve.
        if any(len(points) > (1 if name in SCORE_CURVES else 0) for points in curves.values()):
            section.plots.append(curves_plot(name, title, curves, log_scale=log_scale))
    if not section.plots:
        section.warnings.append("There are no learning curves: no run has a metrics.json of a training.")
    else:
        section.texts.append(
            "Losses have a logarithmic scale where they fall far. All values are in metrics.json of the run."
        )
    return section


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def classes_section(runs: Sequence[Run], analyses: Analyses) -> Section:
    """A table and bars of PQ, SQ, RQ, IoU and AP by class."""
    by_run = {run.name: class_scores(run, analyses.get(run.name)) for run in runs}
    labels = list(dict.fromkeys((row["class"], row["kind"]) for rows in by_run.values() for row in rows))
    section = Section("classes", "Classes")
    if not labels:
        section.warnings.append("No run has scores by class.")
        return section
    values = {
        score: {run: _column(rows, labels, score) for run, rows in by_run.items()} for score in CLASS_SCORES
    }  # score -> run -> a value a class
    values = {score: runs_ for score, runs_ in values.items() if any(v is not None for c in runs_.values() for v in c)}
    section.tables.append(_class_table(labels, values))
    plots = [
        bars_plot(f"classes_{score.lower()}", f"{score} by class", *_present(labels, series))
        for score, series in values.items()
    ]
    if len(labels) < MANY_CLASSES:
        section.plots = plots
    else:
        section.folds.append(Fold(f"Bars of all {len(labels)} classes", plots=plots))
    lacking = [score for score in CLASS_SCORES if score not in values]
    if lacking:
        section.texts.append(f"Not known by class: {', '.join(lacking)}.")
    return section


def _column(rows: Sequence[Mapping[str, Any]], labels: Sequence[tuple[str, str]], score: str) -> list[float | None]:
    by_class = {row["class"]: row[score] for row in rows}
    return [by_class.get(name) for name, _ in labels]


def _present(labels: Sequence[tuple[str, str]], series: Mapping[str, list[float | None]]):
    """Labels and values without the classes for which no run has this score."""
    kept = [i for i in range(len(labels)) if any(column[i] is not None for column in series.values())]
    return [labels[i][0] for i in kept], {run: [column[i] for i in kept] for run, column in series.items()}


def _class_table(
    labels: Sequence[tuple[str, str]], values: Mapping[str, Mapping[str, Sequence[float | None]]]
) -> Table:
    several = len(next(iter(values.values()))) > 1
    columns = [f"{score} {run}" if several else score for score, series in values.items() for run in series]
    rows = [
        [Cell(name, header=True), Cell(kind)]
        + [number_cell(column[index]) for series in values.values() for column in series.values()]
        for index, (name, kind) in enumerate(labels)
    ]
    caption = "Percent"
    return Table(caption, ["Class", "Kind", *columns], rows, frozenset(range(2, 2 + len(columns))))


def confusion_section(runs: Sequence[Run], analyses: Analyses) -> Section:
    """A heat map a run."""
    section = Section("confusion", "Confusion of classes")
    for number, run in enumerate(runs):
        analysis = analyses.get(run.name)
        if analysis is None or analysis.confusion is None:
            continue
        matrix, names = analysis.confusion[:-1].astype(float), analysis.class_names
        pixels = matrix.sum(axis=1)
        shown = sorted(np.argsort(-pixels)[:MAX_CONFUSED][pixels[np.argsort(-pixels)[:MAX_CONFUSED]] > 0].tolist())
        percent = 100 * matrix[shown] / pixels[shown, None]
        title = f"Confusion of classes, {run.name}" if len(runs) > 1 else "Confusion of classes"
        section.plots.append(
            confusion_plot(f"confusion_{number}", title, [names[c] for c in shown], percent[:, [*shown, -1]])
        )
        if len(shown) < int((pixels > 0).sum()):
            section.texts.append(f"Shown are the {MAX_CONFUSED} classes with the most pixels.")
    if section.plots:
        sources = " and ".join(dict.fromkeys(one.source for one in analyses.values() if one.confusion is not None))
        section.texts.insert(
            0,
            f'Each row: of all pixels of that true class, percent by predicted class ({sources} output); "none" is '
            "void. Pixels that are void in the truth do not count.",
        )
    else:
        section.warnings.append(_needs_predictions("The confusion of classes"))
    return section


def sizes_section(runs: Sequence[Run], analyses: Analyses) -> Section:
    """PQ of things by the size of the object."""
    section = Section("sizes", "Objects by size")
    by_run = {run.name: size_scores(analyses[run.name]) for run in runs if run.name in analyses}
    if not by_run:
        section.warnings.append(_needs_predictions("PQ by object size"))
        return section
    section.texts.append(
        "Things only: small is below 32x32 pixels, medium below 96x96, large the rest. Found and missed objects are "
        "sized by their true area, false ones by their predicted area."
    )
    rows = [
        [Cell(row["size"], header=True), Cell(run), *(number_cell(row[name]) for name in ("PQ", "SQ", "RQ"))]
        + [number_cell(row[name], "{:d}") for name in ("objects", "missed", "false")]
        for run, sizes in by_run.items()
        for row in sizes
    ]
    section.tables.append(
        Table(
            "Scores in percent, mean over the classes",
            ["Size", "Run", "PQ", "SQ", "RQ", "Objects", "Missed", "False"],
            rows,
            frozenset(range(2, 8)),
        )  # fmt: skip
    )
    labels = [f"{row['size']} ({row['objects']})" for row in next(iter(by_run.values()))]
    section.plots.append(
        bars_plot(
            "sizes_pq",
            "PQ by size (number of objects)",
            labels,
            {run: [row["PQ"] for row in sizes] for run, sizes in by_run.items()},
        )  # fmt: skip
    )
    return section


def distribution_plot(analyses: Analyses) -> Plot | None:
    """How the PQ of single images is spread."""
    values = {run: [score.pq for score in analysis.scores] for run, analysis in analyses.items() if analysis.scores}
    return histogram_plot("images_pq", "PQ of single images", values) if values else None


def time_section(runs: Sequence[Run]) -> Section:
    """Where an image's time goes in evaluation, and an iteration's in training."""
    section = Section("time", "Time")
    parts = {run.name: inference_time(run) for run in runs}
    parts = {run: stages for run, stages in parts.items() if stages}
    if parts:
        section.plots.append(stacked_plot("time", "Evaluation, milliseconds an image", STAGES, parts))
    else:
        section.warnings.append("No log with the times of an evaluation was found.")
    if any("network and post-processing" in stages for stages in parts.values()):
        section.texts.append(
            "Network and post-processing are not told apart in every run; an evaluation with "
            "MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED True measures both."
        )
    rows = [[Cell(run.name, header=True), *_training_cells(run)] for run in runs if "time" in run.scalars]
    if rows:
        columns = ["Run", "Seconds an iteration", "of these waiting for data", "Images a second", "Training time"]
        section.tables.append(Table("Training, medians", columns, rows, frozenset({1, 2, 3})))
    return section


def _training_cells(run: Run) -> list[Cell]:
    seconds = float(np.median([value for _, value in run.scalars["time"]]))
    waiting = [value for _, value in run.scalars.get("data_time", [])]
    batch = run.config.get("SOLVER.IMS_PER_BATCH")
    return [
        number_cell(seconds, "{:.3f}"),
        number_cell(float(np.median(waiting)) if waiting else None, "{:.3f}"),
        number_cell(batch / seconds if batch and seconds else None),
        Cell(run.log.training_time or "–"),
    ]


def environment_section(runs: Sequence[Run]) -> Section:
    """Versions and machine, and what the log warned of."""
    section = Section("environment", "Environment")
    rows = [[Cell(name, header=True), *map(Cell, values)] for name, values in environment_rows(runs)]
    if rows:
        section.tables.append(Table("From the log of the last job", ["Part", *(run.name for run in runs)], rows))
    else:
        section.warnings.append("No log says what the runs ran on.")
    rows = [[Cell(name, header=True), *map(Cell, values)] for name, values in evaluation_rows(runs)]
    if rows:
        section.tables.append(Table("What was evaluated", ["Fact", *(run.name for run in runs)], rows))
    for run in runs:
        if run.log.command:
            section.folds.append(Fold(f"Last command line of {run.name}", run.log.command))
        if run.log.errors or run.log.warnings:
            lines = [*(f"ERROR {line}" for line in run.log.errors), *(f"WARNING {line}" for line in run.log.warnings)]
            section.folds.append(
                Fold(f"Last {len(lines)} warnings and errors in the log of {run.name}", "\n".join(lines))
            )
    return section


def settings_section(runs: Sequence[Run], defaults: Mapping[str, Any]) -> Section:
    """Settings that differ between the runs, and between all of them and the defaults."""
    section = Section("settings", "Settings")
    if not any(run.config for run in runs):
        section.warnings.append("No run has a config.yaml.")
        return section
    differing, shared = config_rows(runs, defaults)
    names = [run.name for run in runs]
    if len(runs) > 1:
        if differing:
            section.tables.append(_settings_table(f"{len(differing)} settings differ", names, differing))
        else:
            section.texts.append("The settings of the runs are equal.")
    table = _settings_table(f"{len(shared)} settings other than the defaults", ["Value"], shared)
    section.folds.append(
        Fold(
            f"The {len(shared)} settings that are not the defaults" + (", equal in all runs" if len(runs) > 1 else ""),
            table=table,
        )
    )
    return section


def _settings_table(caption: str, columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> Table:
    return Table(caption, ["Key", *columns], [[Cell(key, header=True), *map(Cell, values)] for key, values in rows])


def _needs_predictions(what: str) -> str:
    return f"{what} needs saved predictions and the ground truth; see above what is missing."
