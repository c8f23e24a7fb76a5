"""Checks of ``images`` and ``annotations``: ids, references, paths; and the records that are left to look at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from panoptic_plugin.data.folder_index import FolderIndex
from panoptic_plugin.data.panoptic_json import possible_stems
from panoptic_plugin.data.validate.finding import Finding, make_finding
from panoptic_plugin.data.validate.source import Source
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.files import outside


@dataclass
class Record:
    """One annotation with its image.

    Attributes:
        index: position in ``annotations``.
        image, annotation: their entries of the JSON; they are not changed.
        image_path, label_path, semantic_path: files on disk, None where there is none.
        findings: what was found so far.
    """

    index: int
    image: Mapping[str, Any]
    annotation: Mapping[str, Any]
    image_path: str | None = None
    label_path: str | None = None
    semantic_path: str | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def image_id(self) -> Any:
        return self.annotation["image_id"]

    @property
    def segments(self) -> list[Mapping[str, Any]]:
        return self.annotation["segments_info"]

    def add(self, code: str, file: str, *, found: object, expected: object, segment_id: Any = None) -> None:
        """Note a finding of this record."""
        where: dict[str, Any] = {"index": self.index, "image_id": self.image_id, "segment_id": segment_id}
        self.findings.append(make_finding(code, file, found=found, expected=expected, **where))


def check_records(source: Source, content: Mapping[str, Any]) -> tuple[list[Record], list[Finding]]:
    """The records that can be looked at, and what is wrong with the lists themselves."""
    findings: list[Finding] = []
    images = _images_by_id(source.panoptic_json, content.get("images"), findings)
    annotations = content.get("annotations")
    if not isinstance(annotations, list) or not annotations or not images:
        key = "annotations" if images else "images"
        found = f"'{key}' holds no usable entry"
        findings.append(make_finding("empty-set", source.panoptic_json, found=found, expected="at least one"))
        return [], findings
    records = list(_usable(source.panoptic_json, annotations, images, findings))
    unused = images.keys() - {record.image_id for record in records} - _named_images(annotations)
    for image_id in [id_ for id_ in images if id_ in unused]:
        what: dict[str, Any] = {"found": f"no annotation for {images[image_id].get('file_name')!r}", "expected": "one"}
        findings.append(make_finding("image-without-annotation", source.panoptic_json, image_id=image_id, **what))
    _find_files(source, records)
    return records, findings


def _named_images(annotations: list[Any]) -> set[Any]:
    named = (entry.get("image_id") for entry in annotations if isinstance(entry, dict))
    return {image_id for image_id in named if is_id(image_id)}


def is_id(value: Any) -> bool:
    """Whether something can be an image id."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _images_by_id(path: str, images: Any, findings: list[Finding]) -> dict[Any, dict[str, Any]]:
    by_id: dict[Any, dict[str, Any]] = {}
    for index, image in enumerate(images if isinstance(images, list) else []):
        report = partial(make_finding, file=path, index=index)
        if not isinstance(image, dict) or not is_id(image.get("id")) or not isinstance(image.get("file_name"), str):
            expected = "an object of images with id and file_name"
            findings.append(report("malformed-record", found=f"images[{index}] is {image!r}", expected=expected))
        elif image["id"] in by_id:
            found = f"images[{index}] ({image['file_name']!r}) has the id of {by_id[image['id']]['file_name']!r}"
            findings.append(report("duplicate-image-id", image_id=image["id"], found=found, expected="another id"))
        else:
            by_id[image["id"]] = image
    return by_id


def _usable(
    path: str, annotations: list[Any], images: Mapping[Any, dict[str, Any]], findings: list[Finding]
) -> Iterator[Record]:
    seen: set[Any] = set()
    for index, annotation in enumerate(annotations):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        report = partial(make_finding, file=path, index=index, image_id=image_id)
        if not _is_annotation(annotation):
            expected = "image_id, file_name and a list segments_info"
            findings.append(
                report("malformed-record", found=f"annotations[{index}] is {annotation!r}", expected=expected)
            )
        elif image_id in seen:
            findings.append(report("duplicate-annotation", found="a second annotation", expected="one an image"))
        elif image_id not in images:
            findings.append(report("unknown-image", found=f"image_id {image_id!r}", expected="an id of 'images'"))
        else:
            seen.add(image_id)
            yield Record(index, images[image_id], annotation)


def _is_annotation(annotation: Any) -> bool:
    if not isinstance(annotation, dict) or not is_id(annotation.get("image_id")):
        return False
    segments = annotation.get("segments_info")
    is_list = isinstance(segments, list) and all(isinstance(segment, dict) for segment in segments)
    return is_list and isinstance(annotation.get("file_name"), str)


def _find_files(source: Source, records: list[Record]) -> None:
    """Fill in the paths, as the loader finds them, and note what is missing or outside."""
    image_files = FolderIndex(source.image_root, "image folder")
    label_files = FolderIndex(source.panoptic_root, "folder of panoptic PNGs")
    semantic_files = FolderIndex(source.semantic_root, "folder of semantic PNGs") if source.semantic_root else None
    for record in records:
        name, label = record.image["file_name"], record.annotation["file_name"]
        stems = possible_stems(name, label, record.image_id)
        record.image_path = _find(record, image_files, name, stems, "missing-image")
        record.label_path = _find(record, label_files, label, [], "missing-label")
        if semantic_files and not outside(label):
            record.semantic_path = _find(record, semantic_files, label, [], "missing-label")
        if record.image_path and _differs_in_suffix(record.image_path, name):
            found = f"{os.path.basename(record.image_path)} on disk"
            record.add("wrong-extension", record.image_path, found=found, expected=f"{name!r} of the JSON")


def _find(record: Record, files: FolderIndex, name: str, stems: list[str], missing: str) -> str | None:
    full = os.path.join(files.root, name)
    if outside(name) or files.escapes(name):
        record.add("path-outside", full, found=f"file_name {name!r}", expected=f"a file inside {files.root}")
        return None
    try:
        found = files.find(name, *stems)
    except DatasetError as error:  # several files could be meant
        record.add(missing, full, found=str(error), expected=f"{name!r} below {files.root}")
        return None
    if found is None:
        record.add(missing, full, found="no such file", expected=f"{name!r} below {files.root}")
    return found


def _differs_in_suffix(path: str, name: str) -> bool:
    on_disk, named = Path(path), Path(name)
    return on_disk.stem == named.stem and on_disk.suffix != named.suffix
