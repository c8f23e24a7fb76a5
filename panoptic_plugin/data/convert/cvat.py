"""CVAT's JSON export ("Datumaro 1.0", https://docs.cvat.ai) to a panoptic set; its "COCO 1.0" is COCO's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from panoptic_plugin.data.convert import masks
from panoptic_plugin.data.convert.drawings import Drawing, DrawingOptions, write_drawings
from panoptic_plugin.data.convert.panoptic_set import inside_path
from panoptic_plugin.data.convert.pixels import image_size
from panoptic_plugin.data.convert.report import Report
from panoptic_plugin.data.panoptic_json import field, read_json
from panoptic_plugin.errors import DatasetError


def convert_cvat(json_path: str | Path, output: str | Path, options: DrawingOptions) -> Report:
    """Write a panoptic set from one JSON; image ids are the items' ids, classes keep the order of the file.

    Polygons, boxes and masks are drawn, in ``z_order``; annotations of one label and ``group`` (other than 0) are one
    object. Other kinds are counted as lost.

    Raises:
        DatasetError: the file cannot be used, with the item; or the output exists.
    """
    path = str(json_path)
    content = read_json(path)
    try:
        names = [str(label["name"]) for label in content["categories"]["label"]["labels"]]
    except (KeyError, TypeError):
        raise DatasetError(
            f"{path}: no categories.label.labels with names; export from CVAT as 'Datumaro 1.0', or convert its "
            "'COCO 1.0' export with coco-instances"
        ) from None
    items = content.get("items")
    if not isinstance(items, list) or not items or not names:
        raise DatasetError(f"{path}: 'items' or the labels are missing or empty")
    drawings = [_read(f"{path}: items[{number}]", item, names) for number, item in enumerate(items)]
    ids = [drawing.image["id"] for drawing in drawings]
    if len(set(ids)) != len(ids):
        raise DatasetError(f"{path}: the id {next(i for i in ids if ids.count(i) > 1)!r} stands twice in 'items'")
    return write_drawings(path, output, drawings, names, options)


def _read(where: str, item: Any, names: list[str]) -> Drawing:
    image = field(item, "image", where)
    size = field(image, "size", f"{where}: image")
    if not isinstance(size, list) or len(size) != 2:
        raise DatasetError(f"{where}: image size is {size!r}, expected [height, width]")
    height, width = image_size(where, *size)
    item_id = field(item, "id", where)
    if not isinstance(item_id, (str, int)):
        raise DatasetError(f"{where}: id is {item_id!r}, expected a string")
    annotations = field(item, "annotations", where)
    if not isinstance(annotations, list):
        raise DatasetError(f"{where}: 'annotations' is a {type(annotations).__name__}, expected a list")
    grouped: dict[Any, tuple[str, list[Any]]] = {}
    lost = 0
    for number, annotation in _in_z_order(where, annotations):
        here = f"{where}: annotations[{number}]"
        to_mask = _KINDS.get(str(annotation.get("type")))
        if to_mask is None:
            lost += 1
            continue
        label = field(annotation, "label_id", here)
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(names):
            raise DatasetError(f"{here}: label_id is {label!r}, expected 0 to {len(names) - 1}")
        code = to_mask(here, annotation, (height, width))
        if code is None:
            lost += 1
            continue
        key = (label, repr(annotation["group"])) if annotation.get("group") else ("single", number)
        grouped.setdefault(key, (names[label], []))[1].append(code)
    objects = [(name, masks.union(codes)) for name, codes in grouped.values()]
    record = {
        "id": item_id,
        "file_name": inside_path(where, field(image, "path", f"{where}: image")),
        "height": height,
        "width": width,
    }
    return Drawing(record, objects, {"annotations that enclose nothing (points, lines, tags)": lost})


def _in_z_order(where: str, annotations: list[Any]) -> list[tuple[int, dict[str, Any]]]:
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, dict) or not masks.is_number(annotation.get("z_order", 0)):
            raise DatasetError(f"{where}: annotations[{number}] is no object with a number as z_order")
    return sorted(enumerate(annotations), key=lambda pair: pair[1].get("z_order", 0))


def _polygon(where: str, annotation: dict[str, Any], size: tuple[int, int]) -> Any:
    return masks.from_polygons(where, [field(annotation, "points", where)], size)


def _box(where: str, annotation: dict[str, Any], size: tuple[int, int]) -> Any:
    box = field(annotation, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(masks.is_number(value) for value in box):
        raise DatasetError(f"{where}: bbox is {box!r}, expected [x, y, width, height]")
    x, y, width, height = box
    return masks.from_polygons(where, [masks.rectangle(x, y, x + width, y + height)], size)


def _mask(where: str, annotation: dict[str, Any], size: tuple[int, int]) -> Any:
    return masks.from_rle(where, field(annotation, "rle", where), size)


_KINDS = {"polygon": _polygon, "bbox": _box, "mask": _mask}
