"""Outputs that appear only when all of them are made, and never replace a file unasked."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from panoptic_plugin.errors import DatasetError


class Staging:
    """Files of one output folder, made in a hidden folder inside it and moved into place at the end.

    ``with Staging(folder, overwrite=False) as stage: stage.write_json("a.json", {})``. Where the body raises, the
    folder is as it was. Files that belong to nobody's output are never touched; JSON files are moved last, so that a
    set which is described is also there.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool):
        self.folder = Path(folder)
        self.overwrite = overwrite
        self._made: set[Path] = set()

    def __enter__(self) -> Staging:
        self._created = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self.folder))
        except OSError as error:
            raise DatasetError(f"output folder {self.folder} cannot be written: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._move()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)
            if kind is not None and self._created:
                self._remove_empty()

    def refuse_existing(self, *names: str) -> None:
        """Raise DatasetError where one of the outputs is there already and must stay."""
        for name in names:
            if not self.overwrite and os.path.lexists(self.folder / name):
                raise DatasetError(
                    f"{self.folder / name} exists already; choose another output folder, or replace it with --overwrite"
                )

    def path(self, name: str | Path) -> Path:
        """Where to write the output ``name``, a path inside the output folder, for now."""
        name = Path(os.path.normpath(name))
        if name.is_absolute() or ".." in name.parts:
            raise DatasetError(f"output name {str(name)!r} leaves the output folder {self.folder}")
        self.refuse_existing(str(name))
        if name in self._made:
            raise DatasetError(f"two outputs would have the name {self.folder / name}; rename one of their images")
        self._made.add(name)
        staged = self._temporary / name
        try:
            staged.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.folder / name!s:.200} cannot be written: {error}") from None
        return staged

    def write_png(self, name: str | Path, pixels: np.ndarray) -> None:
        """uint8 or uint16 pixels as a PNG."""
        staged = self.path(name)
        try:
            Image.fromarray(pixels).save(staged, format="PNG")
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.folder / name!s:.200} cannot be written: {error}") from None

    def write_json(self, name: str | Path, content: Any, *, indent: int | None = None, sort_keys: bool = False) -> None:
        """A JSON file in UTF-8."""
        text = json.dumps(content, indent=indent, sort_keys=sort_keys)
        staged = self.path(name)
        try:
            staged.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DatasetError(f"{self.folder / name} cannot be written: {error.strerror}") from None

    def _move(self) -> None:
        try:
            for name in sorted(self._made, key=lambda name: (name.suffix == ".json", name)):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(self._temporary / name, self.folder / name)
        except OSError as error:
            raise DatasetError(f"{self.folder / name} cannot be written: {error.strerror}") from None

    def _remove_empty(self) -> None:
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
