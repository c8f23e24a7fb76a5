"""The 2-channel PNG format of panopticapi: category id in red, instance in green; 255 in green is a crowd.

In such a PNG every pixel is a valid panoptic colour already: ``id = category + 256 * instance``. So the way to a
panoptic set keeps the pixels, and the way back is exact for sets with such ids.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from panoptic_plugin.data.convert.panoptic_set import (
    PanopticSet,
    Record,
    complete_categories,
    inside_path,
    read_ids,
    read_panoptic_set,
    records_by_id,
    write_annotation,
    written_set,
)
from panoptic_plugin.data.convert.parallel import in_order
from panoptic_plugin.data.convert.pixels import check_same_size, image_size, read_panoptic_png
from panoptic_plugin.data.convert.report import Report, counted
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.data.panoptic_json import checked_categories, read_json
from panoptic_plugin.errors import DatasetError

CROWD = 255


def convert_from_two_channel(
    png_root: str | Path,
    images_json: str | Path,
    output: str | Path,
    *,
    categories_json: str | Path | None = None,
    name: str = "panoptic",
    overwrite: bool = False,
    num_workers: int | None = None,
) -> Report:
    """Write ``output/NAME.json`` and ``output/NAME/*.png`` from a folder of 2-channel PNGs.

    Args:
        png_root: the PNGs, named like the images.
        images_json: a JSON whose ``images`` list the set.
        categories_json: a JSON with ``categories``, or a list of them; by default ``images_json`` has them.

    Raises:
        DatasetError: whatever cannot be used, with the file; or the output exists.
    """
    path = str(images_json)
    images = records_by_id(path, read_json(path).get("images"), "images", "id")
    categories = complete_categories(read_category_list(str(categories_json or images_json)))
    things = {category["id"]: bool(category["isthing"]) for category in categories}
    with Staging(output, overwrite=overwrite) as stage:
        stage.refuse_existing(f"{name}.json")
        write = partial(_to_panoptic, path, str(png_root), stage, name, things)
        annotations = in_order(write, list(images.values()), "images", num_workers)
        content = {"images": list(images.values()), "annotations": annotations, "categories": categories}
        stage.write_json(f"{name}.json", content)
    return Report(
        read=[f"{png_root}: {counted(len(images), '2-channel PNG')}"],
        notes=["id = category + 256 * instance; instance 255 of a class of things is a crowd"],
        written=written_set(output, name, annotations),
    )


def convert_to_two_channel(
    json_path: str | Path,
    panoptic_root: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    num_workers: int | None = None,
) -> Report:
    """Write one 2-channel PNG an image into the folder ``output``.

    Instances of a class are numbered from 0 in the order of ``segments_info``, crowds are 255. A set whose ids are
    ``category + 256 * instance`` already keeps them.

    Raises:
        DatasetError: a category id above 255, more than 255 instances of a class in an image, or two crowds of one
            class, which this format cannot hold; a damaged file; or an output exists.
    """
    panoptic_set = read_panoptic_set(json_path)
    for category in panoptic_set.categories:
        if not 0 < category["id"] < 256:
            raise DatasetError(
                f"{json_path}: category id {category['id']} does not fit; the 2-channel format holds 1 to 255"
            )
    with Staging(output, overwrite=overwrite) as stage:
        write = partial(_to_two_channel, panoptic_set, str(panoptic_root), stage)
        lost = in_order(write, panoptic_set.pairs, "images", num_workers)
    report = Report(
        read=[f"{json_path}: {counted(len(lost), 'image')}"],
        notes=["instances count from 0 in the order of segments_info; 255 is a crowd"],
        written=[f"{output}: {counted(len(lost), '2-channel PNG')}"],
    )
    report.lose("segment ids (the masks and classes remain)", sum(renumbered for renumbered, _ in lost))
    report.lose("pixels of ids that the JSON does not name (void now)", sum(pixels for _, pixels in lost))
    return report


def read_category_list(path: str) -> list[Record]:
    """Checked categories of a JSON that holds them among others, or of one that is their list."""
    content = read_json(path, allow_list=True)
    return checked_categories(path, content if isinstance(content, list) else content.get("categories"))


def _to_panoptic(path: str, png_root: str, stage: Staging, name: str, things: dict[int, bool], image: Record) -> Record:
    file_name = inside_path(f"{path}: image {image['id']!r}", image.get("file_name"))
    png = Path(file_name).with_suffix(".png").as_posix()
    source = str(Path(png_root, png))
    ids = read_panoptic_png(source)
    if "height" in image:
        where = f"{path}: image {image['id']!r}"
        check_same_size(source, ids.shape, image_size(where, image.get("height"), image.get("width")))
    if ids.size and ids.max() > 0xFFFF:
        raise DatasetError(f"label {source} has values in its blue channel; it is no 2-channel PNG")
    ids[ids & 0xFF == 0] = 0  # category 0 is void, whatever the instance
    segments = {}
    for value in (int(v) for v in np.unique(ids) if v):
        category, instance = value & 0xFF, value >> 8
        if category not in things:
            raise DatasetError(f"label {source} holds category {category}, which is none of the categories")
        segments[value] = (category, int(things[category] and instance == CROWD))
    return write_annotation(stage, name, png, image["id"], ids, segments)


def _to_two_channel(
    panoptic_set: PanopticSet, root: str, stage: Staging, pair: tuple[Record, Record]
) -> tuple[int, int]:
    """Write one PNG; returns how many segments got another id, and how many pixels have an id of no segment."""
    image, annotation = pair
    ids = read_ids(panoptic_set, root, image, annotation)
    codes = _codes(f"{panoptic_set.path}: image {image['id']!r}", annotation["segments_info"], panoptic_set.things)
    present, inverse = np.unique(ids, return_inverse=True)
    table = np.array([codes.get(int(id_), 0) for id_ in present], dtype=np.int32)
    values = table[inverse.reshape(ids.shape)]
    channels = np.stack([values & 0xFF, values >> 8, np.zeros_like(values)], axis=-1).astype(np.uint8)
    stage.write_png(annotation["file_name"], channels)
    return sum(id_ != code for id_, code in codes.items()), int(((ids != 0) & (values == 0)).sum())


def _codes(where: str, segments: list[Record], things: set[int]) -> dict[int, int]:
    """Segment id -> category + 256 * instance."""
    if all(_is_code(segment, things) for segment in segments):
        return {segment["id"]: segment["id"] for segment in segments}
    count: dict[int, int] = {}
    codes: dict[int, int] = {}
    for segment in segments:
        category = segment["category_id"]
        instance = CROWD
        if category not in things or not segment.get("iscrowd", 0):
            instance = count.setdefault(category, 0)
            count[category] += 1
        code = category + 256 * instance
        if code in codes.values() or (category in things and instance >= CROWD and not segment.get("iscrowd", 0)):
            raise DatasetError(
                f"{where} has more than 255 instances or more than one crowd of category {category}, which the "
                "2-channel format cannot hold"
            )
        codes[segment["id"]] = code
    return codes


def _is_code(segment: Record, things: set[int]) -> bool:
    category, instance = segment["id"] & 0xFF, segment["id"] >> 8
    is_crowd = category in things and bool(segment.get("iscrowd", 0))
    fits = instance == CROWD if is_crowd else instance < CROWD or category not in things
    return segment["id"] <= 0xFFFF and category == segment["category_id"] and fits
