"""Config keys of Panoptic-DeepLab: Detectron2's, by import, and what only ours knows."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_panoptic_deeplab_keys(cfg: CfgNode) -> None:
    """Add INPUT, SOLVER, MODEL.SEM_SEG_HEAD, MODEL.INS_EMBED_HEAD and MODEL.PANOPTIC_DEEPLAB keys of the system."""
    from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

    add_panoptic_deeplab_config(cfg)
    # Whether results hold semantic logits at their size, as Detectron2's do, or the map of the most likely categories,
    # which takes a fraction of the time and memory and is all that evaluation needs.
    cfg.MODEL.PANOPTIC_DEEPLAB.RETURN_LOGITS = True
    cfg.MODEL.INS_EMBED_HEAD.NAME = "PluginPanopticDeepLabInsEmbedHead"
    _add_grouping_keys(cfg)
    _add_instance_weight_keys(cfg)


def _add_grouping_keys(cfg: CfgNode) -> None:
    # What the score of an instance is: "semantic", the mean probability of its class; "center", the height of its
    # center; "both", their product.
    cfg.MODEL.PANOPTIC_DEEPLAB.SCORE = "both"
    grouping = cfg.MODEL.PANOPTIC_DEEPLAB.GROUPING = CfgNode()
    # How thing pixels find their instance (docs/grouping.md): "majority", the center nearest to where the offset
    # points; "semantic_map", the lowest sum of that distance and of what the class of the instance costs at the pixel;
    # "class_strict", the nearest center of the pixel's class, however far away.
    grouping.MODE = "majority"
    # Weight of the class in that sum. 0 is "majority" but for the vote.
    grouping.LAMBDA = 1.0
    # Squared distances are divided by twice its square; in pixels of the network input. 0 takes INPUT.GAUSSIAN_SIGMA.
    grouping.SIGMA = 0.0
    # How often pixels are grouped anew at most, with the classes that the groups chose.
    grouping.ITERS = 3
    # How a group chooses its class: "soft", highest sum of probabilities; "hard", most frequent class of its pixels;
    # "log", highest sum of their logarithms. "majority" always counts.
    grouping.VOTE = "soft"
    # Pixels that point further away from their center than that (pixels of the network input), with a probability of
    # the instance's class below VOID_PROBABILITY, become void; 0 leaves none out.
    grouping.VOID_RADIUS = 0.0
    grouping.VOID_PROBABILITY = 0.5
    # Connected pixels of a class, at least so many, that all point further than SPAWN_RADIUS away from each center of
    # the class become an instance; 0 makes none. In pixels of the network input.
    grouping.SPAWN = 0
    grouping.SPAWN_RADIUS = 64.0


def _add_instance_weight_keys(cfg: CfgNode) -> None:
    weight = cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE_WEIGHT = CfgNode()
    # Weights of pixels in the losses (docs/instance_weights.md): "small_area", INPUT.SMALL_INSTANCE_WEIGHT for objects
    # below INPUT.SMALL_INSTANCE_AREA; "none", 1 everywhere; "instance_ce", the former times 1 to 1 + BETA by how badly
    # an object is classified; "hist_ce", times a factor by the histograms of classes in predicted instances.
    weight.MODE = "small_area"
    # "instance_ce": how much more the worst object weighs, and from which mean cross entropy on it is the worst.
    weight.BETA = 2.0
    weight.TAU = 2.0
    # "instance_ce": an object below AREA_REFERENCE pixels weighs (reference / area) ^ AREA_GAMMA more, at most 3 times.
    weight.AREA_GAMMA = 0.0
    weight.AREA_REFERENCE = 4096
    # "instance_ce": added to the factor, times the share of the predicted instance that is of another class.
    weight.CONSISTENCY = 0.0
    # The losses that are weighted so: some of "semantic", "center", "offset".
    weight.APPLY_TO = ["semantic"]
