"""Checks of one image or label file by itself: its bytes, format, mode, size and rotation."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from panoptic_plugin.data.reading import ORIENTATION
from panoptic_plugin.data.validate.source import FULL, Settings
from panoptic_plugin.integrity import IMAGE_FORMATS, Damage, ends_properly, find_damage

HEAD, TAIL = 16 * 1024, 4 * 1024  # bytes that tell files of one length apart, when nothing is decoded
SUFFIXES = {
    "PNG": {".png"}, "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"}, "MPO": {".jpg", ".jpeg", ".mpo"},
    "TIFF": {".tif", ".tiff"}, "BMP": {".bmp"}, "WEBP": {".webp"}, "GIF": {".gif"}, "TGA": {".tga"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"}, "JPEG2000": {".jp2", ".j2k"},
}  # fmt: skip
IMAGE, PANOPTIC, SEMANTIC = "image", "panoptic label", "semantic label"
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

Report = Callable[[str, object, object], None]  # code, found, expected


@dataclass
class Probe:
    """What a file holds.

    Attributes:
        size: (height, width) as stored.
        orientation: the EXIF entry, 1 where there is none.
        fingerprint: equal for equal pictures: of the pixels, or of some bytes where nothing was decoded.
        ids: uint32 (H, W), the ids of a label; None for an image or where nothing was decoded.
    """

    size: tuple[int, int]
    orientation: int
    fingerprint: tuple
    ids: np.ndarray | None = None

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after the image is turned."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def probe(path: str, settings: Settings, report: Report, *, kind: str) -> Probe | None:
    """Look at a file; what is wrong goes to ``report``. None where it cannot be used at all."""
    try:
        with open(path, "rb") as file:
            return _probe(file, path, settings, report, kind)
    except OSError as error:
        report("damaged", error.strerror or error, "a readable file")
    # A fuzzed file makes Pillow raise anything; whatever it is, it belongs to this file and to no other.
    except Exception as error:
        report("damaged", f"{type(error).__name__}: {error}", "an image that can be decoded")
    return None


def _probe(file: BinaryIO, path: str, settings: Settings, report: Report, kind: str) -> Probe | None:
    try:
        image = Image.open(file, formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        report("over-pixel-budget", error, f"at most {settings.max_pixels} pixels")
        return None
    except (UnidentifiedImageError, SyntaxError, OSError) as error:
        cause = _byte_damage(file) or Damage("damaged", _without_address(error))
        report(cause.code, cause.reason, "an image")
        return None
    with image:
        if not _check_header(image, path, settings, report, kind):
            return None
        if settings.depth == FULL:
            return _decode(file, image, report, kind)
        file.seek(0)
        head, tail, length = _ends(file)
        damage = None if ends_properly(head, tail) else _byte_damage(file)
        if damage:
            report(damage.code, damage.reason, "a whole file")
            return None
        fingerprint = (length, blake2b(head + tail, digest_size=16).digest())
        return Probe((image.height, image.width), _orientation(image), fingerprint)


def _check_header(image: Image.Image, path: str, settings: Settings, report: Report, kind: str) -> bool:
    """Whether the pixels may be looked at."""
    content, suffix = image.format or "", os.path.splitext(path)[1].lower()
    if image.width * image.height > settings.max_pixels:
        found = f"{image.height}x{image.width} = {image.width * image.height} pixels"
        report("over-pixel-budget", found, f"at most {settings.max_pixels}")
        return False
    if kind != IMAGE and content in ("JPEG", "MPO", "WEBP", "JPEG2000"):
        report("wrong-format", f"{content} content", "PNG")
        return False
    if suffix not in SUFFIXES.get(content, {suffix}):
        found = f"{content} content in a file {suffix or 'without extension'}"
        report("wrong-extension", found, min(SUFFIXES[content]))
    return _check_mode(image.mode, report, kind)


def _check_mode(mode: str, report: Report, kind: str) -> bool:
    if kind == PANOPTIC and mode in ("P", "RGBA", "PA"):
        report("palette-label", f"mode {mode}", "mode RGB")
        return True
    # A palette's indices are the classes; that is how the mapper reads it.
    wanted = {PANOPTIC: ("RGB",), SEMANTIC: ("L", "P")}.get(kind)
    if mode in DEEP_MODES or (wanted and mode not in wanted):
        report("wrong-mode", f"mode {mode}", f"mode {wanted[0] if wanted else 'RGB'}, 8 bits a channel")
        return False
    return True


def _decode(file: BinaryIO, image: Image.Image, report: Report, kind: str) -> Probe | None:
    file.seek(0)
    content = file.read()
    damage = find_damage(content)
    pixels = None
    if damage is None:
        try:
            pixels = _pixels(content, image)
        except Exception as error:
            code = "truncated" if "truncated" in str(error) else "damaged"
            damage = Damage(code, f"{type(error).__name__}: {error}")
    if damage or pixels is None:
        report(damage.code if damage else "damaged", damage.reason if damage else "no pixels", "a whole file")
        return None
    ids = _ids(pixels) if kind == PANOPTIC else None
    fingerprint = (*pixels.shape, zlib.crc32(pixels.data), zlib.adler32(pixels.data)) if kind == IMAGE else ()
    return Probe((image.height, image.width), _orientation(image), fingerprint, ids)


def _pixels(content: bytes, image: Image.Image) -> np.ndarray:
    """Pixels as stored, uint8 (H, W) or (H, W, 3) in BGR order; Pillow's error where they cannot be decoded.

    OpenCV decodes the usual files straight into an array, where Pillow needs a copy more. What OpenCV refuses or
    reads in another way is left to Pillow.
    """
    if image.format in ("PNG", "JPEG") and image.mode in ("L", "RGB"):
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        shape = (image.height, image.width, 3)[: 3 if image.mode == "RGB" else 2]
        if decoded is not None and decoded.dtype == np.uint8 and decoded.shape == shape:
            return decoded
    with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as whole:
        pixels = np.asarray(whole if whole.mode in ("L", "RGB") else whole.convert("RGB"))
    return np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def _ids(bgr: np.ndarray) -> np.ndarray:
    """Ids of a panoptic label, uint32 (H, W): R + 256 G + 65536 B."""
    four_bytes = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA)
    four_bytes[..., 3] = 0
    return four_bytes.view("<u4")[..., 0]


def _byte_damage(file: BinaryIO) -> Damage | None:
    file.seek(0)
    return find_damage(file.read())


def _ends(file: BinaryIO) -> tuple[bytes, bytes, int]:
    """First and last bytes, and the length."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(HEAD)
    file.seek(max(0, length - TAIL))
    return head, file.read(TAIL), length


def _orientation(image: Image.Image) -> int:
    """The EXIF entry; a PNG's is taken from its header, since Pillow would decode the pixels to look behind them."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged entry is none, as in reading
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _without_address(error: Exception) -> str:
    """Pillow names the Python object in this message."""
    return "not an image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
