"""Cityscapes and COCO panoptic under Detectron2's names, in Detectron2's layout below ``$DETECTRON2_DATASETS``.

The entries replace Detectron2's: its Cityscapes loaders import a module that its users do not have (main), look at
the first file only, and answer a missing folder with an assertion. Metadata stay as Detectron2 has them, so its
evaluators and Visualizer work as before. Nothing is read from disk before a dataset is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import detectron2.data.datasets.builtin  # noqa: F401  (its entries have to be there before they are replaced)
from detectron2.data import MetadataCatalog

from panoptic_plugin.data.catalog import datasets_root, replace_dataset
from panoptic_plugin.data.datasets.cityscapes import load_cityscapes_panoptic, load_cityscapes_semantic
from panoptic_plugin.data.datasets.coco import load_coco_panoptic

Loader = Callable[[str], list[dict[str, Any]]]

SPLITS = ("train", "val")


def register_builtin_datasets(root: str | None = None) -> None:
    """Put our loaders into the catalog.

    Args:
        root: the folder that holds ``cityscapes/`` and ``coco/``; by default ``$DETECTRON2_DATASETS``. Calling this
            again with another root moves the datasets there.
    """
    root = datasets_root() if root is None else root
    for split in SPLITS:
        _replace(f"cityscapes_fine_panoptic_{split}", load_cityscapes_panoptic, _cityscapes_panoptic_paths(root, split))
        _replace(f"cityscapes_fine_sem_seg_{split}", load_cityscapes_semantic, _cityscapes_semantic_paths(root, split))
    for split in ("train", "val", "val_100"):
        _replace(f"coco_2017_{split}_panoptic", load_coco_panoptic, _coco_paths(root, split))


def _replace(name: str, load: Loader, paths: dict[str, str]) -> None:
    metadata = {**MetadataCatalog.get(name).as_dict(), **paths}
    metadata.pop("name", None)
    replace_dataset(name, partial(load, name), metadata)


def _cityscapes_panoptic_paths(root: str, split: str) -> dict[str, str]:
    return {
        "image_root": os.path.join(root, "cityscapes/leftImg8bit", split),
        "panoptic_root": os.path.join(root, f"cityscapes/gtFine/cityscapes_panoptic_{split}"),
        "panoptic_json": os.path.join(root, f"cityscapes/gtFine/cityscapes_panoptic_{split}.json"),
        "gt_dir": os.path.join(root, "cityscapes/gtFine", split),
    }


def _cityscapes_semantic_paths(root: str, split: str) -> dict[str, str]:
    # The slash at the end is Detectron2's.
    return {
        "image_dir": os.path.join(root, f"cityscapes/leftImg8bit/{split}/"),
        "gt_dir": os.path.join(root, f"cityscapes/gtFine/{split}/"),
    }


def _coco_paths(root: str, split: str) -> dict[str, str]:
    folder = split.replace("val", "val2017").replace("train", "train2017")
    return {
        "image_root": os.path.join(root, "coco", folder.removesuffix("_100")),
        "panoptic_root": os.path.join(root, f"coco/panoptic_{folder}"),
        "panoptic_json": os.path.join(root, f"coco/annotations/panoptic_{folder}.json"),
        "json_file": os.path.join(root, f"coco/annotations/instances_{folder}.json"),
    }


register_builtin_datasets()
