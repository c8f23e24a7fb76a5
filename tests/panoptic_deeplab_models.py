"""Small Panoptic-DeepLab models for tests, ours and Detectron2's from one config."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.config import get_cfg

NUM_CLASSES = 8
THINGS = (4, 5, 6, 7)
DATASET = "tiny_panoptic_for_model_tests"


def tiny_config(*, dsconv: bool = False, crop: tuple[int, int] | None = (64, 128), depth: int = 18) -> CfgNode:
    """Panoptic-DeepLab on a ResNet with narrow heads: 8 classes, the last 4 are things. R-50 has output stride 16."""
    metadata = MetadataCatalog.get(DATASET)
    if metadata.get("thing_dataset_id_to_contiguous_id") is None:
        metadata.set(
            thing_dataset_id_to_contiguous_id={c: c for c in THINGS},
            stuff_dataset_id_to_contiguous_id={c: c for c in range(NUM_CLASSES) if c not in THINGS},
            label_divisor=1000,
        )
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (DATASET,)
    cfg.INPUT.CROP.ENABLED = crop is not None
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = list(crop or (64, 128))
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.META_ARCHITECTURE = "PluginPanopticDeepLab"
    _set_backbone(model, depth)
    _set_heads(model, dsconv)
    model.PANOPTIC_DEEPLAB.STUFF_AREA = 64
    return cfg


def _set_backbone(model: CfgNode, depth: int) -> None:
    model.BACKBONE.FREEZE_AT = 0
    model.BACKBONE.NAME = "build_resnet_backbone" if depth < 50 else "build_resnet_deeplab_backbone"
    model.RESNETS.DEPTH = depth
    model.RESNETS.NORM = "BN"
    model.RESNETS.OUT_FEATURES = ["res2", "res3", "res5"]
    model.RESNETS.STRIDE_IN_1X1 = False
    if depth < 50:
        model.RESNETS.RES2_OUT_CHANNELS = 64
    else:
        model.RESNETS.RES5_DILATION = 2
        model.RESNETS.STEM_TYPE = "deeplab"
        model.RESNETS.STEM_OUT_CHANNELS = 128


def _set_heads(model: CfgNode, dsconv: bool) -> None:
    for head in (model.SEM_SEG_HEAD, model.INS_EMBED_HEAD):
        head.IN_FEATURES = ["res2", "res3", "res5"]
        head.PROJECT_CHANNELS = [16, 16]
        head.ASPP_CHANNELS = 32
        head.ASPP_DROPOUT = 0.0
        head.CONVS_DIM = 32
        head.HEAD_CHANNELS = 32
        head.COMMON_STRIDE = 4
        head.NORM = "BN"
    model.SEM_SEG_HEAD.NAME = "PluginPanopticDeepLabSemSegHead"
    model.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES
    model.SEM_SEG_HEAD.IGNORE_VALUE = 255
    model.SEM_SEG_HEAD.LOSS_TYPE = "hard_pixel_mining"
    model.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV = dsconv
    model.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV = dsconv
    model.INS_EMBED_HEAD.NAME = "PluginPanopticDeepLabInsEmbedHead"


def upstream_config(cfg: CfgNode) -> CfgNode:
    """The same config with Detectron2's own classes."""
    cfg = cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "PanopticDeepLab"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "PanopticDeepLabSemSegHead"
    cfg.MODEL.INS_EMBED_HEAD.NAME = "PanopticDeepLabInsEmbedHead"
    return cfg


def build_pair(cfg: CfgNode) -> tuple[nn.Module, nn.Module]:
    """(ours, Detectron2's) in evaluation mode, with different random weights."""
    return build_model(cfg).eval(), build_model(upstream_config(cfg)).eval()


def smooth_image(height: int, width: int, *, seed: int) -> torch.Tensor:
    """uint8 (3, H, W): smooth random colours inside a frame of one colour."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, height // 8, width // 8), generator=generator) * 255
    image = F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 255)
    framed = torch.full_like(image, 128)
    edge = min(height, width) // 6
    framed[:, edge:-edge, edge:-edge] = image[:, edge:-edge, edge:-edge]
    return framed.to(torch.uint8)


@torch.no_grad()
def make_it_see(model: nn.Module, image: torch.Tensor) -> None:
    """Rescale the predictors of an untrained model so that the image shows several classes, centers and offsets.

    The heatmap stays below the threshold along the image border: enlarging repeats border values, and these plateaus
    are where Detectron2's centers differ from ours on purpose.
    """
    logits, heatmap, offsets = model.predict(model.images([{"image": image}]).tensor)
    _affine(model.sem_seg_head.predictor, 1 / logits.std((0, 2, 3)), -logits.mean((0, 2, 3)) / logits.std((0, 2, 3)))
    _affine(model.ins_embed_head.offset_predictor, 5 / offsets.std((0, 2, 3)), torch.zeros(2))
    height, width = heatmap.shape[-2:]
    inside = heatmap[..., 8 : height - 8, 8 : width - 8]
    outside = heatmap.clone()
    outside[..., 8 : height - 8, 8 : width - 8] = -torch.inf
    if inside.max() < outside.max():
        # The other sign of the same features peaks inside.
        _affine(model.ins_embed_head.center_predictor, -torch.ones(1), torch.zeros(1))
        return make_it_see(model, image)
    scale = 0.9 / (inside.max() - outside.max())
    _affine(model.ins_embed_head.center_predictor, scale[None], (0.09 - scale * outside.max())[None])
    return None


def _affine(predictor: nn.Conv2d, scale: torch.Tensor, shift: torch.Tensor) -> None:
    predictor.weight *= scale.view(-1, 1, 1, 1)
    predictor.bias.mul_(scale).add_(shift)


def training_sample(height: int, width: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """One image with the targets that the mapper gives, of random content."""
    generator = torch.Generator().manual_seed(seed)
    semantic = torch.randint(0, NUM_CLASSES, (height, width), generator=generator)
    semantic[: height // 8] = 255
    return {
        "image": smooth_image(height, width, seed=seed),
        "sem_seg": semantic,
        "sem_seg_weights": torch.randint(1, 4, (height, width), generator=generator).float(),
        "center": torch.rand((height, width), generator=generator),
        "center_weights": (torch.rand((1, height, width), generator=generator) > 0.2).float(),
        "offset": torch.randn((2, height, width), generator=generator) * 10,
        "offset_weights": (torch.rand((1, height, width), generator=generator) > 0.6).float(),
    }


class FixedOutputs(nn.Module):
    """Stands in for a backbone or head: gives the same outputs whatever comes in."""

    size_divisibility = 0

    def __init__(self, *outputs: object) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, *_: object) -> object:
        return self.outputs


def see_scene(model: nn.Module, logits: torch.Tensor, heatmap: torch.Tensor, offsets: torch.Tensor) -> None:
    """Let a model of either kind see the given outputs (C, H, W), (1, H, W), (2, H, W) for every image of that size."""
    model.backbone = FixedOutputs()
    model.sem_seg_head = FixedOutputs(logits[None], {})
    model.ins_embed_head = FixedOutputs(heatmap[None], offsets[None], {}, {})
    model.size_divisibility = 0
