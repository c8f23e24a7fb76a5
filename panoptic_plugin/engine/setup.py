"""What a job does before its work: output folder, logs, environment, config backup, seed."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Sequence

import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from panoptic_plugin.errors import ConfigError

logger = logging.getLogger(__name__)

PACKAGES = ("panoptic_plugin", "detectron2", "torch", "torchvision", "numpy", "PIL", "cv2")
LOGGERS = {"detectron2": "d2", "fvcore": "fvcore", "panoptic_plugin": "panoptic"}


def set_up_job(cfg, *, command: Sequence[str] = (), keep_config: bool = False) -> None:
    """As Detectron2's ``default_setup``: make ``OUTPUT_DIR``, log there, save ``config.yaml``, seed.

    Args:
        cfg: the config of the job.
        command: the words of the command line, for the log.
        keep_config: leave a ``config.yaml`` that is there; evaluation must not replace the training's.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    folder, rank = cfg.OUTPUT_DIR, comm.get_rank()
    make_output_folder(folder)
    set_up_logs(folder, rank)
    logger.info("Process %d of %d on %s", rank, comm.get_world_size(), cfg.MODEL.DEVICE)
    logger.info("Environment:\n%s", describe_environment())
    logger.info("Command line: %s", " ".join(command))
    logger.debug("Config:\n%s", cfg.dump())
    if comm.is_main_process():
        _save_config(cfg, os.path.join(folder, "config.yaml"), keep_config)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not keep_config:  # its search costs more than it brings in a short evaluation
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def describe_environment() -> str:
    """Versions, GPUs and CPU threads as a table."""
    # Detectron2's collect_env_info asks its compiled operators, which are not there.
    rows = [("Python", platform.python_version()), ("platform", platform.platform())]
    rows += [(name, _version(name)) for name in PACKAGES]
    rows += [(f"GPU {index}", torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]
    rows.append(("CUDA", torch.version.cuda if torch.cuda.is_available() else "no device"))
    rows.append(("CPU threads", str(torch.get_num_threads())))
    return tabulate(rows, tablefmt="plain")


def _version(name: str) -> str:
    module = sys.modules.get(name) or importlib.import_module(name)
    return str(getattr(module, "__version__", "unknown"))


def set_up_logs(folder: str | None, rank: int = 0) -> None:
    """Log to ``folder/log.txt`` (unless None), and on the main process without the details to standard output.

    Detectron2's ``setup_logger`` adds to what an earlier job in the same process has set up, so that each line would
    stand twice.
    """
    setup_logger.cache_clear()
    for name, short_name in LOGGERS.items():
        logging.getLogger(name).handlers.clear()
        setup_logger(folder, distributed_rank=rank, name=name, abbrev_name=short_name)
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setLevel(logging.INFO)


def make_output_folder(folder: str, name: str = "OUTPUT_DIR") -> None:
    """Make a folder, ``name`` in messages, and write there, which says more than its permissions do.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    if "://" in folder or "\0" in folder:
        raise ConfigError(f"{name} {folder!r} is no local folder; name one, and copy what is in it afterwards")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{name} {folder!r} cannot be made ({error.strerror}); name a folder you may write") from None
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise ConfigError(
            f"{name} {folder!r} cannot be written ({error.strerror}); name a folder you may write"
        ) from None


def _save_config(cfg, path: str, keep: bool) -> None:
    if keep and os.path.exists(path):
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(cfg.dump())
    logger.info("Full config saved to %s", path)
