"""The objects of a panoptic dataset as a network sees them: where, how large, in an image of which size."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge

from panoptic_plugin.data.panoptic_json import IGNORE_LABEL
from panoptic_plugin.data.reading import open_image
from panoptic_plugin.data.targets_instances import InstanceTargets
from panoptic_plugin.data.window import Window
from panoptic_plugin.integrity import DEFAULT_MAX_PIXELS

MAX_WORKERS = 8

# (integers (H, W), t + 1 on object t, and T) -> centers of mass (T, 2), (height, width) of boxes (T, 2), areas (T,)
Geometry = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class GridObjects:
    """T objects in the order of their images, in an image that of the ground truth.

    Attributes:
        images: int64 (T,), the number of the image.
        centers_yx: float64 (T, 2), centers of mass in pixels of the network input.
        sizes: float64 (T, 2), height and width of the boxes.
        padded: int64 (T, 2), height and width of the network input.
        num_images: images, with and without objects.
        num_vanished: objects of the dataset that have no pixel once the image is resized.
    """

    images: np.ndarray
    centers_yx: torch.Tensor
    sizes: torch.Tensor
    padded: np.ndarray
    num_images: int
    num_vanished: int

    @property
    def scales(self) -> np.ndarray:
        """float64 (T,): square roots of the boxes' areas."""
        return self.sizes.prod(dim=1).sqrt().numpy()

    @property
    def an_image(self) -> np.ndarray:
        """int64 (num_images,): objects of each image."""
        return np.bincount(self.images, minlength=self.num_images)


def read_objects(
    records: Sequence[Mapping[str, Any]],
    thing_ids: Collection[int],
    *,
    edges: tuple[int, int],
    pad_to: int,
    geometry: Geometry,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    num_workers: int | None = None,
) -> GridObjects:
    """Read the objects of a dataset from its panoptic PNGs; crowds are none. The images are not needed.

    Args:
        records: Detectron2's dataset dicts.
        thing_ids: contiguous ids of the thing classes.
        edges: shorter edge that images are resized to, and the most that the longer one may have; (0, any) for none.
        pad_to: height and width are padded to multiples of it.
        geometry: measures the objects of an image.
        max_pixels: larger labels are refused before they are decoded.
        num_workers: threads; one a core by default, at most 8.

    Raises:
        DatasetError: a label is missing, damaged or too large.
    """
    targets = InstanceTargets(ignore_label=IGNORE_LABEL, thing_ids=thing_ids)
    read = partial(_read_image, targets=targets, edges=edges, pad_to=pad_to, geometry=geometry, max_pixels=max_pixels)
    workers = num_workers or min(MAX_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(read, records))
    empty = [torch.zeros(0, 2, dtype=torch.float64)]
    counts = [len(centers) for centers, *_ in found]
    return GridObjects(
        images=np.repeat(np.arange(len(found)), counts),
        centers_yx=torch.cat([one[0] for one in found] or empty),
        sizes=torch.cat([one[1] for one in found] or empty),
        padded=np.repeat(np.array([one[2] for one in found], dtype=np.int64).reshape(-1, 2), counts, axis=0),
        num_images=len(found),
        num_vanished=sum(one[3] for one in found),
    )


def _read_image(
    record: Mapping[str, Any],
    *,
    targets: InstanceTargets,
    edges: tuple[int, int],
    pad_to: int,
    geometry: Geometry,
    max_pixels: int,
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int], int]:
    """Centers, sizes, padded size, and the number of objects that vanish in resizing."""
    label = open_image(record["pan_seg_file_name"], "RGB", max_pixels=max_pixels)
    resized = ResizeShortestEdge.get_output_shape(*label.size, *edges) if edges[0] else label.size
    segments = record["segments_info"]
    found = targets(Window(label.size, resized, 0, 0, *resized).of_label(label), segments)
    num_objects = len(found["instance_classes"])
    listed = sum(one["category_id"] in targets.class_of and not one["iscrowd"] for one in segments)
    centers, sizes, _ = geometry(found["instance_index"], num_objects)
    padded = (-(-resized[0] // pad_to) * pad_to, -(-resized[1] // pad_to) * pad_to)
    return centers.double(), sizes.double(), padded, listed - num_objects
