"""The files of a cache of the ground truth: what is in them, and reading them back with nothing taken on trust.

``panoptic.json`` holds segments in COCO's panoptic format, ``runs.npz`` the maps of their numbers as runs of pixels,
``instances.json`` the objects in COCO's format with run-length codes. JSON and arrays of numbers only: a pickle would
run whatever it likes.

Shapes: N images, R runs of all of them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.rle import encode_labels
from panoptic_plugin.evaluation.runs import pixels_by_value, shared_runs
from panoptic_plugin.version import __version__

SCHEMA_VERSION = 1  # of the files
CONVERTER_VERSION = 1  # of the code that makes them: raise it whenever the same labels would give other files
PANOPTIC, RUNS, INSTANCES, MANIFEST = "panoptic.json", "runs.npz", "instances.json", "manifest.json"


class Damaged(Exception):
    """A cache is there but not whole, or not what was written."""


class CachedMaps:
    """The truth of images, from the contents of ``panoptic.json`` and ``runs.npz``."""

    def __init__(self, panoptic: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self._ignore_label = panoptic["info"]["ignore_label"]
        self._annotations = {one["key"]: (n, one) for n, one in enumerate(panoptic["annotations"])}
        self._numbers, self._lengths = arrays["numbers"], arrays["lengths"]
        self._starts, self._shapes = arrays["starts"], arrays["shapes"]
        sizes = np.add.reduceat(self._lengths.astype(np.int64), self._starts[:-1])
        if not np.array_equal(sizes, self._shapes.astype(np.int64).prod(axis=1)):
            raise Damaged("the runs do not fill the images")

    def load(self, image_id: str) -> Truth:
        """One image's truth."""
        number, annotation = self._annotations[image_id]
        runs = slice(int(self._starts[number]), int(self._starts[number + 1]))
        numbers = np.repeat(self._numbers[runs].astype(np.int32), self._lengths[runs])
        segments = [
            {key: one[key] for key in ("id", "category_id", "iscrowd", "dataset_id")}
            for one in annotation["segments_info"]
        ]
        return Truth(image_id, numbers.reshape(self._shapes[number]), segments, self._ignore_label)


class Found(NamedTuple):
    """A cache that is there; ``maps`` is None where it holds objects alone."""

    maps: CachedMaps | None


class TruthFiles:
    """Collects the truth of images, then gives the files.

    Args:
        fingerprint: of what they are made of.
        classes: ``names``, and ``things``, the contiguous ids of the things.
        ignore_label: of the truth.
    """

    def __init__(self, fingerprint: str, classes: Mapping[str, Any], ignore_label: int) -> None:
        self.fingerprint, self._classes, self._ignore_label = fingerprint, classes, ignore_label
        self._things = set(classes["things"])
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, truth: Truth, about: Mapping[str, Any]) -> None:
        """One more image; ``about`` is ``PanopticGroundTruth.about``."""
        (values,), lengths = shared_runs(truth.numbers)
        self._runs.append((values, lengths))
        areas = pixels_by_value(values, lengths, len(truth.segments) + 1).tolist()
        height, width = truth.shape
        image_id = about["image_id"]
        self._images.append({"id": image_id, "file_name": about["file_name"], "height": height, "width": width})
        segments = [{**one, "area": areas[one["id"]]} for one in truth.segments]
        self._annotations.append(
            {"image_id": image_id, "key": truth.image_id, "file_name": about["label"], "segments_info": segments}
        )
        objects = {one["id"]: one for one in segments if one["category_id"] in self._things}
        kept = np.zeros(len(segments) + 1, dtype=np.int32)
        kept[list(objects)] = list(objects)
        codes = encode_labels(kept[truth.numbers]) if objects else {}
        for number, one in objects.items():
            code = {"size": [height, width], "counts": codes[number]}
            self._objects.append(
                {
                    "id": len(self._objects) + 1,
                    "image_id": image_id,
                    "category_id": one["category_id"],
                    "iscrowd": one["iscrowd"],
                    "area": one["area"],
                    "bbox": coco_mask.toBbox(code).tolist(),
                    "segmentation": {"size": [height, width], "counts": codes[number].decode("ascii")},
                }
            )

    def maps(self) -> CachedMaps:
        """What a reader of the files would get."""
        return CachedMaps(self._panoptic(), self._arrays())

    def contents(self) -> dict[str, bytes]:
        """Name -> content of the three files."""
        instances = {
            "info": self._info(),
            "images": self._images,
            "categories": self._categories(self._things),
            "annotations": self._objects,
        }
        arrays = io.BytesIO()
        np.savez(arrays, **self._arrays())  # type: ignore[arg-type]
        return {PANOPTIC: _json(self._panoptic()), RUNS: arrays.getvalue(), INSTANCES: _json(instances)}

    def manifest(self, contents: Mapping[str, bytes]) -> bytes:
        """That of some of the files; it is what makes a cache valid."""
        files = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents.items()
        }
        counts = {
            "images": len(self._images),
            "segments": sum(len(one["segments_info"]) for one in self._annotations),
            "instances": len(self._objects),
        }
        return _json({**self._info(), "files": files, "counts": counts})

    def _info(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "created_by": f"panoptic_plugin {__version__}",
            "ignore_label": self._ignore_label,
        }

    def _categories(self, wanted: set[int]) -> list[dict[str, Any]]:
        names = enumerate(self._classes["names"])
        return [{"id": c, "name": name, "isthing": int(c in self._things)} for c, name in names if c in wanted]

    def _panoptic(self) -> dict[str, Any]:
        return {
            "info": self._info(),
            "images": self._images,
            "categories": self._categories(set(range(len(self._classes["names"])))),
            "annotations": self._annotations,
        }

    def _arrays(self) -> dict[str, np.ndarray]:
        values, lengths = (np.concatenate(part) for part in zip(*self._runs, strict=True))
        most = int(values.max(initial=0))
        return {
            "numbers": values.astype(np.uint16 if most < 1 << 16 else np.int32),
            "lengths": lengths.astype(np.uint32),
            "starts": np.cumsum([0, *(len(one) for one, _ in self._runs)]),
            "shapes": np.array([[one["height"], one["width"]] for one in self._images], dtype=np.int32),
        }


def check_manifest(manifest: bytes, where: str) -> dict[str, Any]:
    """The manifest's content; raises Damaged where it is none."""
    try:
        content = json.loads(manifest)
        if isinstance(content["fingerprint"], str) and all(
            isinstance(one["sha256"], str) for one in content["files"].values()
        ):
            return content
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise Damaged(f"{where} is no manifest of a cache")


def check_file(manifest: Mapping[str, Any], name: str, content: bytes, where: str) -> None:
    """Raise Damaged where a file is not what the manifest says."""
    expected = manifest["files"].get(name, {}).get("sha256")
    if expected != hashlib.sha256(content).hexdigest():
        raise Damaged(f"{where} is not what was written ({len(content)} bytes); it was cut off or changed")


def read_maps(panoptic: bytes, runs: bytes, where: str) -> CachedMaps:
    """From the contents of the two files; raises Damaged where they are not of this format."""
    try:
        with np.load(io.BytesIO(runs), allow_pickle=False) as arrays:
            return CachedMaps(json.loads(panoptic), dict(arrays))
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        raise Damaged(f"{where} cannot be read ({error})") from None


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
