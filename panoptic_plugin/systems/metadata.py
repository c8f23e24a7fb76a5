"""What a system must know of its dataset: which classes are things, and how ids are composed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.data import Metadata, MetadataCatalog

from panoptic_plugin.errors import ConfigError


@dataclass(frozen=True)
class PanopticClasses:
    """The classes of a panoptic dataset, by contiguous id.

    Attributes:
        thing_ids: sorted contiguous ids of the thing classes.
        num_classes: things and stuff together, None where the dataset does not say.
        label_divisor: ``panoptic id = category * label_divisor + instance``.
    """

    thing_ids: tuple[int, ...]
    num_classes: int | None
    label_divisor: int


def panoptic_classes(dataset_names: Sequence[str], num_classes: int) -> PanopticClasses:
    """The classes of the first training dataset.

    Args:
        dataset_names: DATASETS.TRAIN.
        num_classes: MODEL.SEM_SEG_HEAD.NUM_CLASSES.

    Raises:
        ConfigError: no dataset, one without panoptic metadata, or another number of classes than the dataset has.
    """
    if not dataset_names:
        raise ConfigError("DATASETS.TRAIN is empty; name a panoptic dataset: it says which classes are things")
    name = dataset_names[0]
    metadata = MetadataCatalog.get(name)
    thing_map = metadata.get("thing_dataset_id_to_contiguous_id")
    if thing_map is None:
        raise ConfigError(
            f"DATASETS.TRAIN names {name!r}, which has no thing_dataset_id_to_contiguous_id in MetadataCatalog; "
            "it is not registered, or not as a panoptic dataset (see DATASETS.CUSTOM)"
        )
    found = _num_classes(metadata)
    if found is not None and found != num_classes:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but the dataset {name!r} of DATASETS.TRAIN has {found} "
            f"classes; set it to {found}"
        )
    return PanopticClasses(
        thing_ids=tuple(sorted(set(thing_map.values()))),
        num_classes=found,
        label_divisor=metadata.get("label_divisor", 1000),
    )


def _num_classes(metadata: Metadata) -> int | None:
    """Things and stuff together; None where the metadata names the things alone."""
    stuff_map = metadata.get("stuff_dataset_id_to_contiguous_id")
    if stuff_map is None:
        return None
    thing_map = metadata.get("thing_dataset_id_to_contiguous_id")
    return 1 + max((*thing_map.values(), *stuff_map.values()), default=-1)
