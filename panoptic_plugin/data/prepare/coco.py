"""COCO as Detectron2's Panoptic FPN expects it: ``panoptic_stuff_*``, all things 0 and stuff from 1."""

from __future__ import annotations

from pathlib import Path

from panoptic_plugin.data.convert.panoptic_set import read_panoptic_set
from panoptic_plugin.data.convert.report import Report
from panoptic_plugin.data.convert.to_semantic import convert_to_semantic
from panoptic_plugin.errors import DatasetError

SPLITS = ("train2017", "val2017")


def prepare_coco(root: str | Path, *, overwrite: bool = False, num_workers: int | None = None) -> list[Report]:
    """Write ``panoptic_stuff_{train,val}2017`` for the splits that are there.

    Args:
        root: the folder with ``annotations/``, ``train2017/``, ``panoptic_train2017/``, or the one that holds it as
            ``coco``. A folder that is complete already is left as it is, unless ``overwrite``.

    Returns:
        One report a split.

    Raises:
        DatasetError: no split is there, or files of one are missing.
    """
    folder = find_root(root)
    reports = []
    for split in SPLITS:
        json_path = folder / "annotations" / f"panoptic_{split}.json"
        if not json_path.is_file():
            continue
        labels, target = _check_layout(folder, split, json_path), folder / f"panoptic_stuff_{split}"
        if not overwrite and labels <= {file.name for file in target.glob("*.png")}:
            reports.append(Report(read=[f"{target}: complete, left as it is"]))
            continue
        reports.append(
            convert_to_semantic(
                json_path,
                folder / f"panoptic_{split}",
                target,
                values="stuff",
                overwrite=True,
                num_workers=num_workers,
            )
        )
    return reports


def find_root(root: str | Path) -> Path:
    """The folder that holds COCO's ``annotations``."""
    for folder in (Path(root), Path(root) / "coco"):
        if any((folder / "annotations" / f"panoptic_{split}.json").is_file() for split in SPLITS):
            return folder
    raise DatasetError(
        f"{root} holds no annotations/panoptic_train2017.json or panoptic_val2017.json; download "
        "panoptic_annotations_trainval2017.zip from https://cocodataset.org/#download and unpack it there"
    )


def _check_layout(folder: Path, split: str, json_path: Path) -> set[str]:
    """Names of the split's panoptic PNGs; DatasetError where images or PNGs are missing."""
    panoptic_set = read_panoptic_set(json_path)
    wanted = {
        split: {image["file_name"] for image, _ in panoptic_set.pairs},
        f"panoptic_{split}": {annotation["file_name"] for _, annotation in panoptic_set.pairs},
    }
    for name, files in wanted.items():
        if not (folder / name).is_dir():
            raise DatasetError(
                f"{folder / name} does not exist; unpack {name}.zip there (it is inside COCO's archives)"
            )
        missing = files - {file.name for file in (folder / name).iterdir()}
        if missing:
            raise DatasetError(
                f"{folder / name} lacks {len(missing)} of {len(files)} files that {json_path} names, the first is "
                f"{min(missing)}; was the archive unpacked completely?"
            )
    return wanted[f"panoptic_{split}"]
