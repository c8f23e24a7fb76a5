"""A run's saved predictions and the ground truth that belongs to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_plugin.errors import DatasetError, one_line
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth, read_panoptic_png
from panoptic_plugin.reports.run_matching import Match, match_image

# Where predictions lie: (JSON, folder of its PNGs), below the folder of the results.
PREDICTIONS = (("predictions/panoptic.json", "predictions/panoptic"), ("predictions/panoptic.json", "predictions"),
               ("predictions.json", "predictions"))  # fmt: skip


@dataclass
class Dataset:
    """What is needed of a registered dataset: truth, images and names."""

    name: str
    truth: PanopticGroundTruth
    metadata: Any
    contiguous_ids: dict[int, int]
    thing_ids: frozenset[int]
    _files: dict[str, str] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        return [str(name) for name in self.metadata.stuff_classes]

    def image_file(self, image_id: str) -> str:
        """Path of an image."""
        if not self._files:
            self._files.update((str(one["image_id"]), one["file_name"]) for one in DatasetCatalog.get(self.name))
        return self._files[image_id]


def open_dataset(name: str | None) -> Dataset:
    """The ground truth of a registered dataset.

    Raises:
        DatasetError: unknown, not panoptic, or not on this machine.
    """
    if name is None or name not in DatasetCatalog.list():
        raise DatasetError(f"the dataset {name!r} is not registered here")
    metadata = MetadataCatalog.get(name)
    things = metadata.get("thing_dataset_id_to_contiguous_id", None)
    if not metadata.get("panoptic_json", None) or things is None:
        raise DatasetError(f"the dataset {name} has no panoptic ground truth")
    contiguous = {**metadata.stuff_dataset_id_to_contiguous_id, **things}
    truth = PanopticGroundTruth(
        panoptic_json=metadata.panoptic_json,
        panoptic_root=metadata.panoptic_root,
        contiguous_ids=contiguous,
        ignore_label=metadata.get("ignore_label", 255),
    )
    return Dataset(name, truth, metadata, contiguous, frozenset(things.values()))


class Predictions:
    """A run's predictions in COCO's panoptic format.

    Args:
        folder: of the results.
        contiguous_ids: category id of the JSON -> contiguous id.

    Raises:
        DatasetError: there are none, or they cannot be read.
    """

    def __init__(self, folder: Path, contiguous_ids: Mapping[int, int]):
        places = [(folder / file, folder / root) for file, root in PREDICTIONS if (folder / file).is_file()]
        places = [place for place in places if place[1].is_dir()]
        if not places:
            raise DatasetError(
                f"{folder} holds no predictions; evaluate again with TEST.SAVE_PREDICTIONS True to see images"
            )
        file, self._root = places[0]
        try:
            annotations = json.loads(file.read_text(encoding="utf-8"))["annotations"]
            self._annotations = {str(one["image_id"]): one for one in annotations}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{file} cannot be read: {one_line(error)}") from None
        self._contiguous_ids = contiguous_ids

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._annotations

    def load(self, image_id: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Ids (H, W) and segments (id, category_id contiguous)."""
        annotation = self._annotations[image_id]
        segments = [
            {"id": int(one["id"]), "category_id": self._contiguous_ids[one["category_id"]]}
            for one in annotation["segments_info"]
        ]
        return read_panoptic_png(self._root / annotation["file_name"]), segments


@dataclass(frozen=True)
class Pictures:
    """Where a run's pictures come from."""

    dataset: Dataset
    predictions: Predictions

    def match(self, image_id: str) -> Match:
        """Read the truth and the prediction of an image and match them."""
        return match_image(self.dataset.truth.load(image_id), *self.predictions.load(image_id))
