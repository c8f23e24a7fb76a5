"""``manifest.json``: what a training was made of, for every time it was started or resumed."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from panoptic_plugin.evaluation.fingerprint import config_sha256, dataset_fingerprint, now, software
from panoptic_plugin.files import replace_file

logger = logging.getLogger(__name__)

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1


def note_start(cfg, *, command: Sequence[str], start_iter: int, data: dict[str, Any]) -> None:
    """Add this start to ``OUTPUT_DIR/manifest.json``; all processes must call it, the main one writes.

    Args:
        cfg: the config of the training.
        command: the words of the command line.
        start_iter: the first iteration; above 0 for a run that is resumed.
        data: what fixes the order of the images, see :func:`panoptic_plugin.engine.exact_resume.data_state`.
    """
    hosts = comm.gather(platform.node())
    if not comm.is_main_process():
        return
    path = Path(cfg.OUTPUT_DIR, FILE_NAME)
    starts = [*read_starts(path), {
        "time": now(),
        "start_iteration": start_iter,
        "command": list(command),
        "seed": data.get("seed", cfg.SEED),
        "world_size": comm.get_world_size(),
        "hosts": hosts,
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "versions": software(),
        "code": _code(),
        "config_sha256": config_sha256(cfg),
        "order_of_images": data,
        "datasets": {name: _dataset(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)},
    }]  # fmt: skip
    replace_file(path, json.dumps({"schema_version": SCHEMA_VERSION, "starts": starts}, indent=2) + "\n")


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts noted so far; none where the file is missing or damaged, which a warning says."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read (%s); it is begun anew", path, error)
        return []


def _dataset(name: str) -> dict[str, str | None]:
    json_file = getattr(MetadataCatalog.get(name), "panoptic_json", None)
    there = json_file is not None and os.path.isfile(json_file)
    return {"json": json_file, "sha256": dataset_fingerprint(Path(json_file), ()) if there else None}


def _code() -> dict[str, Any]:
    """Commit of the package's sources, where they are a git checkout, and whether something in it was changed."""
    folder = str(Path(__file__).resolve().parent)

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", folder))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "changed": None}
