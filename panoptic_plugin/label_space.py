"""Which slot of a model's class head stands for which class of a dataset."""

from __future__ import annotations

from typing import Any

from panoptic_plugin.errors import ConfigError

LABEL_SPACES = ("dataset", "contiguous")


def head_slots(metadata: Any, label_space: str) -> dict[int, int]:
    """Contiguous category -> slot of the class head.

    Args:
        metadata: of a panoptic dataset.
        label_space: ``"dataset"`` takes the dataset's own category ids, as the official COCO models of DETR do;
            ``"contiguous"`` the contiguous ones.

    Raises:
        ConfigError: an unknown ``label_space``.
    """
    if label_space not in LABEL_SPACES:
        raise ConfigError(f"MODEL.DETR.LABEL_SPACE is {label_space!r}, expected one of {', '.join(LABEL_SPACES)}")
    # A set of one kind of classes may lack the other map.
    maps = (metadata.get(f"{kind}_dataset_id_to_contiguous_id", {}) for kind in ("thing", "stuff"))
    pairs = {contiguous: dataset_id for one in maps for dataset_id, contiguous in one.items()}
    return pairs if label_space == "dataset" else {contiguous: contiguous for contiguous in pairs}
