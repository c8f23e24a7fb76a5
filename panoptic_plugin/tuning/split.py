"""The tuning split: whole cities cut out of the training set, and the proof that no image of val or test is in it.

What is tuned on the images that a result is reported on is fitted to them. So val and test are refused by their
names, and by the content of their images.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_plugin.data.catalog import check_dataset_names, register_custom_datasets, replace_dataset
from panoptic_plugin.data.convert.parallel import in_order
from panoptic_plugin.data.prepare.subset import places
from panoptic_plugin.errors import ConfigError, DatasetError, UserError
from panoptic_plugin.files import file_sha256, read_json, replace_file
from panoptic_plugin.registry import suggestion

MANIFEST = "split.json"
TRAIN_PART, TUNING_PART = "tuning_fit", "tuning_score"
HELD_OUT = re.compile(r"(^|[^a-z])(val|valid|validation|minival|test|dev|eval)([^a-z]|$)", re.IGNORECASE)

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Split:
    """Two datasets, registered in this process.

    Attributes:
        train: name of the one that trials train on.
        tuning: name of the one that they are scored on.
        manifest: what ``split.json`` says: source, groups, image ids, fingerprints, overlap checks.
    """

    train: str
    tuning: str
    manifest: Mapping[str, Any]


def make_split(cfg, folder: Path) -> Split:
    """Cut ``DATASETS.TRAIN`` in two, check it against val and test, and write ``folder/split.json``.

    Args:
        cfg: reads DATASETS, TUNE.SPLIT and TUNE.SEED.
        folder: receives the manifest and the JSON of the tuning part's truth; made where it is missing.

    Raises:
        ConfigError: not exactly one training set, one that is held out, or an unknown city.
        DatasetError: a dataset cannot be read, cannot be cut, or shares images with a held-out one.
    """
    name = source_name(cfg)
    records, contents = _unique(DatasetCatalog.get(name))
    groups = group_images(records)
    chosen = choose_groups(groups, cfg.TUNE.SPLIT.CITIES, cfg.TUNE.SPLIT.SHARE, cfg.TUNE.SEED)
    tuning_ids = {image_id for group in chosen for image_id in groups[group]}
    parts = {
        TRAIN_PART: [record for record in records if str(record["image_id"]) not in tuning_ids],
        TUNING_PART: [record for record in records if str(record["image_id"]) in tuning_ids],
    }
    hashes = {
        part: {str(one["image_id"]): contents[str(one["image_id"])] for one in some} for part, some in parts.items()
    }
    held_out = {other: image_hashes(DatasetCatalog.get(other)) for other in held_out_names(cfg, name)}
    check_overlap(hashes, held_out)
    manifest = {
        "source": name,
        "groups": sorted(chosen),
        "of_groups": len(groups),
        "image_ids": {part: [record["image_id"] for record in some] for part, some in parts.items()},
        "fingerprints": {part: fingerprint(some.values()) for part, some in hashes.items()},
        "held_out": {other: {"images": len(some), "fingerprint": fingerprint(some.values())}
                     for other, some in held_out.items()},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    _write_truth(MetadataCatalog.get(name), tuning_ids, folder / f"{TUNING_PART}.json")
    replace_file(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return open_split(cfg, folder)


def open_split(cfg, folder: Path) -> Split:
    """Register the parts that ``folder/split.json`` names, in any process."""
    register_custom_datasets(cfg)
    manifest = read_json(folder / MANIFEST, what="tuning split")
    source, ids = manifest["source"], manifest["image_ids"]
    metadata = {key: value for key, value in MetadataCatalog.get(source).as_dict().items() if key != "name"}
    names = {}
    for part in (TRAIN_PART, TUNING_PART):
        names[part] = f"{source}_{part}"
        own = {**metadata, "panoptic_json": str(folder / f"{part}.json")} if part == TUNING_PART else metadata
        replace_dataset(names[part], _Part(source, frozenset(map(str, ids[part]))), own)
    return Split(names[TRAIN_PART], names[TUNING_PART], manifest)


@dataclass(frozen=True)
class _Part:
    """Loads some images of a dataset."""

    source: str
    image_ids: frozenset[str]

    def __call__(self) -> Records:
        records: Records = DatasetCatalog.get(self.source)
        return [record for record in records if str(record["image_id"]) in self.image_ids]


def source_name(cfg) -> str:
    """The dataset that may be cut.

    Raises:
        ConfigError: there is not exactly one training set, or it is one that results are reported on.
    """
    register_custom_datasets(cfg)
    check_dataset_names(cfg)
    if len(cfg.DATASETS.TRAIN) != 1:
        raise ConfigError(
            f"DATASETS.TRAIN names {len(cfg.DATASETS.TRAIN)} datasets; tuning cuts its split out of exactly one"
        )
    name = cfg.DATASETS.TRAIN[0]
    if name in cfg.DATASETS.TEST:
        raise ConfigError(
            f"DATASETS.TRAIN and DATASETS.TEST both name {name}: tuning on what results are reported on fits them to "
            "it. Name another training set"
        )
    if HELD_OUT.search(name):
        raise ConfigError(
            f"DATASETS.TRAIN is {name}, by its name a set that results are reported on; the tuning split must be cut "
            "out of a training set"
        )
    if MetadataCatalog.get(name).get("panoptic_json", None) is None:
        raise ConfigError(f"dataset {name} has no panoptic ground truth, which PQ needs")
    return name


def held_out_names(cfg, source: str) -> list[str]:
    """The datasets that no image of the split may be in: DATASETS.TEST, and val and test of the source's family."""
    siblings = [source.replace("train", other) for other in ("val", "test", "dev")]
    known = [name for name in siblings if name != source and name in DatasetCatalog.list()]
    return [*dict.fromkeys(cfg.DATASETS.TEST), *(name for name in known if _can_be_read(name, cfg.DATASETS.TEST))]


