"""A panoptic set to semantic PNGs: one class a pixel, 255 where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from panoptic_plugin.data.convert.panoptic_set import PanopticSet, Record, read_ids, read_panoptic_set
from panoptic_plugin.data.convert.parallel import in_order
from panoptic_plugin.data.convert.report import Report, counted
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.data.panoptic_json import IGNORE_LABEL
from panoptic_plugin.errors import DatasetError

VALUE_RULES = {
    "contiguous": "0, 1, 2, ... in the order of the category ids, as models have them",
    "category": "the category ids of the JSON",
    "stuff": "0 for all things, 1, 2, ... for stuff in the order of ids, as Detectron2's Panoptic FPN has them",
}


def pixel_values(panoptic_set: PanopticSet, rule: str) -> dict[int, int]:
    """Category id -> value in the PNG, by a key of :data:`VALUE_RULES`; DatasetError where 8 bits are too few."""
    ids = [category["id"] for category in panoptic_set.categories]
    things = panoptic_set.things
    stuff = [id_ for id_ in ids if id_ not in things]
    values = {
        "contiguous": {id_: index for index, id_ in enumerate(ids)},
        "category": {id_: id_ for id_ in ids},
        "stuff": {**dict.fromkeys(things, 0), **{id_: index for index, id_ in enumerate(stuff, start=1)}},
    }[rule]
    worst = max(values, key=lambda id_: abs(values[id_]))
    if not all(0 <= value < IGNORE_LABEL for value in values.values()):
        raise DatasetError(
            f"{panoptic_set.path}: category {worst} would be the value {values[worst]}, but a grey PNG holds 0 to "
            f"{IGNORE_LABEL - 1} and {IGNORE_LABEL} for void; take --values contiguous, or fewer classes"
        )
    return values


def semantic_map(ids: np.ndarray, annotation: Record, values: Mapping[int, int]) -> np.ndarray:
    """uint8 (H, W): the value of each pixel's category; 255 for ids of no segment.

    Args:
        ids: int32 (H, W) of the panoptic PNG.
        annotation: the image's, with ``segments_info``.
        values: category id -> value.
    """
    present, inverse = np.unique(ids, return_inverse=True)
    of_segment = {segment["id"]: values[segment["category_id"]] for segment in annotation["segments_info"]}
    table = np.array([of_segment.get(int(id_), IGNORE_LABEL) for id_ in present], dtype=np.uint8)
    return table[inverse.reshape(ids.shape)]


def convert_to_semantic(
    json_path: str | Path,
    panoptic_root: str | Path,
    output: str | Path,
    *,
    values: str = "contiguous",
    overwrite: bool = False,
    num_workers: int | None = None,
) -> Report:
    """Write one grey PNG an image into the folder ``output``, named like the panoptic PNGs.

    Raises:
        DatasetError: the set cannot be used, with the file and the record; or an output exists.
    """
    panoptic_set = read_panoptic_set(json_path)
    table = pixel_values(panoptic_set, values)
    with Staging(output, overwrite=overwrite) as stage:
        write = partial(_write, panoptic_set, str(panoptic_root), stage, table)
        void = in_order(write, panoptic_set.pairs, "images", num_workers)
    report = Report(
        read=[f"{json_path}: {counted(len(void), 'image')}"],
        notes=[f"--values {values}: {VALUE_RULES[values]}; {IGNORE_LABEL} is void"],
        written=[f"{output}: {counted(len(void), 'PNG')}"],
    )
    segments = sum(len(annotation["segments_info"]) for _, annotation in panoptic_set.pairs)
    report.lose("segments as objects of their own (only classes remain), crowd marks too", segments)
    return report


def _write(
    panoptic_set: PanopticSet, root: str, stage: Staging, table: Mapping[int, int], pair: tuple[Record, Record]
) -> int:
    image, annotation = pair
    ids = read_ids(panoptic_set, root, image, annotation)
    stage.write_png(annotation["file_name"], semantic_map(ids, annotation, table))
    return 1
