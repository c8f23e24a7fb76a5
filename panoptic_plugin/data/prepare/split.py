"""A panoptic set divided into train, val and tuning sets, the same image content never in two of them."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_plugin.data.convert.panoptic_set import PanopticSet, Record, read_panoptic_set
from panoptic_plugin.data.convert.parallel import in_order
from panoptic_plugin.data.convert.report import Report, counted
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.data.folder_index import FolderIndex
from panoptic_plugin.data.panoptic_json import possible_stems
from panoptic_plugin.errors import DatasetError

Pair = tuple[Record, Record]
MANIFEST = "split.json"


def split(
    json_path: str | Path,
    image_root: str | Path,
    output: str | Path,
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    copy_from: str | Path | None = None,
    overwrite: bool = False,
    num_workers: int | None = None,
) -> Report:
    """Write ``output/NAME.json`` for each name of ``fractions``, and ``output/split.json``, the manifest.

    Images with the same bytes go together. Sizes are the fractions as closely as such groups allow, and each part has
    an image at least. The same seed and set give the same parts, in whatever order the JSON lists them.

    Args:
        image_root: folder of the images, which are read for their content.
        fractions: name -> part of the images; they sum to 1 at most.
        copy_from: folder of the panoptic PNGs: where given, each part's images and PNGs are copied into
            ``output/NAME/images`` and ``output/NAME/panoptic``.

    Raises:
        DatasetError: the set cannot be used, an image is missing, the fractions cannot be, or an output exists.
    """
    _check_fractions(fractions)
    panoptic_set = read_panoptic_set(json_path)
    files = _image_files(panoptic_set, str(image_root))
    hashes = in_order(_content_hash, files, "images", num_workers)
    parts = divide(hashes, fractions, seed)
    with Staging(output, overwrite=overwrite) as stage:
        stage.refuse_existing(MANIFEST, *(f"{name}.json" for name in parts))
        for name, members in parts.items():
            stage.write_json(f"{name}.json", panoptic_set.content([panoptic_set.pairs[index] for index in members]))
            if copy_from is not None:
                for index in members:
                    _copy(stage, name, panoptic_set.pairs[index], files[index], Path(copy_from))
        stage.write_json(MANIFEST, _manifest(panoptic_set, hashes, parts, fractions, seed), indent=1)
    report = Report(
        read=[f"{json_path}: {counted(len(files), 'image')}, {counted(len(set(hashes)), 'different one')}"],
        written=[f"{Path(output) / name}.json: {counted(len(members), 'image')}" for name, members in parts.items()],
    )
    report.written.append(f"{Path(output) / MANIFEST}: seed {seed}, fractions, image ids and hashes of each part")
    report.lose("images in no part (the fractions sum to less than 1)", len(files) - sum(map(len, parts.values())))
    return report


def divide(hashes: Sequence[str], fractions: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Indices of each part, ascending; equal hashes stay together.

    Args:
        hashes: of the images' content.
        fractions: name -> part of the images.
        seed: of the order in which groups are dealt out.
    """
    groups: dict[str, list[int]] = {}
    for index, content in enumerate(hashes):
        groups.setdefault(content, []).append(index)
    if len(groups) < len(fractions):
        raise DatasetError(f"{len(groups)} different images cannot be divided into {len(fractions)} parts")
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    room = {name: fraction * len(hashes) for name, fraction in fractions.items()}
    # A share that nobody claims is a part of its own, dropped at the end.
    room[""] = (1.0 - sum(fractions.values())) * len(hashes)
    parts: dict[str, list[int]] = {name: [] for name in room}
    for number, content in enumerate(order):
        empty = [name for name in fractions if not parts[name]]
        must_fill = bool(empty) and len(order) - number <= len(empty)
        name = max(empty if must_fill else room, key=lambda name: room[name] - len(parts[name]))
        parts[name] += groups[content]
    return {name: sorted(parts[name]) for name in fractions}


def _check_fractions(fractions: Mapping[str, float]) -> None:
    total = sum(fractions.values())
    if not fractions or any(not 0 < value <= 1 for value in fractions.values()) or total > 1 + 1e-9:
        raise DatasetError(f"the fractions are {dict(fractions)}, expected numbers above 0 that sum to 1 at most")
    if f"{MANIFEST}" in {f"{name}.json" for name in fractions}:
        raise DatasetError(f"a part cannot be called {Path(MANIFEST).stem!r}, the manifest has that name")


def _image_files(panoptic_set: PanopticSet, image_root: str) -> list[str]:
    folder = FolderIndex(image_root, "image folder")
    files = []
    for image, annotation in panoptic_set.pairs:
        stems = possible_stems(image["file_name"], annotation["file_name"], image["id"])
        file = folder.find(image["file_name"], *stems)
        if file is None:
            raise DatasetError(f"{panoptic_set.path}: the image {image['file_name']} is not below {image_root}")
        files.append(file)
    return files


def _content_hash(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise DatasetError(f"image {path} cannot be read: {error.strerror}") from None


def _copy(stage: Staging, name: str, pair: Pair, image_file: str, panoptic_root: Path) -> None:
    image, annotation = pair
    shutil.copyfile(image_file, stage.path(Path(name, "images", image["file_name"])))
    try:
        shutil.copyfile(
            panoptic_root / annotation["file_name"], stage.path(Path(name, "panoptic", annotation["file_name"]))
        )
    except OSError as error:
        raise DatasetError(
            f"label {panoptic_root / annotation['file_name']} cannot be copied: {error.strerror}"
        ) from None


def _manifest(
    panoptic_set: PanopticSet,
    hashes: Sequence[str],
    parts: Mapping[str, Sequence[int]],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, Any]:
    def entry(index: int) -> dict[str, Any]:
        image = panoptic_set.pairs[index][0]
        return {"image_id": image["id"], "file_name": image["file_name"], "sha256": hashes[index]}

    return {
        "source": Path(panoptic_set.path).name,
        "seed": seed,
        "fractions": dict(fractions),
        "parts": {name: [entry(index) for index in members] for name, members in parts.items()},
    }
