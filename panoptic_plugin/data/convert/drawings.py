"""What annotation tools have in common: images with named outlines, which become a panoptic set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_plugin.data.convert.coco_instances import lost_in_layers
from panoptic_plugin.data.convert.layers import DEFAULT_OVERLAP, OVERLAP_RULES, Flat, Layer, flatten
from panoptic_plugin.data.convert.panoptic_set import (
    Record,
    complete_categories,
    png_names,
    write_annotation,
    written_set,
)
from panoptic_plugin.data.convert.parallel import in_order
from panoptic_plugin.data.convert.report import Report
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.errors import DatasetError


@dataclass(frozen=True)
class DrawingOptions:
    """How drawings become a panoptic set.

    Attributes:
        stuff: names of the classes that are stuff; all others are things.
        overlap: a key of :data:`OVERLAP_RULES`.
        name: the set's: NAME.json and the folder NAME of PNGs.
        overwrite: replace files of these names.
        num_workers: threads.
    """

    stuff: Sequence[str] = ()
    overlap: str = DEFAULT_OVERLAP
    name: str = "panoptic"
    overwrite: bool = False
    num_workers: int | None = None


@dataclass(frozen=True)
class Drawing:
    """One image: its record for ``images``, and (class name, run-length code) of each object in its order."""

    image: Record
    objects: Sequence[tuple[str, Any]]
    lost: Mapping[str, int] = field(default_factory=dict)


def write_drawings(
    source: str, output: str | Path, drawings: Sequence[Drawing], names: Sequence[str], options: DrawingOptions
) -> Report:
    """Write ``output/NAME.json`` and ``output/NAME/*.png``; the category ids count ``names`` from 1.

    Args:
        source: what was read, for the report and errors.
        names: all classes, in the order of their ids.

    Raises:
        DatasetError: a stuff class that does not occur in ``names``; or the output exists.
    """
    for name in options.stuff:
        if name not in names:
            raise DatasetError(f"{source}: --stuff names {name!r}, which is no class here; there is {', '.join(names)}")
    listed = [{"id": n, "name": name, "isthing": int(name not in options.stuff)} for n, name in enumerate(names, 1)]
    categories = complete_categories(listed)
    with Staging(output, overwrite=options.overwrite) as stage:
        stage.refuse_existing(f"{options.name}.json")
        paint = partial(_paint, stage, options, {category["name"]: category for category in categories})
        pngs = png_names([drawing.image["file_name"] for drawing in drawings])
        done = in_order(paint, list(zip(drawings, pngs, strict=True)), "images", options.num_workers)
        annotations = [annotation for annotation, _ in done]
        content = {"images": [d.image for d in drawings], "annotations": annotations, "categories": categories}
        stage.write_json(f"{options.name}.json", content)
    objects = sum(len(drawing.objects) for drawing in drawings)
    report = Report(
        read=[f"{source}: {len(drawings):,} images, {objects:,} objects of {len(names)} classes"],
        notes=[f"--overlap {options.overlap}: {OVERLAP_RULES[options.overlap]}; stuff behind all things"],
        written=written_set(output, options.name, annotations),
    )
    for what, count in sum((lost for _, lost in done), Counter()).items():
        report.lose(what, count)
    return report


def _paint(
    stage: Staging, options: DrawingOptions, categories: Mapping[str, Record], job: tuple[Drawing, str]
) -> tuple[Record, Counter[str]]:
    drawing, png = job
    size = (drawing.image["height"], drawing.image["width"])
    ids = np.zeros(size, dtype=np.int32)
    segments: dict[int, tuple[int, int]] = {}
    lost: Counter[str] = Counter(drawing.lost)
    # Things first; what they leave free is for stuff, one segment a class.
    for is_thing in (1, 0):
        objects = [
            Layer(code, categories[name]["id"])
            for name, code in drawing.objects
            if categories[name]["isthing"] == is_thing
        ]
        flat = flatten(objects, size, options.overlap)
        lost += lost_in_layers(flat)
        _add(ids, segments, flat, merge=not is_thing)
    return write_annotation(stage, options.name, png, drawing.image["id"], ids, segments), lost


def _add(ids: np.ndarray, segments: dict[int, tuple[int, int]], flat: Flat, *, merge: bool) -> None:
    """Put a flat map behind what is there; ``merge`` makes one segment a category."""
    first = max(segments, default=0)
    table = np.zeros(max(flat.segments, default=0) + 1, dtype=np.int32)
    new: dict[int, int] = {}
    for old, (category, crowd) in flat.segments.items():
        key = category if merge else old
        table[old] = new.setdefault(key, first + len(new) + 1)
        segments[int(table[old])] = (category, crowd)
    behind = ids == 0
    ids[behind] = table[flat.ids[behind]]
    present = set(np.unique(ids).tolist())
    for id_ in [id_ for id_ in segments if id_ not in present]:
        del segments[id_]
