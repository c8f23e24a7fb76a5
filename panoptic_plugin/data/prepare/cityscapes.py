"""Cityscapes as Detectron2 expects it: the panoptic JSON and PNGs, and trainId PNGs."""

from __future__ import annotations

from pathlib import Path

from panoptic_plugin.data.convert.cityscapes import (
    INSTANCE_SUFFIX,
    LABEL_SUFFIX,
    TRAIN_ID_SUFFIX,
    convert_cityscapes,
    convert_train_ids,
)
from panoptic_plugin.data.convert.report import Report
from panoptic_plugin.errors import DatasetError

IMAGE_SUFFIX = "_leftImg8bit.png"
SPLITS = ("train", "val")


def prepare_cityscapes(root: str | Path, *, overwrite: bool = False, num_workers: int | None = None) -> list[Report]:
    """Write ``gtFine/cityscapes_panoptic_{train,val}`` (JSON and PNGs) and ``*_labelTrainIds.png``.

    What is complete already is left as it is, unless ``overwrite``.

    Args:
        root: the folder with ``leftImg8bit`` and ``gtFine``, or the one that holds it as ``cityscapes``.

    Returns:
        One report a step.

    Raises:
        DatasetError: folders or files are missing: all of them are named before anything is written.
    """
    folder = find_root(root)
    splits = [split for split in SPLITS if (folder / "gtFine" / split).is_dir()]
    problems = [problem for split in splits for problem in layout_problems(folder, split)]
    if problems:
        raise DatasetError("; ".join(problems))
    reports = []
    for split in splits:
        if overwrite or not _has_panoptic(folder, split):
            # A part of an interrupted or older run may lie there: the whole set is written anew.
            reports.append(convert_cityscapes(folder / "gtFine", split, overwrite=True, num_workers=num_workers))
        else:
            reports.append(Report(read=[f"{folder / 'gtFine'}/cityscapes_panoptic_{split}: complete, left as it is"]))
        if overwrite or _names(folder / "gtFine" / split, TRAIN_ID_SUFFIX) != _names(
            folder / "gtFine" / split, LABEL_SUFFIX
        ):
            reports.append(convert_train_ids(folder / "gtFine", split, overwrite=True, num_workers=num_workers))
        else:
            reports.append(Report(read=[f"{folder / 'gtFine' / split}/*{TRAIN_ID_SUFFIX}: complete, left as they are"]))
    return reports


def find_root(root: str | Path) -> Path:
    """The folder that holds ``leftImg8bit`` and ``gtFine``."""
    for folder in (Path(root), Path(root) / "cityscapes"):
        if (folder / "gtFine").is_dir() and any((folder / "gtFine" / split).is_dir() for split in SPLITS):
            return folder
    raise DatasetError(
        f"{root} holds no gtFine/train or gtFine/val; unpack gtFine_trainvaltest.zip and "
        "leftImg8bit_trainvaltest.zip there"
    )


def layout_problems(folder: Path, split: str) -> list[str]:
    """What is missing of a split, in words."""
    images = _names(folder / "leftImg8bit" / split, IMAGE_SUFFIX)
    problems = []
    if not images:
        return [f"{folder / 'leftImg8bit' / split} holds no CITY/*{IMAGE_SUFFIX}; unpack leftImg8bit_trainvaltest.zip"]
    for suffix in (INSTANCE_SUFFIX, LABEL_SUFFIX):
        labels = _names(folder / "gtFine" / split, suffix)
        for missing, what in (
            (images - labels, f"have no *{suffix}"),
            (labels - images, f"of *{suffix} have no image"),
        ):
            if missing:
                problems.append(f"{split}: {len(missing)} {what}, the first is {min(missing)}")
    return problems


def _has_panoptic(folder: Path, split: str) -> bool:
    base = folder / "gtFine" / f"cityscapes_panoptic_{split}"
    written = {path.name.removesuffix("_gtFine_panoptic.png") for path in base.glob("*.png")}
    wanted = {Path(name).name for name in _names(folder / "gtFine" / split, INSTANCE_SUFFIX)}
    return base.with_suffix(".json").is_file() and wanted <= written


def _names(folder: Path, suffix: str) -> set[str]:
    """``CITY/CITY_SEQUENCE_FRAME`` of all files with the suffix."""
    return {f"{file.parent.name}/{file.name.removesuffix(suffix)}" for file in folder.glob(f"*/*{suffix}")}
