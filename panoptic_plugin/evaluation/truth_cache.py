"""The ground truth of a dataset, decoded and checked once and kept on disk for every later evaluation.

A cache belongs to a fingerprint of everything it was made of, so that none is ever used for other data: the bytes of
every label, what the JSON says of each, the classes, the void label, and the version of this code. See
docs/evaluation.md, "Caches".
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from panoptic_plugin.errors import ConfigError, DatasetError
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth, Truth
from panoptic_plugin.evaluation.truth_files import (
    CONVERTER_VERSION,
    SCHEMA_VERSION,
    CachedMaps,
    Damaged,
    Found,
    TruthFiles,
)
from panoptic_plugin.files import file_sha256, replace_file

logger = logging.getLogger(__name__)

MODES = ("auto", "off", "rebuild")
VERIFY = ("full", "stat")
NUM_THREADS = 2
MOST_IMAGES = 20_000  # of which runs are held in memory; a larger set is read label by label


class _CannotConvert(Exception):
    """There is no cache, which is no reason not to evaluate."""


class Store(Protocol):
    """Where a cache lies; see ``truth_stores.py``."""

    lock_file: Path
    is_given: bool

    def read(self, fingerprint: str) -> Found | None:
        """What is there; None for no cache. Raises Damaged, or DatasetError where another one is there."""

    def write(self, fingerprint: str, files: TruthFiles) -> None:
        """Put the files there, whole or not at all."""


class TruthCache:
    """Loads the truth of images from a cache, which it makes where there is none.

    Args:
        truth: reads the labels.
        classes: what else the truth depends on, for the fingerprint: names, things, divisor, ...
        stores: where caches are; the first one is read, all are made. Empty: no cache.
        hash_index: file that remembers the hashes of labels by their size and time; None hashes all of them each time.
        rebuild: make the caches anew.

    Attributes:
        conversions: labels that were decoded for a cache by this object.
    """

    def __init__(
        self,
        truth: PanopticGroundTruth,
        *,
        classes: Mapping[str, Any],
        stores: Sequence[Store],
        hash_index: Path | None = None,
        rebuild: bool = False,
    ) -> None:
        self._truth, self._classes, self._stores = truth, dict(classes), list(stores)
        self._hash_index, self._rebuild = hash_index, rebuild
        self._maps: CachedMaps | None = None
        self._is_open = False
        self.conversions = 0

    def load(self, image_id: str) -> Truth:
        """As ``truth.read(image_id)``, bit for bit."""
        self.open()
        return self._truth.read(image_id) if self._maps is None else self._maps.load(image_id)

    def open(self) -> None:
        """Find or make the caches; a label that cannot be read or a folder that cannot be written means to go without.

        Raises:
            DatasetError: a file that was given is of other data, damaged or no cache.
        """
        if self._is_open:
            return
        self._is_open = True
        if len(self._truth.image_ids) > MOST_IMAGES and not any(store.is_given for store in self._stores):
            return
        try:
            self._open(self.fingerprint())
        except _CannotConvert as error:
            logger.warning("No cache of the ground truth: %s", error)

    def _open(self, fingerprint: str) -> None:
        files: TruthFiles | None = None
        for store in self._stores:
            try:
                store.lock_file.parent.mkdir(parents=True, exist_ok=True)
                # Of several processes that come at once, one makes the cache and the others find it.
                with _locked(store.lock_file):
                    found = None if self._rebuild else self._found(store, fingerprint)
                    if found is None:
                        files = files or self._convert(fingerprint)
                        store.write(fingerprint, files)
                        found = Found(files.maps())
            except OSError as error:
                raise _CannotConvert(str(error)) from None
            self._maps = self._maps or found.maps

    def _found(self, store: Store, fingerprint: str) -> Found | None:
        try:
            return store.read(fingerprint)
        except Damaged as damage:
            if store.is_given:
                raise DatasetError(f"{damage}; delete it, or let it be made anew by TEST.CACHE rebuild") from None
            logger.warning("A cache of the ground truth is made anew: %s", damage)
            return None

    def _convert(self, fingerprint: str) -> TruthFiles:
        image_ids = self._truth.image_ids
        logger.info("Making a cache of the ground truth of %d images", len(image_ids))
        converted = TruthFiles(fingerprint, self._classes, self._truth.ignore_label)
        try:
            for truth in self._read_ahead(image_ids):
                converted.add(truth, self._truth.about(truth.image_id))
                self.conversions += 1
        except DatasetError as error:
            raise _CannotConvert(str(error)) from None
        return converted

    def _read_ahead(self, image_ids: Sequence[str]) -> Iterator[Truth]:
        """In threads, because decoding lets others run; a few at a time, because a truth is large."""
        step = 4 * NUM_THREADS
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            for start in range(0, len(image_ids), step):
                yield from threads.map(self._truth.read, image_ids[start : start + step])

    def fingerprint(self) -> str:
        """SHA-256 of all that a cache depends on, whatever the order of the images."""
        known = _read_index(self._hash_index)
        _, labels = self._truth.files
        images = []
        for image_id, label in zip(self._truth.image_ids, labels, strict=True):
            sha256, size = _hash_of(label, known)
            annotation = self._truth.annotation(image_id)
            segments = [
                [int(one["id"]), one["category_id"], int(one.get("iscrowd", 0))] for one in annotation["segments_info"]
            ]
            images.append([image_id, annotation["file_name"], size, sha256, segments])
        _write_index(self._hash_index, known)
        content = {
            "schema": SCHEMA_VERSION,
            "converter": CONVERTER_VERSION,
            "classes": self._classes,
            "ignore_label": self._truth.ignore_label,
            "resolution": "as labelled",
            "images": sorted(images),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_cache_keys(mode: str, verify: str) -> None:
    """Raise ConfigError for a TEST.CACHE or TEST.CACHE_VERIFY that is none."""
    for key, value, choices in (("CACHE", mode, MODES), ("CACHE_VERIFY", verify, VERIFY)):
        if value not in choices:
            raise ConfigError(f"TEST.{key} is {value!r}, expected one of {', '.join(choices)}")


def cache_root() -> Path | None:
    """``$PANOPTIC_CACHE``, else ``~/.cache/panoptic_plugin``; None for a user without a home."""
    named = os.environ.get("PANOPTIC_CACHE")
    try:
        return Path(named) if named else Path.home() / ".cache" / "panoptic_plugin"
    except RuntimeError:
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for every other process that has the file locked. The system unlocks it when the process ends, however."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system; files are still replaced in one step
        yield
        return
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


Index = dict[str, list[Any]]


def _read_index(path: Path | None) -> Index | None:
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_index(path: Path | None, known: Index | None) -> None:
    if path is not None and known is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(known))
        except OSError as error:
            raise _CannotConvert(str(error)) from None


def _hash_of(label: Path, known: Index | None) -> tuple[str, int]:
    """SHA-256 and size of a label, from the index where neither size nor time of the file has changed."""
    try:
        status = label.stat()
        key, state = str(label.absolute()), [status.st_size, status.st_mtime_ns]
        if known is not None and known.get(key, [])[:2] == state:
            return str(known[key][2]), status.st_size
        sha256 = file_sha256(label)
    except OSError as error:
        raise _CannotConvert(f"{label} cannot be read: {error.strerror}") from None
    if known is not None:
        known[key] = [*state, sha256]
    return sha256, status.st_size
