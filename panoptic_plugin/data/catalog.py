"""One call registers a panoptic dataset; the checks of ``DATASETS.*`` against what is registered.

A dataset in COCO panoptic format needs no code: its JSON's ``categories`` hold all that Detectron2 calls metadata.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_plugin.data.panoptic_json import IGNORE_LABEL, load_records, metadata_from_categories, read_categories
from panoptic_plugin.errors import ConfigError, DatasetError
from panoptic_plugin.registry import suggestion

REQUIRED_KEYS = ("NAME", "IMAGE_ROOT", "PANOPTIC_JSON", "PANOPTIC_ROOT")
OPTIONAL_KEYS = ("SEM_SEG_ROOT",)

_registered: dict[str, dict[str, Any]] = {}


def datasets_root() -> str:
    """Where relative dataset paths start: ``$DETECTRON2_DATASETS``, as in Detectron2, or ``./datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_panoptic_dataset(
    name: str,
    *,
    image_root: str,
    panoptic_json: str,
    panoptic_root: str,
    sem_seg_root: str | None = None,
    evaluator_type: str = "coco_panoptic_seg",
    **metadata: Any,
) -> None:
    """Register a dataset in COCO panoptic format.

    Images may have any size and extension and lie in sub-folders; ids may be numbers or strings. Class names,
    things and stuff, colours and contiguous ids (in the order of category ids) come from the JSON's ``categories``,
    which are read now; its records are read when the dataset is used.

    Args:
        name: how ``DATASETS.TRAIN`` and ``DATASETS.TEST`` call it.
        image_root: folder of the images.
        panoptic_json: the JSON file.
        panoptic_root: folder of the panoptic PNGs.
        sem_seg_root: folder of semantic PNGs with the panoptic PNGs' names, if there is one.
        evaluator_type: ``coco_panoptic_seg`` or ``cityscapes_panoptic_seg`` (needs ``gt_dir`` in ``metadata``).
        metadata: more metadata, or another value of a derived one.

    Raises:
        DatasetError: the JSON or its categories cannot be read, a class would become another one or none, or the
            name is taken by another dataset.
    """
    arguments = {
        "image_root": str(image_root),
        "panoptic_json": str(panoptic_json),
        "panoptic_root": str(panoptic_root),
        "sem_seg_root": str(sem_seg_root) if sem_seg_root else None,
        "evaluator_type": evaluator_type,
        **metadata,
    }
    if name in DatasetCatalog.list():
        _check_same(name, arguments)
        return
    derived = metadata_from_categories(read_categories(arguments["panoptic_json"]))
    complete = {**derived, **{key: value for key, value in arguments.items() if value is not None}}
    _check_label_space(f"{panoptic_json}: dataset {name!r}", complete, derived)
    replace_dataset(name, partial(_load, arguments, complete), complete)
    _registered[name] = arguments


