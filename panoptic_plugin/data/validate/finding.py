"""A finding: what is wrong with one dataset, where, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

ERROR, WARNING = "error", "warning"

# code: (severity, remedy)
CODES: dict[str, tuple[str, str]] = {
    # the JSON
    "malformed-json": (ERROR, "write or copy the JSON again"),
    "malformed-record": (ERROR, "write the record again, or --repair, which drops it"),
    "bad-category": (ERROR, "give every category its own integer id and a name"),
    "missing-isthing": (ERROR, "set isthing to 1 (countable) or 0 (stuff); --repair sets 1"),
    "empty-set": (ERROR, "check that this is the right JSON; it describes no image"),
    "duplicate-image-id": (ERROR, "give every image its own id, or --repair, which keeps the first"),
    "duplicate-annotation": (ERROR, "keep one annotation an image, or --repair, which keeps the first"),
    "unknown-image": (ERROR, "add the image to 'images', or --repair, which drops the annotation"),
    "image-without-annotation": (WARNING, "it is not used; label it or take it out of 'images'"),
    "path-outside": (ERROR, "put the file below the dataset's folder and name it relative to that"),
    # segments
    "bad-segment-id": (ERROR, "use ids from 1 to 16777215 (0 is void), the same as in the PNG"),
    "duplicate-segment-id": (ERROR, "give every segment of an image its own id, or --repair, which keeps the first"),
    "unknown-category": (ERROR, "add the category to 'categories' or correct the segment"),
    "missing-iscrowd": (WARNING, "it counts as 0; --repair writes that down"),
    "too-many-segments": (WARNING, "raise the config key, or accept that the rest cannot be predicted"),
    "class-never-seen": (WARNING, "it cannot be learned; take it out of 'categories' or add examples"),
    # files
    "missing-image": (ERROR, "check the image folder, or --repair, which drops the record"),
    "missing-label": (ERROR, "check the folder of panoptic PNGs, or --repair, which drops the record"),
    "zero-byte": (ERROR, "copy the file again"),
    "truncated": (ERROR, "copy the file again"),
    "crc-error": (ERROR, "copy the file again; its bytes have changed"),
    "damaged": (ERROR, "copy the file again"),
    "over-pixel-budget": (ERROR, "make it smaller, or raise INPUT.MAX_IMAGE_PIXELS (here: --max-pixels)"),
    "wrong-format": (ERROR, "save labels as PNG; JPEG changes ids"),
    "wrong-extension": (WARNING, "rename the file, or correct file_name (--repair does)"),
    "wrong-mode": (ERROR, "save panoptic labels as 8-bit RGB, semantic labels as 8-bit grey, images as 8-bit"),
    "palette-label": (WARNING, "it is read by its colours; save it as 8-bit RGB for other tools"),
    "wrong-size": (ERROR, "make the label again from this image"),
    "json-size": (ERROR, "correct height and width in the JSON (--repair does)"),
    "exif-rotation": (WARNING, "image and label are turned by it; other tools may not: rotate the pixels"),
    # labels against the JSON
    "only-in-png": (ERROR, "list the segment, or --repair with --void-labels DIR to make its pixels void"),
    "no-common-id": (ERROR, "check that this is the image's label; 2-channel PNGs have to be converted first"),
    "only-in-json": (ERROR, "--repair drops the segment, which has no pixels"),
    "area-mismatch": (ERROR, "--repair writes the area of the PNG"),
    "bbox-mismatch": (ERROR, "--repair writes the box of the PNG"),
    # several images
    "duplicate-image": (WARNING, "the same picture stands twice in the set; keep one"),
    "split-overlap": (ERROR, "the same picture is in both sets; take it out of one of them"),
}


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        code: a key of :data:`CODES`.
        severity: "error" or "warning".
        dataset: the dataset's name.
        file: the file that is at fault, or the JSON.
        index: position of the record in ``annotations`` (of the entry in ``images``, ``categories`` for theirs).
        image_id, segment_id: as the JSON has them.
        found, expected, remedy: for the user.
    """

    code: str
    severity: str
    file: str
    found: str
    expected: str
    remedy: str
    dataset: str = ""
    index: int | None = None
    image_id: int | str | None = None
    segment_id: int | str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report."""
        return asdict(self)

    @property
    def place(self) -> str:
        """Record, image and segment in words."""
        parts = [("record", self.index), ("image", self.image_id), ("segment", self.segment_id)]
        return ", ".join(f"{name} {value}" for name, value in parts if value is not None)


def make_finding(
    code: str,
    file: str,
    *,
    found: object,
    expected: object,
    index: int | None = None,
    image_id: Any = None,
    segment_id: Any = None,
) -> Finding:
    """A finding with the severity and the remedy of its code."""
    severity, remedy = CODES[code]
    return Finding(
        code=code,
        severity=severity,
        file=file,
        found=shorten(found),
        expected=shorten(expected),
        remedy=remedy,
        index=index,
        image_id=_plain(image_id),
        segment_id=_plain(segment_id),
    )


def shorten(value: object, limit: int = 160) -> str:
    """One line of text, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _plain(value: Any) -> int | str | None:
    """Ids of a damaged JSON may be anything."""
    if value is None or (isinstance(value, (int, str)) and not isinstance(value, bool)):
        return value
    return shorten(repr(value), 40)
