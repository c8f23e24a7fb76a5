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
from panoptic_plugin.registry import lookup, suggestion

logger = logging.getLogger(__name__)

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")


def build_model(cfg) -> nn.Module:
    """The model of ``MODEL.META_ARCHITECTURE`` on ``MODEL.DEVICE``.

    ``nn.SyncBatchNorm`` is there only where it is needed: in one process it is plain batch normalisation, and among
    several on CPUs, where it cannot train, Detectron2's NaiveSyncBatchNorm. Keys and tensors are the same.

    Raises:
        ConfigError: a name that is not registered, or a device that is not there.
    """
    lookup(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
    lookup(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    lookup(SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME, "MODEL.SEM_SEG_HEAD.NAME")
    check_device(cfg.MODEL.DEVICE)
    model = modeling.build_model(cfg)
    num_sync = sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    distributed = comm.get_world_size() > 1
    if num_sync and (not distributed or torch.device(cfg.MODEL.DEVICE).type == "cpu"):
        model = replace_sync_batch_norm(model, distributed=distributed)
        logger.info(
            "%d SyncBatchNorm layers run as %s: %s",
            num_sync,
            "NaiveSyncBatchNorm" if distributed else "BatchNorm2d",
            "the processes run on CPUs" if distributed else "there is one process",
        )
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.info("%s with %.2f M parameters", type(model).__name__, num_parameters / 1e6)
    logger.debug("Model:\n%s", model)
    return model


def check_device(name: str) -> None:
    """Raise ConfigError where ``MODEL.DEVICE`` names no device of this machine."""
    if check_device_name(name).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {name!r}, but PyTorch sees no CUDA device; set MODEL.DEVICE cpu, or check the driver"
        )


def check_device_name(name: str) -> torch.device:
    """The device of that name, be it there or not; ConfigError where no machine has it."""
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"MODEL.DEVICE is {name!r}, expected cuda, cuda:N or cpu") from None


def prepare_for_training(cfg, model: nn.Module) -> nn.Module:
    """The memory format of ``MODEL.CHANNELS_LAST``, and ``torch.compile`` where ``MODEL.COMPILE`` asks for it.

    Returns:
        The same model with the same keys.
    """
    if cfg.MODEL.CHANNELS_LAST:
        # Kernels take the format of the weights, and hand it on with the features.
        model = model.to(memory_format=torch.channels_last)
    if cfg.MODEL.COMPILE.ENABLED:
        compile_parts(model, mode=cfg.MODEL.COMPILE.MODE)
    return model


def compile_parts(model: nn.Module, *, mode: str) -> bool:
    """Compile the children of a model (backbone and heads) in place; what lies between them depends on the batch.

    Where ``torch.compile`` does not work at all, the model stays as it is, with a warning; where it fails for a part,
    PyTorch warns and runs that part as it is.

    Args:
        model: the network.
        mode: of ``torch.compile``: "default", "reduce-overhead" or "max-autotune".

    Returns:
        Whether it works.

    Raises:
        ConfigError: an unknown mode.
    """
    if mode not in COMPILE_MODES:
        raise ConfigError(f"MODEL.COMPILE.MODE is {mode!r}. {suggestion(mode, COMPILE_MODES)}")
    device = next(model.parameters()).device
    try:
        torch.compile(torch.sin, mode=mode)(torch.zeros(2, device=device))
    except Exception as reason:  # a missing compiler, Triton, or Python too new: each fails in its own way
        first_line = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
        logger.warning("torch.compile does not work here (%s); the model runs without it", first_line)
        return False
    torch._dynamo.config.suppress_errors = True
    for name, child in model.named_children():
        logger.info("Compiling %s when it is first run", name)
        child.compile(mode=mode)
    return True


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
