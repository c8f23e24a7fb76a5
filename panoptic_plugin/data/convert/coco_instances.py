"""COCO instance JSON (polygons, run-length codes) to a panoptic set, with stuff from semantic PNGs if there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from panoptic_plugin.data.convert import masks
from panoptic_plugin.data.convert.layers import DEFAULT_OVERLAP, OVERLAP_RULES, Flat, Layer, flatten
from panoptic_plugin.data.convert.panoptic_set import (
    Record,
    complete_categories,
    inside_path,
    png_names,
    records_by_id,
    write_annotation,
    written_set,
)
from panoptic_plugin.data.convert.parallel import in_order
from panoptic_plugin.data.convert.pixels import check_same_size, image_size, read_label_png
from panoptic_plugin.data.convert.report import Report, counted
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.data.panoptic_json import field, read_json
from panoptic_plugin.errors import DatasetError


@dataclass(frozen=True)
class InstanceOptions:
    """How instances become a panoptic set.

    Attributes:
        overlap: a key of :data:`OVERLAP_RULES`.
        background: name of a stuff class for pixels of nothing; they stay void without it.
        semantic_root: folder of grey PNGs named like the images, whose values are stuff category ids.
        stuff: categories of those PNGs, dicts with id and name.
        name: the set's: NAME.json and the folder NAME of PNGs.
        overwrite: replace files of these names.
        num_workers: threads.
    """

    overlap: str = DEFAULT_OVERLAP
    background: str | None = None
    semantic_root: str | None = None
    stuff: Sequence[Mapping[str, Any]] = ()
    name: str = "panoptic"
    overwrite: bool = False
    num_workers: int | None = None


def convert_coco_instances(json_path: str | Path, output: str | Path, options: InstanceOptions) -> Report:
    """Write ``output/NAME.json`` and ``output/NAME/*.png``.

    Where masks overlap, ``options.overlap`` decides; crowds lie behind all instances, stuff behind all crowds. Segment
    ids count the annotations of an image from 1, stuff follows. The same input gives the same bytes.

    Raises:
        DatasetError: whatever cannot be used, with the file and the record.
    """
    path = str(json_path)
    content = read_json(path)
    images = records_by_id(path, content.get("images"), "images", "id")
    categories, background_id = _categories(path, content.get("categories"), options)
    layers, empty = _layers(path, content.get("annotations"), images, {c["id"] for c in categories})
    names = png_names([inside_path(f"{path}: image {key!r}", image.get("file_name")) for key, image in images.items()])
    stuff_ids = sorted(category["id"] for category in options.stuff)
    with Staging(output, overwrite=options.overwrite) as stage:
        stage.refuse_existing(f"{options.name}.json")
        paint = partial(_paint, path, stage, options, stuff_ids, background_id)
        jobs = [(image, name, layers[key]) for (key, image), name in zip(images.items(), names, strict=True)]
        done = in_order(paint, jobs, "images", options.num_workers)
        annotations = [annotation for annotation, _ in done]
        stage.write_json(
            f"{options.name}.json",
            {"images": list(images.values()), "annotations": annotations, "categories": categories},
        )
    lost = sum((lost for _, lost in done), Counter({"annotations without any area": empty}))
    return _report(path, output, options, sum(map(len, layers.values())) + empty, annotations, lost)


def _categories(path: str, given: Any, options: InstanceOptions) -> tuple[list[Record], int | None]:
    """All categories of the panoptic set, and the id of the background class if there is one."""
    things = records_by_id(path, given, "categories", "id")
    categories: dict[int, Record] = {}
    for category in [*things.values(), *({**one, "isthing": 0} for one in options.stuff)]:
        category_id, name = category["id"], field(category, "name", f"{path}: category {category['id']!r}")
        if not isinstance(category_id, int):
            raise DatasetError(f"{path}: category {name!r} has the id {category_id!r}, expected a whole number")
        if category_id in categories and categories[category_id]["name"] != name:
            raise DatasetError(
                f"{path}: the id {category_id} is {categories[category_id]['name']!r} among the instances and {name!r} "
                "among the stuff classes; give one of them another id"
            )
        categories.setdefault(category_id, {"isthing": 1, **category})
    background_id = None
    if options.background:
        background_id = next((k for k, c in categories.items() if c["name"] == options.background), max(categories) + 1)
        categories.setdefault(background_id, {"id": background_id, "name": options.background, "isthing": 0})
        if categories[background_id]["isthing"]:
            raise DatasetError(f"{path}: background {options.background!r} is a class of things; choose another name")
    return complete_categories(list(categories.values())), background_id


def _layers(
    path: str, annotations: Any, images: Mapping[int | str, Record], known: set[int]
) -> tuple[dict[int | str, list[Layer]], int]:
    """Each image's masks in their order, and how many annotations have no area."""
    if not isinstance(annotations, list):
        raise DatasetError(f"{path}: 'annotations' is missing or no list")
    sizes = {
        key: image_size(f"{path}: image {key!r}", image.get("height"), image.get("width"))
        for key, image in images.items()
    }
    layers: dict[int | str, list[Layer]] = {key: [] for key in images}
    empty = 0
    for index, annotation in enumerate(annotations):
        where = f"{path}: annotations[{index}]"
        image_id, category = field(annotation, "image_id", where), field(annotation, "category_id", where)
        if not isinstance(image_id, (int, str)) or image_id not in images:
            raise DatasetError(f"{where}: image_id is {image_id!r}, which is none of the images")
        if isinstance(category, bool) or not isinstance(category, int) or category not in known:
            raise DatasetError(f"{where}: category_id is {category!r}, which is none of the categories")
        code = masks.from_segmentation(where, field(annotation, "segmentation", where), sizes[image_id])
        if code is None or not masks.area(code):
            empty += 1
            continue
        layers[image_id].append(Layer(code, category, bool(annotation.get("iscrowd", 0))))
    return layers, empty


def _paint(
    path: str,
    stage: Staging,
    options: InstanceOptions,
    stuff_ids: Sequence[int],
    background_id: int | None,
    job: tuple[Record, str, list[Layer]],
) -> tuple[Record, Counter[str]]:
    """One image's annotation, and what could not be kept of it."""
    image, name, layers = job
    size = (image["height"], image["width"])
    flat = flatten(layers, size, options.overlap)
    ids, segments = flat.ids, dict(flat.segments)
    lost = lost_in_layers(flat)
    next_id = len(layers) + 1
    if options.semantic_root:
        semantic = _read_semantic(options.semantic_root, image["file_name"], size)
        unknown = (ids == 0) & ~np.isin(semantic, [*stuff_ids, 0, 255])
        lost["pixels of semantic PNGs with a value of no stuff class (void now)"] = int(unknown.sum())
        for category in stuff_ids:
            next_id = _fill(ids, (ids == 0) & (semantic == category), next_id, category, segments)
    if background_id is not None:
        _fill(ids, ids == 0, next_id, background_id, segments)
    return write_annotation(stage, options.name, name, image["id"], ids, segments), lost


def lost_in_layers(flat: Flat) -> Counter[str]:
    """What laying masks over each other took away."""
    return Counter(
        {
            "pixels of overlaps, for the masks behind": flat.num_shared,
            "annotations hidden by others": flat.num_hidden,
        }
    )


def _fill(ids: np.ndarray, mask: np.ndarray, new_id: int, category: int, segments: dict[int, tuple[int, int]]) -> int:
    """Give the pixels to a new stuff segment, or to the one of this class that is there; returns the next free id."""
    if not mask.any():
        return new_id
    same = next((id_ for id_, (one, _) in segments.items() if one == category), None)
    ids[mask] = new_id if same is None else same
    segments.setdefault(new_id if same is None else same, (category, 0))
    return new_id + (same is None)


def _read_semantic(root: str, image_name: str, size: tuple[int, int]) -> np.ndarray:
    path = str(Path(root, PurePosixPath(image_name).with_suffix(".png")))
    semantic = read_label_png(path, ("L", "P"))
    check_same_size(path, semantic.shape, size)
    return semantic


def _report(
    path: str,
    output: str | Path,
    options: InstanceOptions,
    num_annotations: int,
    annotations: Sequence[Record],
    lost: Counter[str],
) -> Report:
    report = Report(
        read=[f"{path}: {counted(len(annotations), 'image')}, {counted(num_annotations, 'annotation')}"],
        notes=[f"--overlap {options.overlap}: {OVERLAP_RULES[options.overlap]}; crowds behind, stuff behind them"],
        written=written_set(output, options.name, annotations),
    )
    for what, count in lost.items():
        report.lose(what, count)
    return report
