"""Row "whole tail": outputs of the network at 1/4 of the size to processed results with instances."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import panoptic_deeplab_models as models
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from measuring import interleaved, peak_mib
from postprocessing import enlarge
from scenes import STRIDE, Scene, smooth_scene

from panoptic_plugin.systems.panoptic_deeplab.meta_arch import PluginPanopticDeepLab

# name: ((height, width), objects, share of things, COCO's classes and window, ratio asked of label maps)
CASES = {
    "1024x2048x19, 30": ((1024, 2048), 30, 0.07, False, 65),
    "640x640x133, 15": ((640, 640), 15, 0.5, True, 6),
}


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case and output contract: equality, times, ratio, memory."""
    for name, (size, num_objects, share, coco, asked) in CASES.items():
        if quick:
            size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
        scene = smooth_scene(size, num_objects, share, coco=coco)
        ours, theirs = build_pair(scene)
        batch = [{"image": torch.zeros((0, *size)), "height": size[0], "width": size[1]}]
        compare = partial(differences, heatmap=enlarge(scene.heatmap))
        for return_logits in (False, True):
            ours.return_logits = return_logits

            def run_ours(ours=ours, batch=batch):
                return ours(batch)[0]

            def run_theirs(theirs=theirs, batch=batch):
                return theirs(batch)[0]

            record = {
                "row": "whole tail",
                "case": name + (", with logits" if return_logits else ""),
                "peak_mib": peak_mib(run_ours),
                **interleaved(run_ours, run_theirs, compare, rounds=rounds),
            }
            exact = not record["different_labels"] and not record["different_pixels"]
            exact = exact and all(record[f"{field}_equal"] for field in ("masks", "classes", "boxes"))
            yield record | {
                "reference": "Detectron2",
                "equal": exact and record["scores_differ_by"] <= 1e-6,
                "equality": "ids, masks, boxes, classes; scores within 1e-6",
                "asked": None if return_logits else asked,
            }


class Heads(torch.nn.Module):
    """Stands in for a head: gives fixed outputs, enlarged as Detectron2's heads do, or as they are."""

    common_stride = STRIDE

    def __init__(self, *outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def layers(self, _: Any) -> Any:
        return self.outputs[0][None] if len(self.outputs) == 1 else tuple(part[None] for part in self.outputs)

    def forward(self, *_: Any) -> Any:
        enlarged = [enlarge(part)[None] for part in self.outputs]
        return (*enlarged, *({} for _ in enlarged))


class NoBackbone(torch.nn.Module):
    """The networks are not measured."""

    size_divisibility = 0

    def forward(self, images: torch.Tensor) -> None:
        return None


def build_pair(scene: Scene) -> tuple[PluginPanopticDeepLab, torch.nn.Module]:
    """(ours, Detectron2's) model that see the scene whatever the image."""
    arguments = scene.arguments
    cfg = models.tiny_config()
    system = cfg.MODEL.PANOPTIC_DEEPLAB
    system.STUFF_AREA, system.NMS_KERNEL = arguments["stuff_area"], arguments["nms_kernel"]
    system.TOP_K_INSTANCE, system.CENTER_THRESHOLD = arguments["top_k"], arguments["threshold"]
    pair = build_model(cfg).eval(), build_model(models.upstream_config(cfg)).eval()
    for model in pair:
        model.backbone, model.size_divisibility = NoBackbone(), 0
        # Images without channels: normalising them is no part of the row.
        model.pixel_mean = model.pixel_std = torch.ones((0, 1, 1))
        model.sem_seg_head, model.ins_embed_head = Heads(scene.logits), Heads(scene.heatmap, scene.offsets)
    ours, theirs = pair
    ours.thing_ids = ours.postprocessing_arguments["thing_ids"] = tuple(arguments["thing_ids"])
    theirs.meta = type("Metadata", (), {
        "thing_dataset_id_to_contiguous_id": {c: c for c in arguments["thing_ids"]},
        "label_divisor": arguments["label_divisor"],
    })  # fmt: skip
    return ours, theirs


def differences(found: dict[str, Any], expected: dict[str, Any], heatmap: torch.Tensor) -> dict[str, Any]:
    """What is not equal.

    Detectron2 takes the heatmap at the centroid of the mask for its scores, ours at the center. So the scores are held
    against the mean of its probabilities over its masks times the heatmap at the center.
    """
    ours, theirs = found["instances"], expected["instances"]
    probability = expected["sem_seg"].softmax(dim=0)
    centers = [segment["center_yx"] for segment in found["segments_info"] if segment["isthing"]]
    scores = [
        probability[category][mask].mean() * heatmap[0, y, x]
        for category, mask, (y, x) in zip(theirs.pred_classes.tolist(), theirs.pred_masks, centers, strict=True)
    ]
    labels = found["sem_seg"] if found["sem_seg"].ndim == 2 else found["sem_seg"].argmax(dim=0)
    boxes = BitMasks(theirs.pred_masks).get_bounding_boxes().tensor
    return {
        "instances": len(ours),
        "different_labels": int((labels != expected["sem_seg"].argmax(dim=0)).sum()),
        "different_pixels": int((found["panoptic_seg"][0] != expected["panoptic_seg"][0]).sum()),
        "masks_equal": torch.equal(ours.pred_masks, theirs.pred_masks),
        "classes_equal": torch.equal(ours.pred_classes, theirs.pred_classes),
        "boxes_equal": torch.equal(ours.pred_boxes.tensor, boxes),
        "scores_differ_by": float((ours.scores - torch.stack(scores)).abs().max()),
    }
