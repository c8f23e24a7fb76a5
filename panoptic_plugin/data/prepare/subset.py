"""A part of a panoptic set: a new JSON that refers to the same images and PNGs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from panoptic_plugin.data.convert.panoptic_set import PanopticSet, Record, read_panoptic_set
from panoptic_plugin.data.convert.report import Report, counted
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.registry import suggestion

Pair = tuple[Record, Record]


@dataclass(frozen=True)
class Choice:
    """Which images to take: those that meet all that is given.

    Attributes:
        count: at most so many, drawn with the seed.
        classes: at least one segment of one of these classes.
        cities: of one of these cities or folders (the image's folder, or its name up to the first ``_``).
        seed: of the draw.
    """

    count: int | None = None
    classes: Sequence[str] = ()
    cities: Sequence[str] = ()
    seed: int = 0


def subset(json_path: str | Path, output: str | Path, choice: Choice, *, overwrite: bool = False) -> Report:
    """Write the JSON ``output``. Categories stay as they are, so that class numbers do; records keep their order.

    Raises:
        DatasetError: the set cannot be used, an unknown class or city, a choice without images, or ``output`` exists.
    """
    panoptic_set = read_panoptic_set(json_path)
    pairs = choose(panoptic_set, choice)
    target = Path(output)
    with Staging(target.parent, overwrite=overwrite) as stage:
        stage.write_json(target.name, panoptic_set.content(pairs))
    report = Report(
        read=[f"{json_path}: {counted(len(panoptic_set.pairs), 'image')}"],
        written=[f"{target}: {counted(len(pairs), 'image')}; images and PNGs stay where they are"],
    )
    report.lose("images that were not chosen", len(panoptic_set.pairs) - len(pairs))
    return report


def choose(panoptic_set: PanopticSet, choice: Choice) -> list[Pair]:
    """The pairs that meet the choice, in the set's order."""
    pairs = panoptic_set.pairs
    if choice.classes:
        wanted = _category_ids(panoptic_set, choice.classes)
        pairs = [p for p in pairs if any(segment["category_id"] in wanted for segment in p[1]["segments_info"])]
    if choice.cities:
        known = sorted({city for pair in panoptic_set.pairs for city in places(pair[0])})
        for city in choice.cities:
            if city not in known:
                raise DatasetError(f"{panoptic_set.path}: no image of {city!r}. {suggestion(city, known)}")
        pairs = [pair for pair in pairs if places(pair[0]) & set(choice.cities)]
    if choice.count is not None:
        if choice.count < 1:
            raise DatasetError(f"--count is {choice.count}, expected 1 or more")
        drawn = random.Random(choice.seed).sample(range(len(pairs)), min(choice.count, len(pairs)))
        pairs = [pairs[index] for index in sorted(drawn)]
    if not pairs:
        raise DatasetError(f"{panoptic_set.path}: no image meets the choice; ask for less")
    return pairs


def _category_ids(panoptic_set: PanopticSet, names: Sequence[str]) -> set[int]:
    by_name = {str(category["name"]): category["id"] for category in panoptic_set.categories}
    for name in names:
        if name not in by_name:
            raise DatasetError(f"{panoptic_set.path}: there is no class {name!r}. {suggestion(name, sorted(by_name))}")
    return {by_name[name] for name in names}


def places(image: Record) -> set[str]:
    """The folder of the image if it has one, and what its id or name begins with, as Cityscapes' do with the city."""
    path = PurePosixPath(str(image["file_name"]))
    starts = {str(text).split("_")[0] for text in (image["id"], path.stem) if "_" in str(text)}
    return starts | ({path.parent.name} - {""})
