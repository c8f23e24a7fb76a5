"""Every config key, and the way from a YAML file to a config.

:func:`get_cfg` gives Detectron2's defaults plus all keys of all systems, so one config works in every script.
:func:`load_config` reads a YAML file with its ``_BASE_`` chain. A config file is data: it is read with YAML's safe
loader and can never run code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from panoptic_plugin.backbones.config import add_backbone_config
from panoptic_plugin.config_files import base_chain
from panoptic_plugin.config_merge import merge_file, merge_overrides
from panoptic_plugin.heads.config import add_head_config
from panoptic_plugin.systems.detr.config import add_detr_config
from panoptic_plugin.systems.efficientps.config import add_efficientps_config
from panoptic_plugin.systems.joint.config import add_joint_config
from panoptic_plugin.systems.panoptic_deeplab.config import add_panoptic_deeplab_keys
from panoptic_plugin.tuning.config import add_tuning_keys


def get_cfg() -> CfgNode:
    """Detectron2's default config with every key this package adds."""
    cfg = get_detectron2_cfg()
    add_panoptic_deeplab_keys(cfg)
    add_joint_config(cfg)
    add_detr_config(cfg)
    add_efficientps_config(cfg)
    add_backbone_config(cfg)
    add_head_config(cfg)
    add_tuning_keys(cfg)
    _add_common_keys(cfg)
    return cfg


