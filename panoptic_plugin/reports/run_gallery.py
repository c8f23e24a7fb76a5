"""The images of a report: best, worst, most different between runs, and those with most missed objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from panoptic_plugin.data.reading import read_image
from panoptic_plugin.errors import UserError, one_line
from panoptic_plugin.reports.pictures import Picture, make_picture
from panoptic_plugin.reports.run_matching import Match
from panoptic_plugin.reports.run_pictures import (
    ERRORS,
    OBJECTS,
    Kind,
    draw_errors,
    draw_objects,
    draw_prediction,
    draw_truth,
    error_kinds,
    picture_size,
    resize_image,
)
from panoptic_plugin.reports.run_scores import Analysis, ImageScore, best_and_worst
from panoptic_plugin.reports.run_sections import Section, distribution_plot

# Longest side of a picture in pixels, by how many there are: a page stays below about 15 MB.
LONGEST = ((80, 640), (160, 448), (400, 320), (1 << 30, 224))


@dataclass
class Row:
    """One image's pictures: in one line, or column by column in two lines, where a window is wide enough."""

    title: str
    about: list[str]
    pictures: list[Picture]
    columns: int
    two_lines: bool = False


@dataclass
class Group:
    """Rows under a heading."""

    title: str
    rows: list[Row] = field(default_factory=list)
    legend: Sequence[Kind] = ()


def images_section(analyses: Mapping[str, Analysis], max_images: int) -> Section:
    """Pictures of up to ``max_images`` images a group; 0 shows none."""
    section = Section("images", "Images")
    if not analyses:
        section.warnings.append("Scores of single images are not there; see above what is missing.")
        return section
    for run, analysis in analyses.items():
        for text in analysis.skipped[:5]:
            section.warnings.append(f"{run}: {text}" if len(analyses) > 1 else text)
        if len(analysis.skipped) > 5:
            section.warnings.append(f"{run}: {len(analysis.skipped)} images are left out in all.")
    plot = distribution_plot(analyses)
    if plot:
        section.plots.append(plot)
    section.texts.append("PQ of an image is the mean over the classes in it.")
    if not any(analysis.pictures for analysis in analyses.values()):
        section.warnings.append("Pictures need saved predictions and the ground truth; see above what is missing.")
    elif max_images:
        groups = _choose(analyses, max_images)
        num_pictures = sum(len(ids) * pictures for _, ids, _, pictures in groups)
        longest = next(side for most, side in LONGEST if num_pictures <= most)
        for title, ids, make, _ in groups:
            rows = [_safely(section, make, analyses, image_id, longest) for image_id in ids]
            legend = OBJECTS if make is _objects_row else ERRORS
            section.groups.append(Group(title, [row for row in rows if row], legend))
    return section


Maker = Callable[[Mapping[str, Analysis], str, int], Row]


def _choose(analyses: Mapping[str, Analysis], number: int) -> list[tuple[str, list[str], Maker, int]]:
    """(title, image ids, what draws a row, pictures of a row) of each group; best and worst are the first run's."""
    run, first = next(iter(analyses.items()))
    best, worst = best_and_worst(first.scores, number)
    of_run = f" of {run}" if len(analyses) > 1 else ""
    each = 2 + 2 * len(analyses)
    groups: list[tuple[str, list[str], Maker, int]] = []
    if len(analyses) > 1:
        spread = _spread(analyses)
        ids = sorted(spread, key=lambda image_id: (-spread[image_id], image_id))[:number]
        groups.append(("Largest differences between the runs", ids, _comparison_row, each))
    groups.append((f"Worst images{of_run}", _ids(worst), _comparison_row, each))
    groups.append((f"Best images{of_run}", _ids(best), _comparison_row, each))
    missing = sorted(first.scores, key=lambda score: (-score.missed - score.false - score.void, score.image_id))
    missing = [score for score in missing if score.missed or score.false or score.void > 0][:number]
    groups.append((f"Most missed and false objects{of_run}", _ids(missing), _objects_row, 2 + len(analyses)))
    return [group for group in groups if group[1]]


def _ids(scores: Sequence[ImageScore]) -> list[str]:
    return [score.image_id for score in scores]


def _spread(analyses: Mapping[str, Analysis]) -> dict[str, float]:
    """Highest minus lowest PQ of the images that all runs have."""
    values: dict[str, list[float]] = {}
    for analysis in analyses.values():
        for score in analysis.scores:
            values.setdefault(score.image_id, []).append(score.pq)
    return {one: max(pqs) - min(pqs) for one, pqs in values.items() if len(pqs) == len(analyses)}


def _safely(section: Section, make: Maker, analyses: Mapping[str, Analysis], image_id: str, longest: int) -> Row | None:
    try:
        return make(analyses, image_id, longest)
    except (UserError, OSError, ValueError, KeyError) as error:
        section.warnings.append(f"image {image_id} cannot be drawn: {one_line(error)}")
        return None


