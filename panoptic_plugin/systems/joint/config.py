"""Config keys of the joint network, below MODEL.PANOPTIC_DEEPLAB.

The instance branch reads the keys of Panoptic-DeepLab: MODEL.BACKBONE, MODEL.RESNETS, MODEL.HRNET and
MODEL.INS_EMBED_HEAD. Those of the semantic branch are in ``semantic_config.py``.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from panoptic_plugin.systems.joint.semantic_config import add_semantic_branch_config


def add_joint_config(cfg: CfgNode) -> None:
    """Add SEMANTIC, INSTANCE and FREEZE_MODULE to a config that holds the keys of Panoptic-DeepLab."""
    add_semantic_branch_config(cfg)
    system = cfg.MODEL.PANOPTIC_DEEPLAB
    # Which branch stays as it is in training: "" none, "semantic", or "instance" with the embedder of the semantics.
    system.FREEZE_MODULE = ""
    instance = system.INSTANCE = CfgNode()
    # False builds the semantic branch alone: all things are void in the results.
    instance.ENABLE = True
    # Whether the semantic branch guides the instance branch; False leaves the two side by side.
    instance.USE_SEMANTIC = True
    # What guides it: "thing_prob", probabilities of the thing classes where one of them is the most likely class;
    # "all_prob", those of all classes; "feature", the features under the logits.
    instance.SEMANTIC_INPUT = "thing_prob"
    # Channels of the embedding of that input, at stride 4. stem_add needs those of the stem, which are 64 in HRNet.
    instance.SEMANTIC_EMBED_CHANNELS = 64
    # Where the embedding goes: "stem_add" adds it to the output of the backbone's stem; "res2_concat" joins it to the
    # backbone's finest feature by a 1x1 convolution; "decoder_concat" gives it to the last convolution of the decoder.
    instance.INJECT = "stem_add"
    # The losses of the instance branch have no gradient in the semantic branch.
    instance.DETACH_SEMANTIC = False
    # Share of the training images, at the start, in which thing_prob also shows pixels that are truly things; it falls
    # to 0 until half of SOLVER.MAX_ITER, because no truth is there to be shown when the network is used.
    instance.GT_FOREGROUND_PROB = 0.0
    # Start from an embedding of zeros: a new joint network is the instance network without semantics, bit by bit.
    instance.ZERO_INIT = True