def _add_common_keys(cfg: CfgNode) -> None:
    # Panoptic datasets described in the config itself: a list of {NAME, IMAGE_ROOT, PANOPTIC_JSON, PANOPTIC_ROOT,
    # SEM_SEG_ROOT}. Relative paths start at $DETECTRON2_DATASETS (default: ./datasets).
    cfg.DATASETS.CUSTOM = []
    # Look at the datasets before training: "full" decodes every file, "fast" reads headers and JSON, "off".
    cfg.DATASETS.VALIDATE = "fast"
    # A damaged sample in training: "raise" ends the run with its name; "skip" lists it in OUTPUT_DIR/bad_samples.txt
    # and takes another, until more than MAX_BAD_SHARE of the images are bad.
    cfg.DATASETS.ON_BAD_SAMPLE = "raise"
    cfg.DATASETS.MAX_BAD_SHARE = 0.01
    # Pixels of an image or label; a larger one is refused before it is decoded.
    cfg.INPUT.MAX_IMAGE_PIXELS = 64 * 1024 * 1024
    # Training targets by name: "panoptic_deeplab", or "semantic" for semantic segmentation alone.
    cfg.INPUT.TARGET_GENERATOR = "panoptic_deeplab"
    # Whether training images are augmented at all; False resizes them as in tests.
    cfg.INPUT.AUGMENT = True
    # Half of the training images are resized to a shorter edge of 400, 500 or 600 and cropped to 384 to 600 pixels
    # before anything else, as DETR is trained.
    cfg.INPUT.DETR_CROP = False
    # Random brightness, contrast and saturation, each within +-20 %.
    cfg.INPUT.COLOR_JITTER = False
    # Share of the training samples that get objects of another training image pasted in.
    cfg.INPUT.COPY_PASTE_PROB = 0.0
    # Random quarter turns, for images without an up side (microscopy, aerial photos).
    cfg.INPUT.ROTATE90 = False
    # Weights and features in memory as N, H, W, C while training: faster convolutions on CPUs, and on GPUs with AMP.
    cfg.MODEL.CHANNELS_LAST = False
    # torch.compile for the backbone and the heads, in its mode MODE; where it does not work, training goes on without.
    cfg.MODEL.COMPILE = CfgNode({"ENABLED": False, "MODE": "default"})
    # Moving averages of the weights: average = DECAY * average + (1 - DECAY) * weight after each iteration. They are
    # saved beside the weights, and with EVALUATE they are what evaluation and the demo use.
    cfg.MODEL.EMA = CfgNode({"ENABLED": False, "DECAY": 0.999, "EVALUATE": True})
    # Parts that the images of an iteration are cut into, to pass the model one after the other with less memory.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # One kernel for all weights in the optimizer's step, where PyTorch has it for the device.
    cfg.SOLVER.FUSED = True
    # Iterations between two looks at the losses. A GPU waits at each; a loss that is not finite is noticed then, and
    # has changed no weight.
    cfg.SOLVER.LOSS_READ_PERIOD = 20
    # A loss or gradient that is infinite or NaN: "raise" ends the training on all processes with the names of the
    # images, before a weight changes; "skip" leaves the iteration out on all of them, and ends the training when one
    # comes after MAX_SKIPPED_STEPS skipped ones in a row. Skipping reads the losses in every iteration.
    cfg.SOLVER.ON_NON_FINITE = "raise"
    cfg.SOLVER.MAX_SKIPPED_STEPS = 10
    # LR_SCHEDULER_NAME "WarmupPlateau": after the warm-up the rate stays, and is multiplied by FACTOR, down to MIN_LR
    # (of BASE_LR; a parameter with a rate of its own has its share), where METRIC has not become better in more than
    # PATIENCE evaluations in a row. After EARLY_STOP such evaluations the training ends, with 0 never. MODE says which
    # figures are better, "max" or "min". Needs TEST.EVAL_PERIOD; an evaluation without the figure does not count.
    cfg.SOLVER.PLATEAU = CfgNode(
        {
            "METRIC": "panoptic_seg/PQ",
            "MODE": "max",
            "FACTOR": 0.1,
            "PATIENCE": 3,
            "MIN_LR": 1e-4,
            "EARLY_STOP": 5,
        }
    )
    # Seconds that one process waits for another before the job ends with an error. Only the main process scores an
    # evaluation, which counts.
    cfg.DISTRIBUTED = CfgNode({"TIMEOUT": 600})
    # Precision of autocast where SOLVER.AMP.ENABLED: "float16" (CUDA only) or "bfloat16".
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Write model_best.pth after an evaluation that is better than all before it: the first of these figures that the
    # evaluation yields decides. An empty list writes none.
    cfg.TEST.BEST_METRICS = ["panoptic_seg/PQ", "sem_seg/mIoU"]
    # Every VIS_PERIOD iterations (0: never) NUM_IMAGES of DATASETS.TEST, or else of DATASETS.TRAIN, are drawn with
    # ground truth and prediction, to OUTPUT_DIR/previews and TensorBoard. At most MAX_FILES pictures stay there.
    cfg.PREVIEW = CfgNode({"NUM_IMAGES": 3, "MAX_FILES": 20})
    # Log to Weights & Biases too (pip install wandb). MODE is "online", "offline" or "disabled"; "" is what $WANDB_MODE
    # says, else "online". PROJECT, ENTITY and NAME may be empty, too.
    cfg.WANDB = CfgNode({"ENABLED": False, "PROJECT": "panoptic-plugin", "ENTITY": "", "NAME": "", "MODE": ""})
    # Images a batch in evaluation.
    cfg.TEST.BATCH_SIZE = 1
    # Evaluate, draw and time with the batch norms multiplied into the convolutions before them, and with features in
    # memory as N, H, W, C: the same results but for rounding, sooner. Weights in checkpoints are not touched.
    cfg.TEST.FOLD_BN = True
    cfg.TEST.CHANNELS_LAST = True
    # Test-time augmentation (TEST.AUG.ENABLED): sizes of the views as factors of the test size. Where MIN_SIZES, in
    # pixels of the shorter edge, are given, those are used instead; Detectron2's default of nine is for COCO alone.
    cfg.TEST.AUG.SCALES = [0.75, 1.0, 1.25]
    cfg.TEST.AUG.MIN_SIZES = []
    # Write the predictions as COCO panoptic JSON and PNG below OUTPUT_DIR/inference, before they are scored.
    cfg.TEST.SAVE_PREDICTIONS = True
    # AP of instances: "dataset" is Cityscapes' AP for Cityscapes, and COCO's AP and AR for all others; "coco" is
    # COCO's for all.
    cfg.TEST.INSTANCE_METRIC = "dataset"
    # After each evaluation of a training draw PQ, SQ and RQ of each class, or else its IoU, for TensorBoard and Weights
    # & Biases.
    cfg.TEST.CLASS_CHARTS = True
    # Also Boundary PQ and Boundary IoU, of the pixels within this share of the image's diagonal of an edge.
    cfg.TEST.BOUNDARY = False
    cfg.TEST.BOUNDARY_DILATION = 0.02
    # Ground truth that is decoded and checked once and kept on disk, in $PANOPTIC_CACHE or ~/.cache/panoptic_plugin:
    # "auto", "off", or "rebuild" to make it anew. It is used only for the very data, classes and code it was made of.
    cfg.TEST.CACHE = "auto"
    # How the data are recognised: "full" hashes every label, "stat" only those whose size or time has changed.
    cfg.TEST.CACHE_VERIFY = "full"
    # JSON files to keep it in instead, made where there are none: the panoptic truth, the true objects as COCO's.
    cfg.TEST.PANOP_JSON = ""
    cfg.TEST.INSTANCE_COCO_EVAL = ""


def load_config(path: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """A YAML file and ``KEY VALUE`` overrides, merged over :func:`get_cfg`.

    Args:
        path: the YAML file. Its ``_BASE_`` names one file or a list of files, relative to it; later ones win, and
            the file itself wins over all of them. Base files are local and lie below the ``configs`` folder (or the
            folder) of ``path``, the configs of this project, the working directory, or a folder listed in
            ``$PANOPTIC_CONFIG_ROOTS``.
        overrides: KEY, VALUE, KEY, VALUE, ... as they stand on a command line.

    Returns:
        The merged config, not frozen.

    Raises:
        ConfigError: a missing or malformed file, a Python tag, a duplicate or unknown key, a value of another type,
            a cycle of ``_BASE_``; the message names the file and the key.
    """
    cfg = get_cfg()
    for file, content in base_chain(Path(path)):
        merge_file(cfg, file, content)
    merge_overrides(cfg, list(overrides))
    return cfg
