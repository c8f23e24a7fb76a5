"""Whole generated datasets on disk, in Cityscapes' or COCO's layout."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from panoptic_plugin.data import cityscapes_layout, coco_layout
from panoptic_plugin.data.synthetic import make_scene
from panoptic_plugin.errors import DatasetError

LAYOUTS: dict[str, ModuleType] = {"cityscapes": cityscapes_layout, "coco": coco_layout}
MANIFEST = "synthetic_scenes.json"
SMALLEST_SIDE = 32


@dataclass(frozen=True)
class SynthesisOptions:
    """What to generate: the same options give the same bytes.

    Attributes:
        layout: "cityscapes" or "coco".
        num_train, num_val: scenes a split.
        height, width: pixels.
        seed: at least 0.
        odd_sizes: every eighth scene is a little smaller, with odd height and width.
    """

    layout: str = "cityscapes"
    num_train: int = 160
    num_val: int = 24
    height: int = 128
    width: int = 256
    seed: int = 0
    odd_sizes: bool = True

    def check(self) -> None:
        """Raise DatasetError for a value that cannot be."""
        if self.layout not in LAYOUTS:
            raise DatasetError(f"layout is {self.layout!r}, expected one of {', '.join(LAYOUTS)}")
        if min(self.num_train, self.num_val) < 1:
            raise DatasetError(f"{self.num_train} train and {self.num_val} val scenes asked for; each needs 1 or more")
        if min(self.height, self.width) < SMALLEST_SIDE:
            raise DatasetError(f"size is {self.height}x{self.width}, expected at least {SMALLEST_SIDE} a side")
        if self.seed < 0:
            raise DatasetError(f"seed is {self.seed}, expected 0 or more")


def synthesize(output: str | Path, options: SynthesisOptions, *, num_workers: int | None = None) -> Path:
    """Write a generated dataset into ``output/cityscapes`` or ``output/coco``.

    ``output`` then serves as ``$DETECTRON2_DATASETS``. The folder appears when it is complete, not before; one that
    holds the very same dataset already is left as it is.

    Args:
        num_workers: threads; by default one a core, at most 8. It does not change the result.

    Returns:
        The dataset's folder.

    Raises:
        DatasetError: an impossible option, or a folder that holds something else.
    """
    options.check()
    layout = LAYOUTS[options.layout]
    target = Path(output) / layout.FOLDER
    if _holds_same(target, options):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = Path(tempfile.mkdtemp(prefix=f".{layout.FOLDER}-", dir=target.parent))
    try:
        for split, count in (("train", options.num_train), ("val", options.num_val)):
            _write_split(partial_folder, layout, split, count, options, num_workers)
        (partial_folder / MANIFEST).write_text(json.dumps(asdict(options), indent=2), encoding="utf-8")
        partial_folder.chmod(0o755)
        os.replace(partial_folder, target)  # an empty folder may be replaced, any other may not
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return target


def _holds_same(target: Path, options: SynthesisOptions) -> bool:
    """Whether the folder holds this dataset; DatasetError where it holds anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    manifest = target / MANIFEST
    found = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
    if found == asdict(options):
        return True
    what = f"generated scenes with other options ({_difference(found, options)})" if found else "other content"
    raise DatasetError(f"{target} exists and holds {what}; remove it or choose another --output")


def _difference(found: dict[str, Any], options: SynthesisOptions) -> str:
    wanted = asdict(options)
    return ", ".join(f"{key} {found.get(key)}" for key in wanted if found.get(key) != wanted[key])


def _write_split(
    root: Path, layout: ModuleType, split: str, count: int, options: SynthesisOptions, num_workers: int | None
) -> None:
    write = partial(_write_scene, root, layout, split, options)
    threads = num_workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        progress = tqdm(pool.map(write, range(count)), total=count, desc=split, unit="scene", disable=None)
        layout.write_split(root, split, list(progress))


def _write_scene(root: Path, layout: ModuleType, split: str, options: SynthesisOptions, index: int) -> Any:
    scene = make_scene(options.seed, split, index, options.height, options.width, odd_sizes=options.odd_sizes)
    return layout.write_scene(root, split, index, scene)
