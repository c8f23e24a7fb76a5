"""A trained model as a function from an image to its output."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.model import build_model


class Predictor:
    """Loads a model once and predicts image after image.

    Args:
        cfg: reads MODEL (with WEIGHTS and DEVICE) and INPUT.{FORMAT, MIN_SIZE_TEST, MAX_SIZE_TEST}.

    Raises:
        CheckpointError: weights that are missing, damaged or do not fit the model.
        ConfigError: a name that is not registered, or a device that is not there.
    """

    def __init__(self, cfg: CfgNode):
        self.model = build_model(cfg).eval()
        PluginCheckpointer(self.model, eval_only=True).load(cfg.MODEL.WEIGHTS)
        self._resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self._device = torch.device(cfg.MODEL.DEVICE)
        self._flip_channels = cfg.INPUT.FORMAT == "BGR"

    @torch.no_grad()
    def __call__(self, image_rgb: np.ndarray) -> dict[str, Any]:
        """Predict one image.

        Args:
            image_rgb: uint8 (H, W, 3), of any size.

        Returns:
            The model's output dict; its maps have the size of ``image_rgb``.
        """
        height, width = image_rgb.shape[:2]
        image = image_rgb[:, :, ::-1] if self._flip_channels else image_rgb
        image = self._resize.get_transform(image).apply_image(np.ascontiguousarray(image))
        tensor = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return self.model([{"image": tensor.to(self._device), "height": height, "width": width}])[0]
