"""A model that needs no training, for tests of the demo: a road, a sure car and a doubtful one, wherever it looks."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

DATASET = "stub_scenes"
SEGMENTS = (
    {"id": 0, "category_id": 0, "isthing": False, "score": None},
    {"id": 1001, "category_id": 1, "isthing": True, "score": 0.9},
    {"id": 1002, "category_id": 1, "isthing": True, "score": 0.2},
)


class StubPanopticModel(torch.nn.Module):
    """Cars of 10x10 pixels at (10, 10) and (30, 10), at the size that is asked for.

    Attributes:
        seconds: how long an image takes.
        batches: the shapes of the images of each call.
    """

    seconds = 0.0
    batches: list[list[tuple[int, ...]]] = []

    def __init__(self, cfg):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def forward(self, inputs):
        self.batches.append([tuple(one["image"].shape) for one in inputs])
        time.sleep(self.seconds * len(inputs))
        outputs = []
        for one in inputs:
            assert one["image"].shape[0] == 3 and min(one["image"].shape[1:]) == 64
            ids = torch.zeros(one["height"], one["width"], dtype=torch.int64)
            ids[10:20, 10:20], ids[30:40, 10:20] = 1001, 1002
            outputs.append({"panoptic_seg": (ids, None), "segments_info": [dict(segment) for segment in SEGMENTS]})
        return outputs


def register() -> None:
    """Make the model and its dataset known to Detectron2."""
    META_ARCH_REGISTRY._obj_map["StubPanopticModel"] = StubPanopticModel
    StubPanopticModel.batches = []
    DatasetCatalog.register(DATASET, list)
    MetadataCatalog.get(DATASET).set(
        stuff_classes=["road", "car"],
        thing_dataset_id_to_contiguous_id={26: 1},
        stuff_dataset_id_to_contiguous_id={7: 0},
    )


def unregister() -> None:
    META_ARCH_REGISTRY._obj_map.pop("StubPanopticModel", None)
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.pop(DATASET, None)


def write_model(folder: Path) -> tuple[Path, Path]:
    """``config.yaml`` and ``model_final.pth`` of the model in ``folder``."""
    config, weights = folder / "config.yaml", folder / "model_final.pth"
    torch.save({"model": StubPanopticModel(None).state_dict()}, weights)
    config.write_text(
        f"MODEL:\n  META_ARCHITECTURE: StubPanopticModel\n  WEIGHTS: {weights}\n  DEVICE: cpu\n"
        f"DATASETS:\n  TEST: [{DATASET}]\nINPUT:\n  MIN_SIZE_TEST: 64\n"
    )
    return config, weights
