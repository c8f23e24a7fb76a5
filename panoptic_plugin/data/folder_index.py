"""The files of a dataset's folder by the names that its JSON gives, and never a file outside of it."""

from __future__ import annotations

import os

from panoptic_plugin.errors import DatasetError

IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".j2k", ".tga",
    ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip
MAX_NAMED = 3  # how many records an error message names


class FolderIndex:
    """The files below a folder, listed once: by relative path and by stem.

    One listing is much cheaper than asking a network disk for every file by itself. Links are followed where they
    stay inside the folder, inside ``$DETECTRON2_DATASETS`` or inside a folder of ``$PANOPTIC_LINK_ROOTS``.
    """

    def __init__(self, root: str, what: str):
        if not os.path.isdir(root):
            raise DatasetError(f"{what} {root} does not exist or is no folder; check the path")
        self.root = root
        self._paths: set[str] = set()
        self._by_stem: dict[str, list[str]] = {}
        self._escaping: set[str] = set()
        self._allowed = [os.path.realpath(folder) for folder in (root, *link_roots())]
        self._walk(root, "", frozenset({os.path.realpath(root)}))

    def _walk(self, folder: str, below: str, above: frozenset[str]) -> None:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        folders = []
        for entry in listed:
            path = os.path.join(below, entry.name)
            if entry.is_symlink() and not self._is_allowed(entry.path):
                self._escaping.add(path)
            elif entry.is_dir():
                folders.append((entry, path))
            else:
                self._paths.add(path)
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() in IMAGE_SUFFIXES:  # not the annotation file that a tool put beside its image
                    self._by_stem.setdefault(stem, []).append(path)
        for entry, path in folders:
            real = os.path.realpath(entry.path)
            if real not in above:  # a link to a folder above would lead round and round
                self._walk(entry.path, path, above | {real})

    def _is_allowed(self, path: str) -> bool:
        real = os.path.realpath(path)
        return any(real == folder or real.startswith(folder + os.sep) for folder in self._allowed)

    def escapes(self, name: str) -> bool:
        """Whether the path leads, by a link, out of the folder."""
        parts = os.path.normpath(name).split(os.sep)
        return bool(self._escaping) and any(
            os.path.join(*parts[:depth]) in self._escaping for depth in range(1, len(parts) + 1)
        )

    def find(self, name: str, *stems: str) -> str | None:
        """Full path of the file ``name``, else of one with one of the stems, else None.

        Raises:
            DatasetError: it is a link that leads out of the folder, or several files have the stem.
        """
        if self.escapes(name):
            raise DatasetError(
                f"{os.path.join(self.root, name)} is a link that leads out of {self.root}; put the file itself there, "
                "or name the folder it leads to in the environment variable PANOPTIC_LINK_ROOTS"
            )
        relative = os.path.normpath(name)
        if relative not in self._paths:
            relative = self._of_stem(name, next((stem for stem in stems if stem in self._by_stem), ""))
        return os.path.join(self.root, relative) if relative else None

    def _of_stem(self, name: str, stem: str) -> str:
        """The image of that stem, in the folder that ``name`` has if there is one; "" for none."""
        found = self._by_stem.get(stem, [])
        beside = [path for path in found if os.path.dirname(path) == os.path.dirname(os.path.normpath(name))]
        if len(beside or found) > 1:
            raise DatasetError(
                f"{os.path.join(self.root, name)} does not exist, and {' and '.join((beside or found)[:MAX_NAMED])} "
                f"could both be meant; write the right one into the JSON"
            )
        return next(iter(beside or found), "")


def link_roots() -> list[str]:
    """Folders that links may lead into: ``$DETECTRON2_DATASETS`` and those of ``$PANOPTIC_LINK_ROOTS``."""
    folders = [os.getenv("DETECTRON2_DATASETS", ""), *os.getenv("PANOPTIC_LINK_ROOTS", "").split(os.pathsep)]
    return [os.path.expanduser(folder) for folder in folders if folder]
