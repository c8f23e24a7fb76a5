"""Any trained semantic model of Detectron2's kind as a semantic branch that never changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import SEMANTIC_BRANCH_REGISTRY, lookup
from panoptic_plugin.systems.joint.semantic_branch import SECTION, Features, SemanticBranch, branch_arguments
from panoptic_plugin.systems.joint.semantic_output import SemanticOutput

REQUIRED = ("META_ARCHITECTURE", "BACKBONE", "SEM_SEG_HEAD", "PIXEL_MEAN", "PIXEL_STD")


@SEMANTIC_BRANCH_REGISTRY.register()
class FrozenModelBranch(SemanticBranch):
    """A model with ``backbone`` and ``sem_seg_head``: always in evaluation mode, without gradients, without a loss.

    Its images are normalised its own way, whatever the joint network's mean, deviation and order of channels.
    """

    head_name = "model.sem_seg_head"
    class_tensors = ("model.sem_seg_head.predictor.weight", "model.sem_seg_head.predictor.bias")

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        reverse_channels: bool = False,
        **branch_arguments: Any,
    ) -> None:
        """
        Args:
            model: a SemanticSegmentor, a Panoptic-DeepLab or the like, with buffers ``pixel_mean`` and ``pixel_std``.
            pixel_mean: of the images that the branch gets.
            pixel_std: the same.
            reverse_channels: whether the model wants the channels in the opposite order.
            branch_arguments: those of :class:`SemanticBranch`.
        """
        super().__init__(feature_channels=None, **branch_arguments)
        self.model = model.requires_grad_(False)
        self.reverse_channels = reverse_channels
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.train(False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec] | None) -> dict[str, Any]:
        own = _model_config(cfg)
        model = lookup(META_ARCH_REGISTRY, own.MODEL.META_ARCHITECTURE, f"{SECTION}.MODEL_CONFIG: META_ARCHITECTURE")(
            own
        )
        if not all(hasattr(model, part) for part in ("backbone", "sem_seg_head")):
            raise ConfigError(
                f"{SECTION}.MODEL_CONFIG is of a {own.MODEL.META_ARCHITECTURE}, expected a model with a backbone and a "
                "semantic head, for example SemanticSegmentor"
            )
        arguments = branch_arguments(cfg) | {"align_corners": False}
        if arguments["num_classes"] != own.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
            raise ConfigError(
                f"the model of {SECTION}.MODEL_CONFIG has {own.MODEL.SEM_SEG_HEAD.NUM_CLASSES} classes, but "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {arguments['num_classes']}"
            )
        return {
            "model": model,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "reverse_channels": own.INPUT.FORMAT != cfg.INPUT.FORMAT,
            **arguments,
        }

    def train(self, mode: bool = True) -> FrozenModelBranch:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def network(self, images: torch.Tensor, shared: Features | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the model at the stride of its head; they take the place of the features, which it has none of."""
        pixels = images * self.pixel_std + self.pixel_mean
        pixels = pixels.flip(1) if self.reverse_channels else pixels
        features = self.model.backbone((pixels - self.model.pixel_mean) / self.model.pixel_std)
        head = self.model.sem_seg_head
        logits = head.layers(features) if _gives_coarse_logits(head) else head(features)[0]
        return logits.float(), logits

    def forward(self, images: torch.Tensor, shared_features: Features | None = None) -> SemanticOutput:
        """Normalised, padded images (N, 3, H, W) to the model's logits."""
        output = super().forward(images)
        stride = self.model.sem_seg_head.common_stride if _gives_coarse_logits(self.model.sem_seg_head) else 1
        return SemanticOutput(output.logits, stride=stride)

    def losses(
        self, output: SemanticOutput, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """None: nothing here can learn."""
        return {}


def _gives_coarse_logits(head: nn.Module) -> bool:
    return hasattr(head, "predictor") and callable(getattr(head, "layers", None))


def _model_config(cfg: CfgNode) -> CfgNode:
    """The config in SEMANTIC.MODEL_CONFIG, a complete one; raises ConfigError."""
    path = Path(cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.MODEL_CONFIG)
    if not path.is_file():
        raise ConfigError(
            f"{SECTION}.MODEL_CONFIG is {str(path)!r}, which is no file; set it to the config.yaml that the training "
            "of the model has written to its OUTPUT_DIR"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    model = content.get("MODEL", {}) if isinstance(content, dict) else {}
    missing = [f"MODEL.{key}" for key in REQUIRED if key not in model]
    if missing or "_BASE_" in content:
        raise ConfigError(
            f"{path}: is no complete config (it lacks {', '.join(missing) or 'what its _BASE_ has'}); set "
            f"{SECTION}.MODEL_CONFIG to the config.yaml that a training has written to its OUTPUT_DIR"
        )
    own = cfg.clone()
    own.defrost()
    own.set_new_allowed(True)
    own.merge_from_other_cfg(CfgNode(content))
    return own
