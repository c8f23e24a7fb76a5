"""What was validated already: a dataset whose files have not changed is not looked at again.

A file counts as unchanged with the same path, size and time of change.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from panoptic_plugin.data.validate.source import Settings, Source
from panoptic_plugin.version import __version__

logger = logging.getLogger(__name__)

FILE_NAME = "validated_datasets.json"


def dataset_digest(source: Source, settings: Settings) -> str:
    """A digest of the settings and of every file's path, size and time below the folders of a dataset."""
    digest = blake2b(digest_size=16)
    rules = {**asdict(settings), "num_workers": None, "version": __version__}
    digest.update(json.dumps([rules, source.panoptic_json], sort_keys=True).encode())
    digest.update(_stamp(os.stat(source.panoptic_json)))
    for root in (source.image_root, source.panoptic_root, source.semantic_root):
        if root:
            _add_folder(digest, os.path.abspath(root), set())
    return digest.hexdigest()


def _add_folder(digest: Any, folder: str, seen: set[str]) -> None:
    real = os.path.realpath(folder)
    if real in seen:  # a link to a folder above
        return
    seen.add(real)
    digest.update(folder.encode("utf-8", "surrogateescape"))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                _add_folder(digest, entry.path, seen)
            else:
                digest.update(entry.name.encode("utf-8", "surrogateescape"))
                digest.update(_stamp(_stat(entry)))


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a link to nothing
        return entry.stat(follow_symlinks=False)


def _stamp(status: os.stat_result) -> bytes:
    return f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode()


class ValidationCache:
    """Digests of datasets that had no errors, in a JSON file.

    Args:
        path: the file. One that cannot be read counts as empty, one that cannot be written is left out.
    """

    def __init__(self, path: str):
        self._path = path
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError):
            content = {}
        self._known: dict[str, Any] = content if isinstance(content, dict) else {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._known

    def add(self, digest: str, summary: str) -> None:
        """Remember a dataset without errors."""
        self._known[digest] = summary
        unfinished = f"{self._path}.{os.getpid()}.part"
        try:
            os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
            with open(unfinished, "w", encoding="utf-8") as file:
                json.dump(self._known, file, indent=1)
            os.replace(unfinished, self._path)
        except OSError as error:
            logger.warning("The datasets will be validated again next time: %s (%s)", error.strerror, self._path)
