"""Whether a file's bytes are whole, before anything decodes them.

Pillow does not look at the checksums of a PNG's pixels, so that a flipped byte becomes other labels without a word.
The walk over the chunks here costs a few percent of decoding. A JPEG has no checksums: its structure is checked,
which finds what is cut off or overwritten; a flipped bit inside its compressed pixels stays a slightly other picture.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass

from PIL import Image

from panoptic_plugin.errors import DatasetError

DEFAULT_MAX_PIXELS = 64 * 1024 * 1024
# What may be decoded at all: Pillow's other formats run interpreters, fetch no pixels or are not images.
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM", "GIF", "JPEG2000", "TGA")

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"
_END_OF_PNG = b"IEND"
_END_OF_JPEG = b"\xff\xd9"
_TAIL = 64  # bytes in which an intact file's end is looked for first

# After the start of a scan: the next marker that is neither a stuffed byte, a restart marker nor a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Markers with a segment: frames, tables, applications' data, comments (ITU T.81, table B.1).
_SEGMENTS = {*range(0xC0, 0xD0), *range(0xDA, 0xE0), *range(0xE0, 0xF0), 0xFE}


@dataclass(frozen=True)
class Damage:
    """What is wrong with a file's bytes: ``code`` is "zero-byte", "truncated", "crc-error" or "damaged"."""

    code: str
    reason: str


def read_image_bytes(what: str, path: str, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """The bytes of an image file that are whole, of a picture that is not too large. Nothing is decoded.

    Args:
        what: "image", "label", ..., for the error.
        path: the file.
        max_pixels: of the picture, read from its header.

    Raises:
        DatasetError: the file is missing, damaged, of no known format or too large.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as header:
            width, height = header.size
    except FileNotFoundError:
        raise DatasetError(f"{what} {path} does not exist; check the dataset's folder") from None
    except Image.DecompressionBombError as error:
        raise DatasetError(_too_large(what, path, str(error), max_pixels)) from None
    # Pillow raises anything for a damaged file, most of it without the file's name.
    except Exception as error:
        raise undecodable(what, path, " ".join(str(error).split()) or type(error).__name__) from None
    if width * height > max_pixels:
        raise DatasetError(_too_large(what, path, f"{height}x{width} pixels", max_pixels))
    damage = find_damage(content)
    if damage:
        raise undecodable(what, path, damage.reason)
    return content


def undecodable(what: str, path: str, reason: str) -> DatasetError:
    """The error for a file that is there and cannot be decoded."""
    if "cannot identify image file" in str(reason):  # Pillow goes on with the object that it read from
        reason = "it begins as no image file does"
    return DatasetError(f"{what} {path} cannot be decoded ({reason}); the file is damaged or incomplete, copy it again")


def _too_large(what: str, path: str, found: str, max_pixels: int) -> str:
    return (
        f"{what} {path} is too large ({' '.join(found.split())}), expected at most {max_pixels} pixels; "
        "make it smaller or raise INPUT.MAX_IMAGE_PIXELS"
    )


def find_damage(content: bytes) -> Damage | None:
    """What is wrong with the bytes of a PNG or JPEG; other formats are only asked not to be empty."""
    if not content:
        return Damage("zero-byte", "the file has 0 bytes")
    if content.startswith(PNG_SIGNATURE):
        return _png_damage(content)
    if content.startswith(JPEG_SIGNATURE):
        return _jpeg_damage(content)
    return None


def ends_properly(head: bytes, tail: bytes) -> bool:
    """Whether a file that begins and ends so looks whole. False says only that :func:`find_damage` has to decide."""
    if head.startswith(PNG_SIGNATURE):
        return _END_OF_PNG in tail[-_TAIL:]
    if head.startswith(JPEG_SIGNATURE):
        return _END_OF_JPEG in tail[-_TAIL:]
    return bool(head)


def _png_damage(content: bytes) -> Damage | None:
    """Walk the chunks (https://www.w3.org/TR/png-3/#5Chunk-layout): length, type, data, CRC of type and data."""
    view = memoryview(content)
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(content):
        length = int.from_bytes(view[position : position + 4], "big")
        kind = bytes(view[position + 4 : position + 8])
        end = position + 8 + length
        if not kind.isalpha():
            return Damage("damaged", f"no PNG chunk at byte {position}")
        if end + 4 > len(content):
            return Damage("truncated", f"chunk {_name(kind)} at byte {position} is longer than the file")
        (expected,) = struct.unpack(">I", view[end : end + 4])
        if zlib.crc32(view[position + 4 : end]) != expected:
            return Damage("crc-error", f"checksum of chunk {_name(kind)} at byte {position} does not match")
        if kind == _END_OF_PNG:
            return None
        position = end + 4
    return Damage("truncated", f"the file ends at byte {len(content)}, before the chunk IEND")


def _name(kind: bytes) -> str:
    return kind.decode("ascii", "replace")


def _jpeg_damage(content: bytes) -> Damage | None:
    """Walk the markers (ITU T.81, annex B) to the end of the image; what stands behind it is not looked at."""
    position, has_scan = 2, False
    while True:
        found = _MARKER.search(content, position) if has_scan else None
        if has_scan:
            if found is None:
                return Damage("truncated", f"the file ends at byte {len(content)}, before the end of the image")
            position = found.start()
        while content[position : position + 2] == b"\xff\xff":
            position += 1
        if position + 2 > len(content):
            return Damage("truncated", f"the file ends at byte {len(content)}, before the end of the image")
        if content[position] != 0xFF:
            return Damage("damaged", f"no JPEG marker at byte {position}")
        marker = content[position + 1]
        if marker == _END_OF_IMAGE:
            return None if has_scan else Damage("damaged", "the JPEG holds no picture")
        if marker not in _SEGMENTS:
            return Damage("damaged", f"marker {marker:#04x} at byte {position} has no place there")
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        if position + 2 + length > len(content):
            return Damage("truncated", f"segment {marker:#04x} at byte {position} is longer than the file")
        if length < 2:
            return Damage("damaged", f"segment {marker:#04x} at byte {position} has no length")
        position += 2 + length
        has_scan = has_scan or marker == _START_OF_SCAN