def _comparison_row(analyses: Mapping[str, Analysis], image_id: str, longest: int) -> Row:
    """Image, truth, then prediction and errors of each run."""
    image, matches = _load(analyses, image_id, longest)
    pictures = _truth_pictures(analyses, image_id, image, matches)
    for run, match in matches.items():
        of_run, metadata = _of_run(run, analyses), _metadata(analyses[run])
        content = _content([one["category_id"] for one in match.predicted], analyses[run])
        pictures.append(
            make_picture(
                draw_prediction(image, match, metadata),
                f"Prediction{of_run} for {image_id}: {content}",
                f"Prediction{of_run}",
            )  # fmt: skip
        )
        told = _error_text(match)
        pictures.append(
            make_picture(
                draw_errors(image, match), f"Error map{of_run} for {image_id}: {told}", f"Errors{of_run}: {told}"
            )
        )
    several = len(matches) > 1  # then truth stands below the image, and each run's errors below its prediction
    columns = 1 + len(matches) if several else len(pictures)
    return Row(image_id, _about(analyses, image_id), pictures, columns, two_lines=several)


def _objects_row(analyses: Mapping[str, Analysis], image_id: str, longest: int) -> Row:
    """Image, truth, then missed and false objects of each run."""
    image, matches = _load(analyses, image_id, longest)
    pictures = _truth_pictures(analyses, image_id, image, matches)
    for run, match in matches.items():
        of_run = _of_run(run, analyses)
        classes = {one["id"]: one["category_id"] for one in match.truth.segments}
        told = f"missed {_content([classes[one] for one in match.missed], analyses[run])}; false " + _content(
            [match.predicted[one - 1]["category_id"] for one in match.false], analyses[run]
        )
        pictures.append(
            make_picture(
                draw_objects(image, match),
                f"Missed and false segments{of_run} in {image_id}: {told}",
                f"Missed and false{of_run}: {told}",
            )  # fmt: skip
        )
    return Row(image_id, _about(analyses, image_id), pictures, min(len(pictures), 4))


def _load(analyses: Mapping[str, Analysis], image_id: str, longest: int) -> tuple[np.ndarray, dict[str, Match]]:
    """The image in the size of its picture, and the matches of the runs that predicted it."""
    sources = {run: one.pictures for run, one in analyses.items() if one.pictures is not None}
    image = read_image(next(iter(sources.values())).dataset.image_file(image_id), "RGB")
    matches = {run: one.match(image_id) for run, one in sources.items() if image_id in one.predictions}
    return resize_image(image, picture_size(image.shape[0], image.shape[1], longest)), matches


def _truth_pictures(
    analyses: Mapping[str, Analysis], image_id: str, image: np.ndarray, matches: Mapping[str, Match]
) -> list[Picture]:
    run, match = next(iter(matches.items()))
    content = _content([one["category_id"] for one in match.truth.segments], analyses[run])
    truth = draw_truth(image, match, _metadata(analyses[run]))
    return [
        make_picture(image, f"Image {image_id}", "Image"),
        make_picture(truth, f"Ground truth of {image_id}: {content}", "Ground truth"),
    ]


def _metadata(analysis: Analysis) -> Any:
    return analysis.pictures.dataset.metadata if analysis.pictures else None


def _of_run(run: str, analyses: Mapping[str, Analysis]) -> str:
    return f" of {run}" if len(analyses) > 1 else ""


def _about(analyses: Mapping[str, Analysis], image_id: str) -> list[str]:
    """Scores of an image, a sentence a run."""
    told = []
    for run, analysis in analyses.items():
        score = next((one for one in analysis.scores if one.image_id == image_id), None)
        if score:
            told.append(
                f"{run + ': ' if len(analyses) > 1 else ''}PQ {score.pq:.1f}, SQ {score.sq:.1f}, RQ {score.rq:.1f}; "
                f"{score.missed} missed, {score.false} false, {score.void:.1f}% of the labelled pixels void."
            )
    return told


def _content(categories: Sequence[int], analysis: Analysis) -> str:
    """ "3 car, 1 road" of category ids."""
    names = analysis.class_names
    counted = Counter(names[category] for category in categories)
    return ", ".join(f"{number} {name}" for name, number in counted.most_common()) or "nothing"


def _error_text(match: Match) -> str:
    pixels = np.bincount(error_kinds(match).ravel(), minlength=len(ERRORS) + 1)
    labelled = max(int(pixels[:4].sum()), 1)
    told = [f"{kind.name} {100 * pixels[number] / labelled:.1f}%" for number, kind in enumerate(ERRORS[:3], start=1)]
    return ", ".join(told)
