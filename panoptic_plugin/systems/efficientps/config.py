"""Config keys of EfficientPS with a SOLOv2 head; those of its encoder and neck are the backbones'."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_efficientps_config(cfg: CfgNode) -> None:
    """Add ``MODEL.SOLOV2``, ``MODEL.PANOPTIC_FUSION`` and the loss of the semantic head to ``MODEL.SEM_SEG_HEAD``."""
    # The share of pixels that the semantic loss is the mean of, those with the highest loss, and whether they are
    # chosen in each "image" by itself (the paper) or in the "batch" (the released code).
    cfg.MODEL.SEM_SEG_HEAD.OHEM_RATIO = 0.25
    cfg.MODEL.SEM_SEG_HEAD.OHEM_SCOPE = "image"
    _add_solov2_keys(cfg)
    _add_fusion_keys(cfg)


def _add_solov2_keys(cfg: CfgNode) -> None:
    cfg.MODEL.SOLOV2 = CfgNode(
        {
            # Thing classes of the dataset.
            "NUM_CLASSES": 8,
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            # A level's stride once its features are resized: masks of at most so many pixels (at stride 4) are dropped.
            "STRIDES": [8, 8, 16, 32, 32],
            # Cells in each direction, a level. [80, 72, 48, 32, 24] finds the small objects of street scenes.
            "NUM_GRIDS": [40, 36, 24, 16, 12],
            # Objects of a level: square root of width times height of the box in pixels of the network input, both ends
            # included. `panoptic data grids` shows how they fit a dataset.
            "SCALE_RANGES": [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]],
            # An object's cells lie in the middle of its box, in this share of its height and width.
            "SIGMA": 0.2,
            # Width and number of the convolutions in each of the two towers.
            "CHANNELS": 512,
            "NUM_CONVS": 4,
            # Numbers in a mask's kernel = channels of the mask features.
            "NUM_KERNELS": 256,
            "MASK_IN_FEATURES": ["p2", "p3", "p4", "p5"],
            # Width of the mask branch.
            "MASK_CHANNELS": 128,
            "NORM": "GN",
            # Convolutions of the head: "standard" or "dwsep", depthwise separable, a sixth of the parameters.
            "CONV": "standard",
            # Probability of a class that the head starts with.
            "PRIOR_PROB": 0.01,
            "FOCAL_ALPHA": 0.25,
            "FOCAL_GAMMA": 2.0,
            "FOCAL_WEIGHT": 1.0,
            "DICE_WEIGHT": 3.0,
            # Cells whose class is at least so likely have a mask looked at, which is where it is more likely than
            # MASK_THR.
            "SCORE_THR": 0.1,
            "MASK_THR": 0.5,
            # The NMS_PRE best masks go into the matrix NMS; those that keep a score of UPDATE_THR come out, at most
            # MAX_PER_IMG.
            "NMS_PRE": 500,
            "NMS_KERNEL": "gaussian",
            "NMS_SIGMA": 2.0,
            "UPDATE_THR": 0.05,
            "MAX_PER_IMG": 100,
            # Whether results hold "instances", the masks before the fusion, which AP is of.
            "PREDICT_INSTANCES": True,
        }
    )


def _add_fusion_keys(cfg: CfgNode) -> None:
    cfg.MODEL.PANOPTIC_FUSION = CfgNode(
        {
            # Masks with a higher score take part.
            "SCORE_THRESH": 0.3,
            # A mask of which a larger share lies on better masks is dropped.
            "OVERLAP_THRESH": 0.5,
            # Stuff of fewer pixels (of the result) becomes void.
            "STUFF_AREA_LIMIT": 2048,
            # Factor of the mask logits; the released code has 4, the paper 1.
            "MASK_LOGIT_SCALE": 1.0,
            # Outside of its box a mask is lost ("neg_inf"), or fused with a semantic logit of 0 ("zero", the released
            # code).
            "OUTSIDE": "neg_inf",
            # What a mask's box grows by on each side, as a share of its size.
            "BOX_MARGIN": 0.0,
            # Subtract each pixel's mean from its semantic logits: the loss leaves it open, and the fusion reads it.
            "CENTER_SEM_LOGITS": True,
            # Pixels of things that no mask won: the likeliest stuff in place of void.
            "FILL_VOID": False,
            # Results hold "fused_logits" too.
            "RETURN_LOGITS": False,
        }
    )
