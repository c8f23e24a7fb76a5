"""What a panoptic dataset's metadata say, and what follows from it for an evaluation: its truth, AP and cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth
from panoptic_plugin.evaluation.instance import CityscapesAP, CocoAP
from panoptic_plugin.evaluation.truth_cache import Store, TruthCache, cache_root, check_cache_keys
from panoptic_plugin.evaluation.truth_files import INSTANCES, PANOPTIC
from panoptic_plugin.evaluation.truth_stores import FileStore, FolderStore

INSTANCE_METRICS = ("dataset", "coco")
PANOPTIC_TYPES = ("coco_panoptic_seg", "cityscapes_panoptic_seg")


@dataclass(frozen=True)
class PanopticLabels:
    """What a panoptic dataset's metadata say, and where its truth is.

    Attributes:
        metadata: with the keys that ``register_panoptic_dataset`` sets.
        contiguous_ids: category id of the JSON -> contiguous id.
        class_names: by contiguous id.
        thing_ids: contiguous ids of the things.
        truth: the ground truth.
    """

    metadata: Any
    contiguous_ids: dict[int, int]
    class_names: list[str]
    thing_ids: frozenset[int]
    truth: PanopticGroundTruth

    @classmethod
    def of(cls, metadata: Any) -> PanopticLabels:
        """From Detectron2's metadata; raises DatasetError for a ground truth that cannot be read."""
        things = dict(metadata.thing_dataset_id_to_contiguous_id)
        # The stuff table of some datasets lists the things as well, so the things have the last word.
        contiguous_ids = {**metadata.stuff_dataset_id_to_contiguous_id, **things}
        truth = PanopticGroundTruth(
            panoptic_json=metadata.panoptic_json,
            panoptic_root=metadata.panoptic_root,
            contiguous_ids=contiguous_ids,
            ignore_label=metadata.get("ignore_label", 255),
            stuff_ids=set(contiguous_ids.values()) - set(things.values()),
        )
        return cls(metadata, contiguous_ids, list(metadata.stuff_classes), frozenset(things.values()), truth)


def make_instance_metric(labels: PanopticLabels, kind: str = "dataset") -> CityscapesAP | CocoAP:
    """The AP of a dataset; see ``TEST.INSTANCE_METRIC``, which is ``kind``.

    Raises:
        ConfigError: a kind that is none.
    """
    if kind not in INSTANCE_METRICS:
        raise ConfigError(f"TEST.INSTANCE_METRIC is {kind!r}, expected one of {', '.join(INSTANCE_METRICS)}")
    if kind == "dataset" and labels.metadata.get("evaluator_type", None) == "cityscapes_panoptic_seg":
        return CityscapesAP(class_names=labels.class_names, gt_dir=labels.metadata.get("gt_dir", None))
    return CocoAP(class_names=labels.class_names, thing_ids=labels.thing_ids)


def use_cache(cfg: CfgNode, labels: PanopticLabels, dataset_name: str) -> None:
    """Let the truth come from a cache on disk, see docs/evaluation.md.

    Args:
        cfg: reads TEST.CACHE, TEST.CACHE_VERIFY, TEST.PANOP_JSON and TEST.INSTANCE_COCO_EVAL.
        labels: whose ``truth`` gets the cache.
        dataset_name: names the folder.

    Raises:
        ConfigError: keys that are none of their choices.
        DatasetError: a file that was given is of other data, damaged or no cache.
    """
    test = cfg.TEST
    check_cache_keys(test.CACHE, test.CACHE_VERIFY)
    if test.CACHE == "off":
        return
    root = cache_root()
    automatic = FolderStore(root, dataset_name) if root else None
    stores: list[Store] = [automatic] if automatic else []
    if test.PANOP_JSON:
        stores = [FileStore(Path(test.PANOP_JSON), "TEST.PANOP_JSON", PANOPTIC)]
    if test.INSTANCE_COCO_EVAL:
        stores.append(FileStore(Path(test.INSTANCE_COCO_EVAL), "TEST.INSTANCE_COCO_EVAL", INSTANCES))
    classes = {
        "names": labels.class_names,
        "things": sorted(labels.thing_ids),
        "contiguous_ids": sorted(labels.contiguous_ids.items()),
        "label_divisor": labels.metadata.get("label_divisor", 1000),
    }
    cache = TruthCache(
        labels.truth,
        classes=classes,
        stores=stores,
        hash_index=automatic.hash_index if automatic and test.CACHE_VERIFY == "stat" else None,
        rebuild=test.CACHE == "rebuild",
    )
    labels.truth.cache = cache
    if any(store.is_given for store in stores):
        cache.open()  # what is wrong with it is said before anything is predicted
