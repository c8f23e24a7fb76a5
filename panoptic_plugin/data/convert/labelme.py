"""LabelMe's JSON files (https://github.com/wkentaro/labelme), one an image, to a panoptic set."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from panoptic_plugin.data.convert import masks
from panoptic_plugin.data.convert.drawings import Drawing, DrawingOptions, write_drawings
from panoptic_plugin.data.convert.panoptic_set import inside_path
from panoptic_plugin.data.convert.pixels import image_size
from panoptic_plugin.data.convert.report import Report
from panoptic_plugin.data.panoptic_json import field, read_json
from panoptic_plugin.errors import DatasetError

CIRCLE_CORNERS = 64


def convert_labelme(folder: str | Path, output: str | Path, options: DrawingOptions) -> Report:
    """Write a panoptic set from all ``*.json`` below a folder; image ids are the files' paths without extension.

    Polygons, rectangles and circles are drawn; shapes of one label and ``group_id`` are one object. Points, lines and
    painted masks have no outline and are counted as lost. Classes are in alphabetical order.

    Raises:
        DatasetError: a file that cannot be used, with its name; no files; or the output exists.
    """
    root = Path(folder)
    skipped = {Path(output).resolve() / f"{options.name}.json"}
    files = [file for file in sorted(root.rglob("*.json")) if file.resolve() not in skipped]
    if not files:
        raise DatasetError(f"{root} holds no LabelMe file (*.json); check the folder")
    drawings = [_read(root, file) for file in files]
    names = sorted({name for drawing in drawings for name, _ in drawing.objects})
    return write_drawings(str(root), output, drawings, names, options)


def _read(root: Path, file: Path) -> Drawing:
    content = read_json(str(file))
    size = image_size(str(file), content.get("imageHeight"), content.get("imageWidth"))
    shapes = field(content, "shapes", str(file))
    if not isinstance(shapes, list):
        raise DatasetError(f"{file}: 'shapes' is a {type(shapes).__name__}, expected a list")
    grouped: dict[Any, tuple[str, list[list[float]]]] = {}
    lost = 0
    for number, shape in enumerate(shapes):
        where = f"{file}: shapes[{number}]"
        label = field(shape, "label", where)
        if not isinstance(label, str) or not label:
            raise DatasetError(f"{where}: label is {label!r}, expected the name of a class")
        outline = _outline(where, shape)
        if outline is None:
            lost += 1
            continue
        group = shape.get("group_id")
        key = ("single", number) if group is None else (label, repr(group))
        grouped.setdefault(key, (label, []))[1].append(outline)
    objects = []
    for label, polygons in grouped.values():
        code = masks.from_polygons(f"{file}: {label}", polygons, size)
        if code is None:
            lost += 1
        else:
            objects.append((label, code))
    # Only the name is the image's for certain: LabelMe often stores a path of the machine that drew it.
    image_name = inside_path(str(file), PurePosixPath(str(content.get("imagePath") or "").replace("\\", "/")).name)
    below = file.relative_to(root).parent
    image = {
        "id": file.relative_to(root).with_suffix("").as_posix(),
        "file_name": (below / image_name).as_posix(),
        "height": size[0],
        "width": size[1],
    }
    return Drawing(image, objects, {"shapes without an outline (points, lines, painted masks)": lost})


def _outline(where: str, shape: dict[str, Any]) -> list[float] | None:
    """The shape as x, y, x, y, ...; None for one that encloses nothing."""
    kind, points = shape.get("shape_type", "polygon"), shape.get("points")
    if kind not in ("polygon", "rectangle", "circle"):
        return None
    is_pairs = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    if not is_pairs or not all(masks.is_number(value) for point in points for value in point):
        raise DatasetError(f"{where}: points is {masks.short(points)}, expected a list of [x, y]")
    if kind == "polygon":
        return [value for point in points for value in point]
    if len(points) != 2:
        raise DatasetError(f"{where}: a {kind} with {len(points)} points, expected 2")
    (x0, y0), (x1, y1) = points
    return masks.rectangle(x0, y0, x1, y1) if kind == "rectangle" else masks.circle(x0, y0, x1, y1, CIRCLE_CORNERS)
