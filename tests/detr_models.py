"""DETRs of many sizes for tests, and batches to train them on."""

from __future__ import annotations

import torch

from panoptic_plugin import get_cfg
from panoptic_plugin.systems.detr.meta_arch import PanopticDETR


def make_cfg(**changes):
    cfg = get_cfg()
    values = {
        "MODEL.META_ARCHITECTURE": "PanopticDETR",
        "MODEL.BACKBONE.NAME": "build_detr_resnet_backbone",
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.MASK_ON": True,
        "MODEL.DEVICE": "cpu",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19,
        "DATASETS.TRAIN": ("cityscapes_fine_panoptic_train",),
        **changes,
    }
    cfg.merge_from_list([word for pair in values.items() for word in pair])
    return cfg


def small_cfg(**changes):
    small = {"NUM_OBJECT_QUERIES": 7, "HIDDEN_DIM": 32, "DIM_FEEDFORWARD": 16, "ENC_LAYERS": 1, "DEC_LAYERS": 2}
    keys = {f"MODEL.DETR.{key}": value for key, value in {**small, "NUM_CLASSES": 34, "DROPOUT": 0.0}.items()}
    return make_cfg(**{**keys, "MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64, **changes})


def on_meta(cfg):
    with torch.device("meta"):
        return PanopticDETR(cfg)


def batch_of(*sizes, num_segments=2):
    samples = []
    for height, width in sizes:
        index = torch.zeros(height, width, dtype=torch.int16)
        for segment in range(num_segments):
            index[segment * 8 : segment * 8 + 6, 4:20] = segment + 1
        rows = [(12 / width, (segment * 8 + 3) / height, 16 / width, 6 / height) for segment in range(num_segments)]
        samples.append(
            {
                "image": torch.randint(0, 255, (3, height, width), dtype=torch.uint8),
                "labels": torch.arange(num_segments) + 24,
                "boxes": torch.tensor(rows, dtype=torch.float32).reshape(-1, 4),
                "segment_index": index,
            }
        )
    return samples
