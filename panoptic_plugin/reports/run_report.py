"""A report about runs: one HTML page that needs no other file, and its plots as PNG."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from panoptic_plugin.errors import DatasetError, UserError
from panoptic_plugin.evaluation.report import replace_file
from panoptic_plugin.reports.page import render
from panoptic_plugin.reports.plot_style import write_pngs
from panoptic_plugin.reports.run_files import Run
from panoptic_plugin.reports.run_gallery import images_section
from panoptic_plugin.reports.run_images import Pictures, Predictions, open_dataset
from panoptic_plugin.reports.run_scores import Analysis, analyse, read_analysis
from panoptic_plugin.reports.run_sections import (
    Section,
    classes_section,
    confusion_section,
    curves_section,
    environment_section,
    missing_section,
    results_section,
    settings_section,
    sizes_section,
    time_section,
)
from panoptic_plugin.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportOptions:
    """What a report holds.

    Attributes:
        max_images: images of each group of pictures (worst, best, ...); 0 leaves pictures out.
        defaults: dotted key -> value of the config's defaults, for the list of changed settings.
    """

    max_images: int = 6
    defaults: Mapping[str, Any] = field(default_factory=dict)


def write_report(runs: Sequence[Run], output: Path, options: ReportOptions) -> Path:
    """Write ``output`` and, beside it, the folder ``<stem>_plots``; returns that folder.

    Raises:
        DatasetError: the file cannot be written.
    """
    sections = make_sections(runs, options)
    plots = [plot for section in sections for plot in section.all_plots()]
    folder = output.with_name(f"{output.stem}_plots")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_pngs(plots, folder)
        replace_file(output, report_page(runs, sections))
    except OSError as error:
        raise DatasetError(f"report {output} cannot be written: {error.strerror}; choose another --output") from None
    return folder


def make_sections(runs: Sequence[Run], options: ReportOptions) -> list[Section]:
    """All sections; what is missing comes first."""
    analyses = {run.name: found for run in runs if (found := _analysis(run)) is not None}
    sections = [
        results_section(runs),
        curves_section(runs),
        classes_section(runs, analyses),
        confusion_section(runs, analyses),
        sizes_section(runs, analyses),
        images_section(analyses, options.max_images),
        time_section(runs),
        environment_section(runs),
        settings_section(runs, options.defaults),
    ]
    missing = missing_section(runs)  # last, because reading the images finds more
    return [missing, *sections] if missing else sections


def report_page(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    """The HTML text."""
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    datasets = ", ".join(dict.fromkeys(run.dataset for run in runs if run.dataset)) or "no dataset"
    return render(
        "run.html",
        title="Report: " + ", ".join(run.name for run in runs),
        about=f"{datasets}. Made {made} with panoptic_plugin {__version__}.",
        sections=sections,
    )


def _analysis(run: Run) -> Analysis | None:
    """Scores of the run's images and where its pictures come from; ``run.problems`` says what of it is missing."""
    pictures = _pictures(run)
    try:
        analysis = read_analysis(run.results_folder, run.results.get("per_class") or [])
    except UserError as error:
        if (run.results_folder / "per_image.jsonl").exists():
            run.problems.append(f"{error}.")
        if pictures is None:
            return None
        logger.info("%s: matching %d images with the ground truth", run.name, len(pictures.dataset.truth.image_ids))
        analysis = analyse(pictures)
    analysis.pictures = pictures
    return analysis if analysis.scores else None


def _pictures(run: Run) -> Pictures | None:
    try:
        dataset = open_dataset(run.dataset)
    except UserError as error:
        run.problems.append(
            f"The ground truth cannot be read, so there are no pictures: {error}. Set DETECTRON2_DATASETS or "
            "--datasets to the folder that holds the datasets."
        )
        return None
    try:
        return Pictures(dataset, Predictions(run.results_folder, dataset.contiguous_ids))
    except UserError as error:
        run.problems.append(f"There are no pictures: {error}.")
        return None