def _can_be_read(name: str, named: Sequence[str]) -> bool:
    """Whether a dataset that the config does not name is on the disk."""
    if name in named:
        return False
    try:
        return bool(DatasetCatalog.get(name))
    except (UserError, OSError):
        return False


def group_images(records: Records) -> dict[str, list[str]]:
    """Image ids by what must not be torn apart: the city or folder, else the sequence, else the single image.

    Images of one drive show the same places: parted, one half would tell about the other.
    """
    for key in (_city, _sequence):
        groups: dict[str, list[str]] = {}
        for record in records:
            groups.setdefault(key(record), []).append(str(record["image_id"]))
        if len(groups) > 1:
            return groups
    return {str(record["image_id"]): [str(record["image_id"])] for record in records}


def _city(record: Mapping[str, Any]) -> str:
    image_id = str(record["image_id"])
    named = places({"file_name": Path(record["file_name"]).name, "id": image_id})
    return min(named) if named else Path(record["file_name"]).parent.name


def _sequence(record: Mapping[str, Any]) -> str:
    parts = str(record["image_id"]).split("_")
    return "_".join(parts[:2]) if len(parts) > 2 else str(record["image_id"])


def choose_groups(groups: Mapping[str, Sequence[str]], wanted: Sequence[str], share: float, seed: int) -> list[str]:
    """The groups of the tuning part: those that are wanted, else drawn until they hold ``share`` of the images.

    Raises:
        ConfigError: an unknown group, a share that is none, or nothing would be left to train on.
    """
    for name in wanted:
        if name not in groups:
            raise ConfigError(f"TUNE.SPLIT.CITIES has {name!r}. {suggestion(name, sorted(groups))}")
    if not 0 < share < 1:
        raise ConfigError(f"TUNE.SPLIT.SHARE is {share}, expected a share between 0 and 1")
    chosen = list(dict.fromkeys(wanted))
    if not chosen:
        order, total = sorted(groups), sum(map(len, groups.values()))
        random.Random(seed).shuffle(order)
        while order and sum(len(groups[name]) for name in chosen) < share * total:
            chosen.append(order.pop())
    if len(chosen) == len(groups):
        raise ConfigError(
            f"the tuning split would take all {len(groups)} groups of images ({', '.join(sorted(groups)[:5])}); leave "
            "some to train on"
        )
    return chosen


def image_hashes(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Image id -> SHA-256 of the image file."""
    records = list(records)
    hashes = in_order(_content_hash, [record["file_name"] for record in records], "images", None)
    return {str(record["image_id"]): content for record, content in zip(records, hashes, strict=True)}


def _content_hash(path: str) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DatasetError(f"image {path} cannot be read: {error.strerror}") from None


def check_overlap(parts: Mapping[str, Mapping[str, str]], held_out: Mapping[str, Mapping[str, str]]) -> None:
    """Raise DatasetError where two parts, or a part and a held-out set, have an image of the same content.

    Args:
        parts: part -> image id -> hash.
        held_out: dataset -> image id -> hash.
    """
    names = list(parts)
    pairs = [(one, parts[one], other, parts[other]) for at, one in enumerate(names) for other in names[at + 1 :]]
    pairs += [(part, some, other, theirs) for part, some in parts.items() for other, theirs in held_out.items()]
    for one, some, other, theirs in pairs:
        of_hash = {content: image_id for image_id, content in theirs.items()}
        shared = [(image_id, of_hash[content]) for image_id, content in some.items() if content in of_hash]
        if shared:
            raise DatasetError(
                f"{len(shared)} images of {one} are also in {other} (first: {shared[0][0]}, there {shared[0][1]}); "
                "what is tuned on them would be fitted to them. Take them out of the training set"
            )


def fingerprint(hashes: Iterable[str]) -> str:
    """One hash of the images of a set, whatever their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def _unique(records: Records) -> tuple[Records, dict[str, str]]:
    """Each image content once, because copies could fall on both sides; and the hash of each image id."""
    hashes = image_hashes(records)
    first = {hashes[str(record["image_id"])]: record for record in reversed(records)}
    return [record for record in records if first[hashes[str(record["image_id"])]] is record], hashes


def _write_truth(metadata: Any, image_ids: set[str], path: Path) -> None:
    """The source's panoptic JSON with some of its images."""
    content = read_json(metadata.panoptic_json)
    kept = {
        **content,
        "images": [one for one in content["images"] if str(one["id"]) in image_ids],
        "annotations": [one for one in content["annotations"] if str(one["image_id"]) in image_ids],
    }
    replace_file(path, json.dumps(kept))
