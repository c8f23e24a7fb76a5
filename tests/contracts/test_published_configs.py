"""The published configs keep every value of their publication.

The table below holds the values of the published files, read from facebookresearch/detectron2 (R-52, the base files)
and bowenc0221/panoptic-deeplab (X-65, H-48), as differences from Detectron2's defaults. Ours must equal it in every
key that Detectron2 has; beyond it only the keys in ``OURS`` may differ from our defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from panoptic_plugin.config import get_cfg, load_config

# The classes are ours under their own registered names; their results and weights are the published ones.
RENAMED = {
    "PanopticDeepLab": "PluginPanopticDeepLab",
    "PanopticDeepLabSemSegHead": "PluginPanopticDeepLabSemSegHead",
    "PanopticDeepLabInsEmbedHead": "PluginPanopticDeepLabInsEmbedHead",
    "DeepLabV3PlusHead": "PluginDeepLabV3PlusHead",
}
# What a semantic config must say because one get_cfg() serves both systems.
OURS = {"INPUT.TARGET_GENERATOR": "semantic", "SOLVER.OPTIMIZER": "SGD"}

DECODER = {
    "IN_FEATURES": ["res2", "res3", "res5"],
    "PROJECT_FEATURES": ["res2", "res3"],
    "PROJECT_CHANNELS": [32, 64],
    "ASPP_CHANNELS": 256,
    "ASPP_DILATIONS": [6, 12, 18],
    "ASPP_DROPOUT": 0.1,
    "COMMON_STRIDE": 4,
    "NORM": "SyncBN",
}
DECODER_H48 = {
    "IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "PROJECT_FEATURES": ["res2", "res3", "res4"],
    "PROJECT_CHANNELS": [32, 64, 128],
    "ASPP_DILATIONS": [3, 6, 9],
}
DILATED = {"BACKBONE": {"FREEZE_AT": 0}, "RESNETS": {"OUT_FEATURES": ["res2", "res3", "res5"], "RES5_DILATION": 2}}
IMAGENET = {"PIXEL_MEAN": [123.675, 116.280, 103.530], "PIXEL_STD": [58.395, 57.120, 57.375]}
CITYSCAPES_SIZES = {
    "MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MIN_SIZE_TEST": 1024,
    "MAX_SIZE_TRAIN": 4096,
    "MAX_SIZE_TEST": 2048,
}

BASE_PANOPTIC: dict[str, Any] = {
    "MODEL": {
        "META_ARCHITECTURE": "PanopticDeepLab",
        "SEM_SEG_HEAD": {
            "NAME": "PanopticDeepLabSemSegHead",
            "HEAD_CHANNELS": 256,
            "CONVS_DIM": 256,
            "NUM_CLASSES": 19,
            "LOSS_TYPE": "hard_pixel_mining",
            **DECODER,
        },
        "INS_EMBED_HEAD": {
            "NAME": "PanopticDeepLabInsEmbedHead",
            "HEAD_CHANNELS": 32,
            "CONVS_DIM": 128,
            "CENTER_LOSS_WEIGHT": 200.0,
            "OFFSET_LOSS_WEIGHT": 0.01,
            **DECODER,
        },
        "PANOPTIC_DEEPLAB": {"STUFF_AREA": 2048, "CENTER_THRESHOLD": 0.1, "NMS_KERNEL": 7, "TOP_K_INSTANCE": 200},
        **DILATED,
    },
    "DATASETS": {"TRAIN": ("cityscapes_fine_panoptic_train",), "TEST": ("cityscapes_fine_panoptic_val",)},
    "SOLVER": {
        "OPTIMIZER": "ADAM",
        "BASE_LR": 0.001,
        "WEIGHT_DECAY": 0.0,
        "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_BIAS": 0.0,
        "MAX_ITER": 60000,
        "LR_SCHEDULER_NAME": "WarmupPolyLR",
        "IMS_PER_BATCH": 32,
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": (
            *(512, 640, 704, 832, 896, 1024, 1152, 1216),
            *(1344, 1408, 1536, 1664, 1728, 1856, 1920, 2048),
        ),
        "CROP": {"ENABLED": True, "TYPE": "absolute", "SIZE": [1024, 2048]},
        **CITYSCAPES_SIZES,
    },
    "DATALOADER": {"NUM_WORKERS": 10},
}
X65 = {
    "MODEL": {
        "WEIGHTS": "x65.pkl",
        "PIXEL_MEAN": [128, 128, 128],
        "PIXEL_STD": [128, 128, 128],
        "BACKBONE": {"NAME": "d2_xception_65"},
        "RESNETS": {"NORM": "SyncBN", "RES4_DILATION": 1, "RES5_DILATION": 2},
    },
    "INPUT": {"FORMAT": "RGB"},
}
H48_BACKBONE = {
    "MODEL": {
        "WEIGHTS": "h48.pkl",
        "BACKBONE": {"NAME": "d2_hrnet"},
        "RESNETS": {"NORM": "SyncBN", "DEPTH": 48, "OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        **IMAGENET,
    },
    "INPUT": {"FORMAT": "RGB"},
}
H48_DECODERS = {"MODEL": {"SEM_SEG_HEAD": DECODER_H48, "INS_EMBED_HEAD": DECODER_H48}}
R52 = {
    "MODEL": {
        "WEIGHTS": "detectron2://DeepLab/R-52.pkl",
        "BACKBONE": {"NAME": "build_resnet_deeplab_backbone"},
        "RESNETS": {
            "DEPTH": 50,
            "NORM": "SyncBN",
            "RES5_MULTI_GRID": [1, 2, 4],
            "STEM_TYPE": "deeplab",
            "STEM_OUT_CHANNELS": 128,
            "STRIDE_IN_1X1": False,
        },
        **IMAGENET,
    },
    "INPUT": {"FORMAT": "RGB"},
}
CROP_90K = {"SOLVER": {"MAX_ITER": 90000}, "INPUT": {"CROP": {"SIZE": [512, 1024]}}}
DSCONV = {
    "MODEL": {
        "SEM_SEG_HEAD": {"USE_DEPTHWISE_SEPARABLE_CONV": True},
        "PANOPTIC_DEEPLAB": {"USE_DEPTHWISE_SEPARABLE_CONV": True},
    }
}
COCO = {
    "MODEL": {
        "SEM_SEG_HEAD": {"NUM_CLASSES": 133, "LOSS_TOP_K": 1.0},
        "PANOPTIC_DEEPLAB": {"STUFF_AREA": 4096, "NMS_KERNEL": 41, "SIZE_DIVISIBILITY": 640},
    },
    "DATASETS": {"TRAIN": ("coco_2017_train_panoptic",), "TEST": ("coco_2017_val_panoptic",)},
    "SOLVER": {"BASE_LR": 0.0005, "MAX_ITER": 200000, "IMS_PER_BATCH": 64},
    "INPUT": {
        "GAUSSIAN_SIGMA": 8,
        "MIN_SIZE_TRAIN": (320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960),
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MIN_SIZE_TEST": 640,
        "MAX_SIZE_TRAIN": 960,
        "MAX_SIZE_TEST": 640,
        "CROP": {"ENABLED": True, "TYPE": "absolute", "SIZE": [640, 640]},
    },
}
BASE_SEMANTIC: dict[str, Any] = {
    "MODEL": {
        "META_ARCHITECTURE": "SemanticSegmentor",
        "BACKBONE": {"FREEZE_AT": 0},
        "RESNETS": {"OUT_FEATURES": ["res5"], "RES5_DILATION": 2},
        "SEM_SEG_HEAD": {
            "NAME": "DeepLabV3Head",
            "IN_FEATURES": ["res5"],
            "ASPP_CHANNELS": 256,
            "ASPP_DILATIONS": [6, 12, 18],
            "ASPP_DROPOUT": 0.1,
            "CONVS_DIM": 256,
            "COMMON_STRIDE": 16,
            "NUM_CLASSES": 19,
            "LOSS_TYPE": "hard_pixel_mining",
        },
    },
    "DATASETS": {"TRAIN": ("cityscapes_fine_sem_seg_train",), "TEST": ("cityscapes_fine_sem_seg_val",)},
    "SOLVER": {"BASE_LR": 0.01, "MAX_ITER": 90000, "LR_SCHEDULER_NAME": "WarmupPolyLR", "IMS_PER_BATCH": 16},
    "INPUT": {
        "MIN_SIZE_TRAIN": (512, 768, 1024, 1280, 1536, 1792, 2048),
        "CROP": {"ENABLED": True, "TYPE": "absolute", "SIZE": [512, 1024], "SINGLE_CATEGORY_MAX_AREA": 1.0},
        **CITYSCAPES_SIZES,
    },
    "DATALOADER": {"NUM_WORKERS": 10},
}
V3_PLUS_X65 = {
    "MODEL": {
        "RESNETS": {"OUT_FEATURES": ["res2", "res5"]},
        "SEM_SEG_HEAD": {
            "NAME": "DeepLabV3PlusHead",
            "IN_FEATURES": ["res2", "res5"],
            "PROJECT_FEATURES": ["res2"],
            "PROJECT_CHANNELS": [48],
            "NORM": "SyncBN",
            "COMMON_STRIDE": 4,
        },
    }
}
V3_PLUS_H48 = {
    "MODEL": {
        "SEM_SEG_HEAD": {
            **DECODER_H48,
            "NAME": "DeepLabV3PlusHead",
            "PROJECT_CHANNELS": [48, 96, 192],
            "NORM": "SyncBN",
            "COMMON_STRIDE": 4,
        }
    }
}

CITYSCAPES_NAME = "Cityscapes-PanopticSegmentation/panoptic_deeplab_{}_os16_mg124_poly_90k_bs32_crop_512_1024"
COCO_NAME = "COCO-PanopticSegmentation/panoptic_deeplab_{}_os16_mg124_poly_200k_bs64_crop_640_640_coco_dsconv"
BACKBONES: dict[str, list[dict]] = {"X_65": [X65], "H_48": [H48_BACKBONE, H48_DECODERS], "R_52": [R52]}
PUBLISHED: dict[str, list[dict]] = {
    "Cityscapes-PanopticSegmentation/Base-PanopticDeepLab-OS16": [BASE_PANOPTIC],
    "Cityscapes-SemanticSegmentation/Base-DeepLabV3-OS16-Semantic": [BASE_SEMANTIC],
    "Cityscapes-SemanticSegmentation/deeplab_v3_plus_X_65_os16_mg124_poly_90k_bs16": [BASE_SEMANTIC, X65, V3_PLUS_X65],
    "Cityscapes-SemanticSegmentation/deeplab_v3_plus_H_48_os4_poly_90k_bs16": [
        BASE_SEMANTIC,
        H48_BACKBONE,
        V3_PLUS_H48,
    ],
    **{CITYSCAPES_NAME.format(name): [BASE_PANOPTIC, *parts, CROP_90K] for name, parts in BACKBONES.items()},
    **{
        CITYSCAPES_NAME.format(name) + "_dsconv": [BASE_PANOPTIC, *parts, CROP_90K, DSCONV]
        for name, parts in BACKBONES.items()
    },
    **{COCO_NAME.format(name): [BASE_PANOPTIC, *parts, DSCONV, COCO] for name, parts in BACKBONES.items()},
}


def _detectron2_defaults() -> CfgNode:
    from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

    cfg = get_detectron2_cfg()
    add_panoptic_deeplab_config(cfg)
    return cfg


def _published_cfg(name: str) -> CfgNode:
    cfg = _detectron2_defaults()
    for part in PUBLISHED[name]:
        cfg.merge_from_other_cfg(CfgNode(part))
    for node in (cfg.MODEL, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.INS_EMBED_HEAD):
        for key in ("META_ARCHITECTURE", "NAME"):
            if key in node:
                node[key] = RENAMED.get(node[key], node[key])
    return cfg


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_the_published_values_key_by_key(name: str, repository: Path):
    ours = dict(_leaves(load_config(repository / "configs" / f"{name}.yaml")))
    expected = {**dict(_leaves(get_cfg())), **dict(_leaves(_published_cfg(name)))}
    if "Semantic" in name:
        expected |= OURS
    # Detectron2's nine sizes fit COCO alone; they say nothing where test-time augmentation is off, as it is here.
    assert not ours["TEST.AUG.ENABLED"]
    expected["TEST.AUG.MIN_SIZES"] = []
    different = {key: (ours[key], value) for key, value in expected.items() if ours[key] != value}
    assert not different, "key: (ours, published)"
    assert ours.keys() == expected.keys()


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "Panoptic" in name])
def test_detectron2_reads_the_panoptic_files_alike(name: str, repository: Path):
    """A script with Detectron2's own get_cfg and loader gets the same config from our files."""
    cfg = _detectron2_defaults()
    cfg.merge_from_file(str(repository / "configs" / f"{name}.yaml"))
    assert dict(_leaves(cfg)) == dict(_leaves(_published_cfg(name)))
