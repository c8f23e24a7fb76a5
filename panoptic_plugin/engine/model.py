"""A model from a config, on the device it names, and its wrapping for several processes."""

from __future__ import annotations

import logging

import torch
from detectron2 import modeling
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.norm import replace_sync_batch_norm
from panoptic_plugin.registry import lookup

logger = logging.getLogger(__name__)


def build_model(cfg) -> nn.Module:
    """The model of ``MODEL.META_ARCHITECTURE`` on ``MODEL.DEVICE``.

    On a CPU, ``nn.SyncBatchNorm`` cannot train in a process group; Detectron2's NaiveSyncBatchNorm takes its place,
    with the same keys and tensors. It is plain batch normalisation in one process.

    Raises:
        ConfigError: a name that is not registered, or a device that is not there.
    """
    lookup(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
    lookup(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    lookup(SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME, "MODEL.SEM_SEG_HEAD.NAME")
    check_device(cfg.MODEL.DEVICE)
    model = modeling.build_model(cfg)
    num_sync = sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if num_sync and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        model = replace_sync_batch_norm(model)
        logger.info("%d SyncBatchNorm layers run as NaiveSyncBatchNorm, because the device is the CPU", num_sync)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.info("%s with %.2f M parameters", type(model).__name__, num_parameters / 1e6)
    logger.debug("Model:\n%s", model)
    return model


def check_device(name: str) -> None:
    """Raise ConfigError where ``MODEL.DEVICE`` names no device of this machine."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"MODEL.DEVICE is {name!r}, expected cuda, cuda:N or cpu") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {name!r}, but PyTorch sees no CUDA device; set MODEL.DEVICE cpu, or check the driver"
        )


def wrap_distributed(model: nn.Module) -> nn.Module:
    """The model for this process of several: gradients are averaged over all; alone, the model itself.

    Unlike Detectron2 0.6's ``create_ddp_model`` it also works on CPUs, where ``device_ids`` must not be given.
    """
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


def unwrap(model: nn.Module) -> nn.Module:
    """The model within DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def share_buffers(model: nn.Module) -> None:
    """Give all processes the main process' buffers.

    Without SyncBN each process has its own running statistics, and only the main one's are saved: evaluating with
    them everywhere scores what the checkpoint holds.
    """
    if comm.get_world_size() == 1:
        return
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)
