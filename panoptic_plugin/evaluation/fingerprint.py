"""What a score is a score of: hashes of the dataset, the weights and the config, and the versions that computed it."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import detectron2
import numpy as np
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage

from panoptic_plugin.files import file_sha256
from panoptic_plugin.version import __version__

# They say where a run lies and what it starts from; the weights have a hash of their own.
LEFT_OUT = (("OUTPUT_DIR",), ("MODEL", "WEIGHTS"))


def dataset_fingerprint(json_file: Path | None, labels: Sequence[Path]) -> str:
    """SHA-256 over the content of the ground truth's JSON and the names and sizes of its label files, in its order.

    A label file that is not there counts as one without a size.
    """
    digest = hashlib.sha256()
    if json_file is not None:
        digest.update(json_file.read_bytes())
    for label in labels:
        size = label.stat().st_size if label.is_file() else -1
        digest.update(f"{label.name}\0{size}\0".encode())
    return digest.hexdigest()


def checkpoint_entry(path: str | None) -> dict[str, str] | None:
    """``{path, sha256}`` of a weights file on this machine, else None."""
    if not path or not os.path.isfile(path):
        return None
    status = os.stat(path)
    return {"path": str(path), "sha256": _file_sha256(path, status.st_size, status.st_mtime_ns)}


@lru_cache(maxsize=4)
def _file_sha256(path: str, size: int, changed: int) -> str:
    return file_sha256(path)


def config_sha256(cfg: CfgNode) -> str:
    """Of all keys but :data:`LEFT_OUT`, whatever their order."""
    content = yaml.safe_load(cfg.dump())
    for *parents, last in LEFT_OUT:
        node = content
        for parent in parents:
            node = node[parent]
        node.pop(last, None)
    return hashlib.sha256(yaml.safe_dump(content, sort_keys=True).encode()).hexdigest()


def training_iteration() -> int | None:
    """The iteration of the training that is going on in this process, counted from 0."""
    try:
        return int(get_event_storage().iter)
    except AssertionError:  # Detectron2's way to say that there is none
        return None


def software() -> dict[str, str]:
    """Versions of what has a part in a score."""
    return {
        "panoptic_plugin": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "detectron2": detectron2.__version__,
    }


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def run_entries(cfg: CfgNode, checkpoint: str | None) -> dict[str, Any]:
    """``checkpoint``, ``iteration`` and ``config_sha256`` of ``metrics.json``."""
    iteration = training_iteration()
    return {
        "checkpoint": None if iteration is not None else checkpoint_entry(checkpoint),
        "iteration": iteration,
        "config_sha256": config_sha256(cfg),
    }
