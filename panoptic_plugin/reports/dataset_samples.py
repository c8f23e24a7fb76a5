"""Samples of a panoptic dataset as pictures: masks, borders, class names and segment ids over the image."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.data.panoptic_json import load_records, metadata_from_categories, read_categories
from panoptic_plugin.data.reading import read_image, read_label
from panoptic_plugin.data.segments import measure_segments
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.registry import suggestion
from panoptic_plugin.structures import rgb_to_ids
from panoptic_plugin.visualization.colors import class_colors, segment_colors
from panoptic_plugin.visualization.draw import class_name, draw_panoptic, thing_categories

MIN_SIDE = 768  # smaller pictures are enlarged by a whole factor, so that names can be read


@dataclass(frozen=True)
class ShownSegment:
    """One segment as it is drawn: its id in the PNG, class, RGB colour and pixels."""

    id: int
    name: str
    color: tuple[int, int, int]
    area: int
    is_thing: bool
    is_crowd: bool


@dataclass(frozen=True)
class Sample:
    """One image of a dataset, drawn.

    Attributes:
        image_id, file_name: as the dataset has them.
        image, picture: uint8 RGB (H, W, 3), without and with its segments.
        segments: those with pixels, in the order of their ids.
        void: part of the pixels that belong to no segment.
        missing: ids of the JSON without a pixel in the PNG.
        unnamed: ids of the PNG that the JSON does not name; they are drawn as void.
    """

    image_id: int | str
    file_name: str
    image: np.ndarray
    picture: np.ndarray
    segments: list[ShownSegment]
    void: float
    missing: list[int]
    unnamed: list[int]


def registered_dataset(name: str) -> tuple[list[dict[str, Any]], Any]:
    """Records and metadata of a registered dataset; DatasetError for an unknown one or one without panoptic labels."""
    if name not in DatasetCatalog.list():
        known = sorted(n for n in DatasetCatalog.list() if "panoptic" in n)
        raise DatasetError(
            f"there is no dataset {name!r}. {suggestion(name, known)} A set of your own: --json F --panoptic DIR "
            "--images DIR, or --config-file with DATASETS.CUSTOM"
        )
    records = DatasetCatalog.get(name)
    if not records or "pan_seg_file_name" not in records[0]:
        raise DatasetError(f"dataset {name!r} has no panoptic labels to show")
    return records, MetadataCatalog.get(name)


def dataset_from_files(panoptic_json: str, panoptic_root: str, image_root: str) -> tuple[list[dict[str, Any]], Any]:
    """Records and metadata of a panoptic JSON."""
    metadata = metadata_from_categories(read_categories(panoptic_json))
    return load_records(panoptic_json, image_root, panoptic_root, metadata), SimpleNamespace(**metadata)


def pick(records: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Mapping[str, Any]]:
    """``count`` records drawn with the seed, in the set's order; all where there are not more."""
    if count < 1:
        raise DatasetError(f"--count is {count}, expected 1 or more")
    drawn = random.Random(seed).sample(range(len(records)), min(count, len(records)))
    return [records[index] for index in sorted(drawn)]


def draw_sample(record: Mapping[str, Any], metadata: Any, *, alpha: float = 0.5) -> Sample:
    """Read and draw one record.

    Raises:
        DatasetError: the image or its label is missing, damaged or of another size.
    """
    image = read_image(record["file_name"], "RGB")
    ids = rgb_to_ids(read_label(record["pan_seg_file_name"], "RGB", record["file_name"], image.shape[:2]))
    shapes = measure_segments(ids)
    infos = sorted((s for s in record["segments_info"] if s["id"] in shapes), key=lambda segment: segment["id"])
    things = thing_categories(metadata)
    palette = class_colors(metadata, 1 + max((segment["category_id"] for segment in infos), default=0))
    segments = [
        ShownSegment(
            id=info["id"],
            name=class_name(metadata, info["category_id"]),
            color=color,
            area=shapes[info["id"]].area,
            is_thing=info["category_id"] in things,
            is_crowd=bool(info.get("iscrowd", 0)),
        )
        for info, color in zip(infos, segment_colors(infos, palette, things), strict=True)
    ]
    named = {segment["id"] for segment in record["segments_info"]}
    return Sample(
        image_id=record.get("image_id", ""),
        file_name=Path(record["file_name"]).name,
        image=image,
        picture=_draw(image, ids, segments, alpha),
        segments=segments,
        void=1.0 - sum(segment.area for segment in segments) / max(ids.size, 1),
        missing=sorted(named - set(shapes)),
        unnamed=sorted(set(shapes) - named - {0}),
    )


def _draw(image: np.ndarray, ids: np.ndarray, segments: Sequence[ShownSegment], alpha: float) -> np.ndarray:
    """Each segment is a class of its own for the drawing, so that its label can hold its id."""
    factor = max(1, -(-MIN_SIDE // max(min(image.shape[:2]), 1)))
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        ids = np.repeat(np.repeat(ids, factor, axis=0), factor, axis=1)
    labels = SimpleNamespace(
        stuff_classes=[_label(segment) for segment in segments], stuff_colors=[segment.color for segment in segments]
    )
    infos = [{"id": segment.id, "category_id": number} for number, segment in enumerate(segments)]
    return draw_panoptic(image, ids, labels, alpha=alpha, segments_info=infos)


def _label(segment: ShownSegment) -> str:
    text = f"{segment.name} {segment.id}" + (" (crowd)" if segment.is_crowd else "")
    return text.encode("ascii", "replace").decode("ascii")


def write_pictures(samples: Sequence[Sample], folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """One PNG a sample, image and segments side by side; returns their paths."""
    names = []
    with Staging(folder, overwrite=overwrite) as stage:
        for number, sample in enumerate(samples):
            name = f"{number:03d}_{Path(sample.file_name).stem}.png"
            image = cv2.resize(sample.image, sample.picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
            gap = np.full((image.shape[0], max(4, image.shape[1] // 100), 3), 255, dtype=np.uint8)
            stage.write_png(name, np.concatenate([image, gap, sample.picture], axis=1))
            names.append(Path(folder) / name)
    return names
