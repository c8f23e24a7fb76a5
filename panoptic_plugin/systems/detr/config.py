"""Config keys of DETR; names are those of the official Detectron2 wrapper where it has the key."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_detr_config(cfg: CfgNode) -> None:
    """Add ``MODEL.DETR``, and the keys of its recipe to ``SOLVER``."""
    cfg.MODEL.DETR = CfgNode(
        {
            # Slots of the class head without "no object". Official COCO models have 250: the largest category id, and
            # room above it.
            "NUM_CLASSES": 250,
            # The number of a class in the head: "dataset" takes the category ids of the dataset, "contiguous" 0, 1, ...
            "LABEL_SPACE": "dataset",
            "NUM_OBJECT_QUERIES": 100,
            "HIDDEN_DIM": 256,
            "NHEADS": 8,
            "DIM_FEEDFORWARD": 2048,
            "ENC_LAYERS": 6,
            "DEC_LAYERS": 6,
            "DROPOUT": 0.1,
            "PRE_NORM": False,
            # Losses of all decoder layers, not only of the last one.
            "DEEP_SUPERVISION": True,
            # DC5: res5 dilated in the place of its stride, as torchvision does it.
            "DILATION": False,
            "NO_OBJECT_WEIGHT": 0.1,
            "CLASS_WEIGHT": 1.0,
            "L1_WEIGHT": 5.0,
            "GIOU_WEIGHT": 2.0,
            "MASK_WEIGHT": 1.0,
            "DICE_WEIGHT": 1.0,
            "COST_CLASS": 1.0,
            "COST_BBOX": 5.0,
            "COST_GIOU": 2.0,
            # Queries that the mask head runs on while training: "matched" gives the losses of "all" with a fraction of
            # the time and memory.
            "MASK_QUERIES": "matched",
            # Crowd groups are training targets like any segment, as in the official panoptic training.
            "CROWD_TARGETS": True,
            # Second stage: a checkpoint of a box model, which is loaded and frozen; only the mask head trains.
            "FROZEN_WEIGHTS": "",
            # Dropout stays on in the frozen transformer, as in the official training; True turns it off.
            "FROZEN_EVAL_MODE": False,
            # What does not train: "none" (but BACKBONE.FREEZE_AT), "backbone", "transformer", "attention",
            # "heads_only" or "first_k" (the first FREEZE_K layers of encoder and decoder); all include the backbone.
            "FREEZE": "none",
            "FREEZE_K": 3,
            # Weights of a checkpoint with another class head: "random" starts the head anew, "by_name" takes the rows
            # of like-named COCO classes.
            "HEAD_INIT": "random",
            "TEST": {
                # A query is kept where its best class is more likely than this.
                "OBJECT_MASK_THRESHOLD": 0.85,
                # Segments of at most so many pixels are dropped.
                "MIN_AREA": 4,
                # "official": as the official code; "union": masks of a stuff class are one segment, as the paper says.
                "STUFF_MERGE": "official",
                # Padded images of a batch: "official" squeezes their padding into the result, "crop" cuts it off.
                "PADDED_MASKS": "official",
                # Things whose best class is more likely than this are instances (AP).
                "INSTANCE_THRESHOLD": 0.05,
                "INSTANCE_ON": True,
            },
        }
    )
    # The learning rate of MODEL.BACKBONE is BASE_LR times this.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # The length of the training and the drops of a step schedule in epochs, in place of MAX_ITER and STEPS; 0 and an
    # empty list leave those as they are.
    cfg.SOLVER.MAX_EPOCHS = 0
    cfg.SOLVER.LR_DROP_EPOCHS = []
