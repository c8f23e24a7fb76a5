"""A clean panoptic dataset on disk, and one function for each fault that can be put into it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_plugin.structures import ids_to_rgb

CATEGORIES = [
    {"id": 1, "name": "cell", "isthing": 1},
    {"id": 2, "name": "ground", "isthing": 0},
]
HEIGHT, WIDTH = 12, 20
SEGMENTS = [
    {"id": 70000, "category_id": 2, "iscrowd": 0, "area": 146, "bbox": [0, 1, 20, 11]},
    {"id": 5, "category_id": 1, "iscrowd": 0, "area": 24, "bbox": [3, 2, 6, 4]},
    {"id": 6, "category_id": 1, "iscrowd": 0, "area": 50, "bbox": [9, 6, 10, 5]},
]


class PanopticFolder:
    """Images of 12x20, JPEG for odd ids, each with a void row, one stuff segment and two things."""

    def __init__(self, root: Path, ids: range = range(1, 5), seed: int = 0):
        self.root, self.images, self.labels = root, root / "images", root / "labels"
        self.json = root / "panoptic.json"
        self.images.mkdir(parents=True)
        self.labels.mkdir()
        self.content: dict = {"images": [], "annotations": [], "categories": [dict(c) for c in CATEGORIES]}
        rng = np.random.default_rng(seed)
        for number in ids:
            name = f"{number}.{'jpg' if number % 2 else 'png'}"
            Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(self.images / name)
            self.write_label(number, label_ids())
            self.content["images"].append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
            segments = [dict(segment) for segment in SEGMENTS]
            self.content["annotations"].append(
                {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
            )
        self.write()

    def write(self) -> None:
        self.json.write_text(json.dumps(self.content))

    def write_label(self, number: int, ids: np.ndarray) -> None:
        Image.fromarray(ids_to_rgb(ids)).save(self.labels / f"{number}.png")

    def segments(self, number: int) -> list[dict]:
        return self.content["annotations"][number - 1]["segments_info"]

    @property
    def options(self) -> list[str]:
        """Of ``panoptic data validate``."""
        return ["--json", str(self.json), "--images", str(self.images), "--panoptic", str(self.labels)]


def label_ids() -> np.ndarray:
    ids = np.full((HEIGHT, WIDTH), 70000, dtype=np.int32)
    ids[2:6, 3:9], ids[6:11, 9:19], ids[0] = 5, 6, 0
    return ids


def flip_byte(path: Path, position: int = -30) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def cut(path: Path, length: int = 40) -> None:
    path.write_bytes(path.read_bytes()[:-length])


def _label_with_extra_id(data: PanopticFolder) -> None:
    ids = label_ids()
    ids[0, :5] = 9
    data.write_label(2, ids)


def _rotated(data: PanopticFolder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.open(data.images / "1.jpg").transpose(Image.Transpose.ROTATE_90)
    stored.save(data.images / "1.jpg", exif=exif)


def _resave(path: Path, change: Callable[[Image.Image], Image.Image], **options: object) -> None:
    image = Image.open(path)
    image.load()
    change(image).save(path, **options)


def _set(data: PanopticFolder, number: int, segment: int, **values: object) -> None:
    data.segments(number)[segment].update(values)


def _jpeg_as_png(data: PanopticFolder) -> None:
    Image.open(data.images / "2.png").save(data.images / "2.jpeg")
    (data.images / "2.jpeg").rename(data.images / "2.png")


def _two_annotations(data: PanopticFolder) -> None:
    data.content["annotations"].append(data.content["annotations"][1])


def _two_images(data: PanopticFolder) -> None:
    data.content["images"].append({**data.content["images"][1], "file_name": "4.png"})


def _same_picture(data: PanopticFolder) -> None:
    (data.images / "4.png").write_bytes((data.images / "2.png").read_bytes())


def _link_outside(data: PanopticFolder) -> None:
    elsewhere = data.root.parent / "elsewhere.png"
    (data.images / "2.png").rename(elsewhere)
    (data.images / "2.png").symlink_to(elsewhere)


def _class_without_segments(data: PanopticFolder) -> None:
    data.content["categories"].append({"id": 3, "name": "wall", "isthing": 0})


# code: (what puts exactly this fault in, whether it shows without decoding pixels)
FAULTS: dict[str, tuple[Callable[[PanopticFolder], object], bool]] = {
    "missing-image": (lambda data: (data.images / "2.png").unlink(), True),
    "missing-label": (lambda data: (data.labels / "2.png").unlink(), True),
    "zero-byte": (lambda data: (data.images / "1.jpg").write_bytes(b""), True),
    "truncated": (lambda data: cut(data.labels / "3.png"), True),
    "truncated (JPEG)": (lambda data: cut(data.images / "3.jpg"), True),
    "crc-error": (lambda data: flip_byte(data.labels / "3.png"), False),
    "damaged": (lambda data: (data.images / "1.jpg").write_bytes(b"no picture at all"), True),
    "wrong-mode": (lambda data: _resave(data.labels / "2.png", lambda image: image.convert("L")), True),
    "palette-label": (lambda data: _resave(data.labels / "2.png", lambda image: image.convert("RGBA")), True),
    "wrong-size": (lambda data: _resave(data.labels / "2.png", lambda image: image.resize((9, 9), 0)), True),
    "wrong-format": (lambda data: _resave(data.labels / "2.png", lambda image: image, format="JPEG"), True),
    "wrong-extension": (_jpeg_as_png, True),
    "wrong-extension (name)": (lambda data: data.content["images"][1].update(file_name="2.jpg"), True),
    "json-size": (lambda data: data.content["images"][2].update(height=13), True),
    "exif-rotation": (_rotated, True),
    "only-in-png": (_label_with_extra_id, False),
    "only-in-json": (lambda data: data.segments(2).append({**SEGMENTS[1], "id": 44}), False),
    "no-common-id": (lambda data: data.write_label(2, label_ids() * 3), False),
    "area-mismatch": (lambda data: _set(data, 2, 1, area=25), False),
    "bbox-mismatch": (lambda data: _set(data, 2, 1, bbox=[3, 2, 7, 5]), False),
    "unknown-category": (lambda data: _set(data, 2, 1, category_id=9), True),
    "bad-segment-id": (lambda data: data.segments(2).append({**SEGMENTS[1], "id": 0}), True),
    "duplicate-segment-id": (lambda data: data.segments(2).append(dict(SEGMENTS[1])), True),
    "missing-iscrowd": (lambda data: data.segments(2)[0].pop("iscrowd"), True),
    "duplicate-annotation": (_two_annotations, True),
    "duplicate-image-id": (_two_images, True),
    "unknown-image": (lambda data: data.content["images"].pop(1), True),
    "image-without-annotation": (lambda data: data.content["annotations"].pop(1), True),
    "empty-set": (lambda data: data.content.update(annotations=[]), True),
    "malformed-record": (lambda data: data.content["annotations"].append({"image_id": 3}), True),
    "path-outside": (lambda data: data.content["images"][1].update(file_name="../secret.png"), True),
    "path-outside (absolute)": (lambda data: data.content["annotations"][1].update(file_name="/etc/passwd"), True),
    "path-outside (link)": (_link_outside, True),
    "bad-category": (lambda data: data.content["categories"].append(dict(CATEGORIES[0])), True),
    "missing-isthing": (lambda data: data.content["categories"][0].pop("isthing"), True),
    "class-never-seen": (_class_without_segments, True),
    "duplicate-image": (_same_picture, True),
}
# Mended by a new JSON alone; by dropping the record; only together with new labels.
MENDED = {
    "json-size", "only-in-json", "area-mismatch", "bbox-mismatch", "bad-segment-id", "duplicate-segment-id",
    "duplicate-annotation", "duplicate-image-id", "unknown-image", "malformed-record", "missing-isthing",
}  # fmt: skip
DROPPED = {
    "missing-image", "missing-label", "zero-byte", "truncated", "truncated (JPEG)", "crc-error", "damaged",
    "wrong-mode", "wrong-size", "wrong-format", "no-common-id",
    "path-outside", "path-outside (absolute)", "path-outside (link)",
}  # fmt: skip
NEEDS_LABELS = {"only-in-png", "unknown-category"}


def put(data: PanopticFolder, fault: str) -> None:
    """Put one fault of :data:`FAULTS` in."""
    FAULTS[fault][0](data)
    data.write()