def _load(arguments: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    return load_records(
        arguments["panoptic_json"],
        arguments["image_root"],
        arguments["panoptic_root"],
        metadata,
        arguments["sem_seg_root"],
    )


def _check_label_space(where: str, metadata: Mapping[str, Any], derived: Mapping[str, Any]) -> None:
    """Refuse what would silently turn a class into another one or into none.

    Contiguous ids must be 0, 1, 2, ..., each of one category, as many as there are names, and none may be the value
    of pixels without a class.
    """
    keys = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
    contiguous = [index for key in keys for index in metadata[key].values()]
    categories = {category for key in keys for category in metadata[key]}
    lost = sorted({category for key in keys for category in derived[key]} - categories)
    if lost:
        raise DatasetError(f"{where}: the categories {lost[:8]} of the JSON have no contiguous id")
    num_classes = len(metadata["stuff_classes"])
    if sorted(contiguous) != list(range(num_classes)) or len(metadata["thing_classes"]) != num_classes:
        raise DatasetError(
            f"{where}: its {num_classes} classes have the contiguous ids {sorted(contiguous)[:24]}, expected 0 to "
            f"{num_classes - 1}, each once; let them be derived from the JSON's categories"
        )
    if metadata["ignore_label"] in contiguous or num_classes > IGNORE_LABEL:
        raise DatasetError(
            f"{where}: {num_classes} classes, but the value {metadata['ignore_label']} marks pixels without a class, "
            f"and labels hold one byte; {IGNORE_LABEL} classes are possible, and ignore_label must be none of their ids"
        )


def _check_same(name: str, arguments: Mapping[str, Any]) -> None:
    if name not in _registered:
        raise DatasetError(f"dataset {name!r} is registered already, by Detectron2 or other code; choose another name")
    before = _registered[name]
    for key in sorted({*before, *arguments}):
        if before.get(key) != arguments.get(key):
            raise DatasetError(
                f"dataset {name!r} is registered already with {key} {before.get(key)!r}, now {arguments.get(key)!r}; "
                "choose another name"
            )


def replace_dataset(name: str, load: Callable[[], list[dict[str, Any]]], metadata: Mapping[str, Any]) -> None:
    """Put a dataset into Detectron2's catalogs, in place of one of the same name."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    MetadataCatalog.pop(name, None)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)


def register_custom_datasets(cfg) -> list[str]:
    """Register what ``DATASETS.CUSTOM`` describes; doing it twice is no mistake.

    Returns:
        The names.

    Raises:
        ConfigError: an entry with a missing or unknown key.
        DatasetError: see :func:`register_panoptic_dataset`.
    """
    names = []
    for index, entry in enumerate(cfg.DATASETS.CUSTOM):
        _check_entry(f"DATASETS.CUSTOM[{index}]", entry)
        register_panoptic_dataset(
            entry["NAME"],
            image_root=_below_root(entry["IMAGE_ROOT"]),
            panoptic_json=_below_root(entry["PANOPTIC_JSON"]),
            panoptic_root=_below_root(entry["PANOPTIC_ROOT"]),
            sem_seg_root=_below_root(entry["SEM_SEG_ROOT"]) if entry.get("SEM_SEG_ROOT") else None,
        )
        names.append(entry["NAME"])
    return names


def _check_entry(where: str, entry: Any) -> None:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is {entry!r}, expected the keys {', '.join(REQUIRED_KEYS)}")
    known = [*REQUIRED_KEYS, *OPTIONAL_KEYS]
    for key, value in entry.items():
        if key not in known:
            raise ConfigError(f"{where} has the unknown key {key!r}. {suggestion(str(key), known)}")
        if not isinstance(value, str):
            raise ConfigError(f"{where}.{key} is {value!r}, expected a string")
    for key in REQUIRED_KEYS:
        if not entry.get(key):
            raise ConfigError(f"{where} lacks {key}; it needs {', '.join(REQUIRED_KEYS)}")


def _below_root(path: str) -> str:
    return os.path.join(datasets_root(), os.path.expanduser(path))


def check_dataset_names(cfg) -> None:
    """Raise ConfigError for a name in ``DATASETS.TRAIN`` or ``DATASETS.TEST`` that is not registered."""
    known = sorted(DatasetCatalog.list())
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            if name not in known:
                raise ConfigError(
                    f"DATASETS.{key} names {name!r}, which is not registered. {suggestion(name, known)} "
                    "Describe a dataset of your own in DATASETS.CUSTOM, or call register_panoptic_dataset."
                )


def check_num_classes(cfg) -> None:
    """Raise ConfigError where ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` is not the number of a dataset's classes."""
    found = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        classes = MetadataCatalog.get(name).get("stuff_classes")
        if classes is not None and len(classes) != found:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {found}, but dataset {name!r} has {len(classes)} classes; "
                f"set MODEL.SEM_SEG_HEAD.NUM_CLASSES {len(classes)}"
            )
