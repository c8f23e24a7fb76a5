"""Config keys of the semantic branch: MODEL.PANOPTIC_DEEPLAB.SEMANTIC."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_semantic_branch_config(cfg: CfgNode) -> None:
    """Add MODEL.PANOPTIC_DEEPLAB.SEMANTIC to a config that holds the keys of Panoptic-DeepLab.

    Classes, ignored label and loss weight are those of MODEL.SEM_SEG_HEAD.
    """
    semantic = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC = CfgNode()
    # MscaleOCRBranch, DeepLabSemanticBranch or FrozenModelBranch.
    semantic.NAME = "MscaleOCRBranch"
    # Weights for this branch alone, before MODEL.WEIGHTS: our own, Detectron2's, HRNet's, HRNet-OCR's or NVIDIA's
    # format, recognised by their names. A path that does not exist is an error.
    semantic.PRETRAINED = ""
    # Leave out the tensors of PRETRAINED that have one row a class, and no others.
    semantic.IGNORE_HEAD = False
    # Names of the classes of PRETRAINED, in its order: rows of its head are then carried over by the names of the
    # dataset's classes, and the others start at random. Empty: the classes are the same.
    semantic.PRETRAINED_CLASSES = []
    # A tensor of PRETRAINED that is missing, not expected or of another shape is an error; else it is reported.
    semantic.STRICT_LOAD = True
    # The backbone of this branch; what is not named here holds for both branches (MODEL.RESNETS, MODEL.BACKBONE).
    # An empty NAME shares the one of the instance branch, where the branch can do so (DeepLabSemanticBranch).
    semantic.BACKBONE = CfgNode({"NAME": "d2_hrnet", "DEPTH": 48, "MODULES": [1, 4, 3], "BLOCKS": 4})
    # Sizes of the image that the branch sees, as factors; 1.0 is among them. Factors are fixed while training.
    semantic.TRAIN_SCALES = [0.5, 1.0]
    semantic.TEST_SCALES = [0.5, 1.0, 2.0]
    # Channels of the layers that predict how much each pixel of a scale counts; with one scale there are none.
    semantic.ATTENTION_CHANNELS = 256
    # Average with the mirrored image, in evaluation.
    semantic.TEST_FLIP = False
    # Stride at which scales are fused: 4, that of the features, or 1 as in NVIDIA's networks, 16 times the memory.
    semantic.FUSION_STRIDE = 4
    # Upsampling from corner to corner, as HRNet's weights were trained with; NVIDIA's and Detectron2's need False.
    semantic.ALIGN_CORNERS = True
    # Weights of the losses: of the auxiliary output, of each of TRAIN_SCALES by itself, and of the fused output.
    semantic.AUX_WEIGHT = 0.4
    semantic.MSCALE_WEIGHT = [0.05, 0.05]
    semantic.FUSED_WEIGHT = 1.0
    # cross_entropy, hard_pixel_mining (MODEL.SEM_SEG_HEAD.LOSS_TOP_K), ohem or rmi.
    semantic.LOSS = "ohem"
    # OHEM: pixels whose true class is less probable than this have a loss, and the OHEM_MIN_KEPT least probable ones.
    semantic.OHEM_THRESH = 0.9
    semantic.OHEM_MIN_KEPT = 131072
    # What makes scores of logits: softmax or sigmoid; "" is sigmoid for a branch trained with rmi, else softmax.
    semantic.ACTIVATION = ""
    # FrozenModelBranch: the config.yaml that a training of a semantic model has written; its weights are PRETRAINED.
    semantic.MODEL_CONFIG = ""
