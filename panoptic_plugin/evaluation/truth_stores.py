"""The two places of a cache of the ground truth: a folder by its fingerprint, and a file that somebody names."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from pathlib import Path

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.truth_files import (
    INSTANCES,
    MANIFEST,
    PANOPTIC,
    RUNS,
    Damaged,
    Found,
    TruthFiles,
    check_file,
    check_manifest,
    read_maps,
)
from panoptic_plugin.files import replace_file

KEPT = 3  # caches of a dataset; older ones are removed
PICKLES = (".pkl", ".pickle", ".p")


class FolderStore:
    """``root / dataset / fingerprint``, made as a whole under another name and renamed."""

    is_given = False

    def __init__(self, root: Path, dataset: str) -> None:
        self._folder = root / re.sub(r"[^\w.-]", "_", dataset)
        self.lock_file = self._folder / ".lock"
        self.hash_index = self._folder / "hashes.json"

    def read(self, fingerprint: str) -> Found | None:
        folder = self._folder / fingerprint
        if not (folder / MANIFEST).is_file():
            return None
        manifest = check_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        if manifest["fingerprint"] != fingerprint:
            raise Damaged(f"{folder} holds the cache of another fingerprint")
        contents = {}
        for name in (PANOPTIC, RUNS, INSTANCES):
            path = folder / name
            contents[name] = path.read_bytes() if path.is_file() else b""
            check_file(manifest, name, contents[name], str(path))
        os.utime(folder)
        return Found(read_maps(contents[PANOPTIC], contents[RUNS], str(folder)))

    def write(self, fingerprint: str, files: TruthFiles) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        contents = files.contents()
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        try:
            for name, content in {**contents, MANIFEST: files.manifest(contents)}.items():
                (temporary / name).write_bytes(content)
            temporary.chmod(0o755)  # mkdtemp makes it private
            target = self._folder / fingerprint
            if target.exists():
                target.rename(self._folder / f".old-{uuid.uuid4().hex}")
            temporary.rename(target)
        finally:
            for left in (temporary, *self._folder.glob(".old-*")):
                shutil.rmtree(left, ignore_errors=True)
        self._remove_old()

    def _remove_old(self) -> None:
        folders = [one for one in self._folder.iterdir() if (one / MANIFEST).is_file()]
        for folder in sorted(folders, key=lambda one: one.stat().st_mtime, reverse=True)[KEPT:]:
            shutil.rmtree(folder, ignore_errors=True)


class FileStore:
    """A JSON file named by a config key, with ``.manifest.json`` and, for maps, ``.npz`` beside it.

    Args:
        path: the file.
        key: the config key, for errors.
        content: ``panoptic.json`` or ``instances.json``: what the file holds.
    """

    is_given = True

    def __init__(self, path: Path, key: str, content: str) -> None:
        self._path, self._key, self._content = path, key, content
        self._manifest = path.with_name(f"{path.name}.manifest.json")
        self._runs = path.with_name(f"{path.name}.npz")
        self.lock_file = path.with_name(f".{path.name}.lock")

    def read(self, fingerprint: str) -> Found | None:
        where = f"{self._key} {self._path}"
        if not self._path.exists():
            return None
        content = self._path.read_bytes()
        if self._path.suffix.lower() in PICKLES or content.startswith(b"\x80"):
            raise DatasetError(
                f"{where} is a pickle, which could run any code; name a .json file, which is made where there is none"
            )
        if not self._manifest.is_file():
            raise Damaged(f"{where} has no {self._manifest.name} beside it, so nobody knows what it was made of")
        manifest = check_manifest(self._manifest.read_bytes(), str(self._manifest))
        if manifest["fingerprint"] != fingerprint:
            raise DatasetError(
                f"{where} was made of other labels, classes or by another version (fingerprint "
                f"{manifest['fingerprint'][:12]}, expected {fingerprint[:12]}); delete it, or let it be made anew by "
                "TEST.CACHE rebuild"
            )
        check_file(manifest, self._content, content, where)
        if self._content == INSTANCES:
            return Found(None)
        runs = self._runs.read_bytes() if self._runs.is_file() else b""
        check_file(manifest, RUNS, runs, str(self._runs))
        return Found(read_maps(content, runs, where))

    def write(self, fingerprint: str, files: TruthFiles) -> None:
        if self._path.suffix.lower() in PICKLES:
            raise DatasetError(f"{self._key} {self._path} is the name of a pickle; name a .json file")
        wanted = (PANOPTIC, RUNS) if self._content == PANOPTIC else (INSTANCES,)
        contents = {name: content for name, content in files.contents().items() if name in wanted}
        # Without a manifest there is no cache, whatever else is there.
        with contextlib.suppress(FileNotFoundError):
            self._manifest.unlink()
        for name, content in contents.items():
            replace_file(self._runs if name == RUNS else self._path, content)
        replace_file(self._manifest, files.manifest(contents))
