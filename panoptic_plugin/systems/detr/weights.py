"""Checkpoints of DETR: which layout a file has, and the way to our names and back.

ours: ``detr.*``, ``backbone.*`` with Detectron2's names, ``bbox_attention.*``, ``mask_head.*``
official, panoptic: ``detr.*``, ``detr.backbone.0.body.*`` with torchvision's names, ``bbox_attention.*``,
    ``mask_head.*``
official, boxes: as before without the leading ``detr.`` and without the last two
Detectron2 wrapper: ``detr.*``, for masks ``detr.detr.*`` and ``detr.bbox_attention.*``; the backbone below
    ``backbone.0.backbone.*`` with Detectron2's names
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from panoptic_plugin.errors import CheckpointError
from panoptic_plugin.layers.resnet_names import to_detectron2, to_torchvision

Weights = Mapping[str, torch.Tensor]

ANCHOR = "query_embed.weight"
MASK_PARTS = ("bbox_attention.", "mask_head.")
HEAD = ("detr.class_embed.weight", "detr.class_embed.bias")
# Slots of the official COCO heads that are like classes of other sets. The ids are COCO's category ids.
NO_OBJECT_OF_COCO = 250
COCO_SLOTS = {
    "person": 1, "bicycle": 2, "car": 3, "motorcycle": 4, "bus": 6, "train": 7, "truck": 8, "traffic light": 10,
    "road": 149, "fence": 185, "vegetation": 184, "tree": 184, "sky": 187, "sidewalk": 191, "pavement": 191,
    "building": 197, "wall": 199, "terrain": 193, "grass": 193,
}  # fmt: skip


def is_detr(keys: Weights | set[str] | list[str]) -> bool:
    """Whether these are names of a DETR in any layout."""
    return any(re.search(rf"(^|\.){re.escape(ANCHOR)}$", key) for key in keys) and any(
        "transformer.encoder.layers.0.self_attn.in_proj_weight" in key for key in keys
    )


def to_native(weights: Weights) -> dict[str, torch.Tensor]:
    """Weights of any layout under our names; what is no part of the network is left out.

    Raises:
        CheckpointError: these are no weights of a DETR.
    """
    if not is_detr(list(weights)):
        raise CheckpointError(
            f"the file holds no DETR: none of its {len(weights)} names ends in {ANCHOR}, the first are "
            f"{', '.join(list(weights)[:3]) or 'none'}"
        )
    detector = next(key[: -len(ANCHOR)] for key in weights if key.endswith(ANCHOR))
    masks = next((key[: key.index(MASK_PARTS[0])] for key in weights if MASK_PARTS[0] in key), "")
    native = {}
    for key, value in weights.items():
        name = _native_name(key, detector, masks)
        if name is not None:
            native[name] = value
    return native


def _native_name(key: str, detector: str, masks: str) -> str | None:
    if key.endswith("num_batches_tracked"):
        return None
    if key.startswith(tuple(masks + part for part in MASK_PARTS)):
        return key[len(masks) :]
    if key.startswith("backbone.") and not key.startswith("backbone.0."):
        return key
    if not key.startswith(detector):
        return None
    rest = key[len(detector) :]
    if rest.startswith("backbone.0.body."):
        return "backbone." + to_detectron2(rest.removeprefix("backbone.0.body."))
    if rest.startswith("backbone.0.backbone."):
        return f"backbone.{rest.removeprefix('backbone.0.backbone.')}"
    known = ("transformer.", "class_embed.", "bbox_embed.", "query_embed.", "input_proj.")
    return f"detr.{rest}" if rest.startswith(known) else None


def to_official(weights: Weights) -> dict[str, torch.Tensor]:
    """Our weights under the names of the official code: panoptic with a mask head, else those of its box model."""
    with_masks = any(key.startswith(MASK_PARTS) for key in weights)
    prefix = "detr." if with_masks else ""
    official = {}
    for key, value in weights.items():
        if key.startswith("backbone."):
            official[f"{prefix}backbone.0.body.{to_torchvision(key.removeprefix('backbone.'))}"] = value
        elif key.startswith("detr."):
            official[prefix + key.removeprefix("detr.")] = value
        elif key.startswith(MASK_PARTS):
            official[key] = value
    return official


def adapt_weights(
    weights: Weights, *, num_slots: int, names_of_slots: Mapping[int, str], head_init: str
) -> dict[str, torch.Tensor]:
    """What a model can load of a checkpoint.

    Args:
        weights: of any DETR layout; anything else (a backbone alone) is returned as it is.
        num_slots: C of the model's class head.
        names_of_slots: the names of its classes.
        head_init: what becomes of a class head of another size: ``"random"`` leaves it out; ``"by_name"`` takes
            the rows of like-named COCO classes and of "no object", and the mean of all rows for the rest.
    """
    if not is_detr(list(weights)):
        return dict(weights)
    native = to_native(weights)
    found = native.get(HEAD[0])
    if found is None or found.shape[0] == num_slots + 1:
        return native
    if head_init == "by_name" and found.shape[0] == NO_OBJECT_OF_COCO + 1:
        rows = rows_by_name(names_of_slots, num_slots)
        return {**native, **{key: _taken(native[key], rows) for key in HEAD}}
    return {key: value for key, value in native.items() if key not in HEAD}


def rows_by_name(names_of_slots: Mapping[int, str], num_slots: int) -> list[int | None]:
    """For each row of the new head the row of COCO's head that it starts from; the last one is "no object"."""
    rows: list[int | None] = [None] * num_slots
    for slot, name in names_of_slots.items():
        plain = name.lower().replace("_", " ").replace("-merged", "").replace("-other", "").strip()
        rows[slot] = COCO_SLOTS.get(plain)
    return [*rows, NO_OBJECT_OF_COCO]


def _taken(head: torch.Tensor, rows: list[int | None]) -> torch.Tensor:
    mean = head[list(range(1, 200))].mean(dim=0)
    return torch.stack([mean if row is None else head[row] for row in rows])
