"""A panoptic set to COCO instance JSON: one run-length code and box a segment, measured on the PNG."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from panoptic_plugin.data.convert import masks
from panoptic_plugin.data.convert.panoptic_set import PanopticSet, Record, present_segments, read_ids, read_panoptic_set
from panoptic_plugin.data.convert.parallel import in_order
from panoptic_plugin.data.convert.report import Report, counted
from panoptic_plugin.data.convert.staging import Staging


def convert_to_instances(
    json_path: str | Path,
    panoptic_root: str | Path,
    output: str | Path,
    *,
    with_stuff: bool = False,
    overwrite: bool = False,
    num_workers: int | None = None,
) -> Report:
    """Write an instance JSON to the file ``output``.

    Annotations come in the order of the panoptic set and are numbered from 1. Void is not in this format, nor is
    stuff unless ``with_stuff``; the report counts both.

    Raises:
        DatasetError: the set cannot be used, with the file and the record; or the output exists.
    """
    panoptic_set = read_panoptic_set(json_path)
    kept = {category["id"] for category in panoptic_set.categories if with_stuff or category["isthing"]}
    target = Path(output)
    with Staging(target.parent, overwrite=overwrite) as stage:
        stage.refuse_existing(target.name)
        encode = partial(_encode, panoptic_set, str(panoptic_root), kept)
        done = in_order(encode, panoptic_set.pairs, "images", num_workers)
        annotations = [{"id": n, **one} for n, one in enumerate((a for found, _ in done for a in found), start=1)]
        categories = [category for category in panoptic_set.categories if category["id"] in kept]
        content = {**panoptic_set.content(panoptic_set.pairs), "annotations": annotations, "categories": categories}
        stage.write_json(target.name, content)
    report = Report(
        read=[f"{json_path}: {counted(len(done), 'image')}"],
        written=[f"{target}: {counted(len(annotations), 'annotation')}"],
    )
    for _, lost in done:
        for what, count in lost.items():
            report.lose(what, count)
    return report


def _encode(
    panoptic_set: PanopticSet, panoptic_root: str, kept: set[int], pair: tuple[Record, Record]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """One image's annotations, and what of it they do not hold."""
    image, annotation = pair
    ids = read_ids(panoptic_set, panoptic_root, image, annotation)
    found = []
    covered = stuff = present = 0
    for segment, shape in present_segments(ids, annotation):
        present += 1
        covered += shape.area
        if segment["category_id"] not in kept:
            stuff += 1
            continue
        code = masks.encode(ids == segment["id"])
        found.append(
            {
                "image_id": image["id"],
                "category_id": segment["category_id"],
                "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
                "area": shape.area,
                "bbox": shape.bbox,
                "iscrowd": int(bool(segment.get("iscrowd", 0))),
            }
        )
    return found, {
        "stuff segments (--with-stuff keeps them)": stuff,
        "pixels of void": int(ids.size) - covered,
        "segments without a pixel in the PNG": len(annotation["segments_info"]) - present,
    }
