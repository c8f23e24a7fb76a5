"""Images and labels from disk, upright, with errors that name the file.

Detectron2 turns an image upright by its EXIF entry when it reads it, so a label has to follow: it is turned by its
own entry, and by the image's where it was drawn on the stored, unturned pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from detectron2.data import detection_utils
from PIL import Image, ImageOps

from panoptic_plugin.data.png import first_rows, may_be_turned, png_size
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.integrity import (
    DEFAULT_MAX_PIXELS,
    IMAGE_FORMATS,
    PNG_SIGNATURE,
    read_image_bytes,
    undecodable,
)

ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Picture:
    """An upright picture of a file that is whole.

    Attributes:
        size: (height, width).
        decode: gives the picture. With a number of rows, those below may be missing: of a PNG they are not decoded.
    """

    size: tuple[int, int]
    decode: Callable[..., Image.Image]

    def converted(self, convert: Callable[[Image.Image], Image.Image]) -> Picture:
        """With ``convert`` after decoding."""
        return Picture(self.size, lambda rows=None: convert(self.decode(rows)))


def open_image(path: str, mode: str = "", *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """An image that is decoded when its pixels are asked for.

    Args:
        path: the file, in any format of :data:`~panoptic_plugin.integrity.IMAGE_FORMATS`.
        mode: Pillow's mode to convert it to, "RGB" or "L"; "" leaves it as it is stored.
        max_pixels: a larger image is refused before it is decoded.

    Raises:
        DatasetError: the file is missing, damaged (see ``integrity.py``) or too large. Here or at decoding: it cannot
            be decoded.
    """
    picture = _open("image", path, max_pixels)
    return picture.converted(lambda image: _in_mode(image, mode)) if mode else picture


def read_image(path: str, image_format: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """The pixels of :func:`open_image`.

    Args:
        image_format: "RGB", "BGR" or "L".

    Returns:
        uint8 (H, W, 3), or (H, W, 1) for "L".
    """
    return detection_utils.convert_PIL_to_numpy(open_image(path, max_pixels=max_pixels).decode(), image_format)


def open_label(
    path: str, mode: str, image_path: str, image_size: tuple[int, int], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Picture:
    """A label PNG, turned as its image was.

    Args:
        path: the PNG.
        mode: "RGB" for panoptic ids, "L" for semantic labels.
        image_path: the image the label belongs to.
        image_size: (height, width) of that image after it was turned upright.
        max_pixels: a larger label is refused before it is decoded.

    Returns:
        A picture of the image's size, of mode RGB, or of one whose pixels are class ids from 0 to 255.

    Raises:
        DatasetError: the file is missing, damaged, too large, or not of the image's size. Here or at decoding: it
            cannot be decoded, or is no semantic label.
    """

    def checked(label: Image.Image) -> Image.Image:
        if mode == "L" and label.mode not in ("L", "P"):
            raise DatasetError(f"label {path} is not a grey 8-bit image; a semantic label holds one class id a pixel")
        return _in_mode(label, "RGB") if mode == "RGB" else label

    picture = _open("label", path, max_pixels).converted(checked)
    if picture.size != image_size:
        picture = _decoded(_turn_like_image(picture.decode(), image_path))
    if picture.size != image_size:
        raise DatasetError(
            f"label {path} is {_size(picture.size)}, but its image {image_path} is {_size(image_size)} (height x "
            "width); make the label again from this image"
        )
    return picture


def read_label(
    path: str, mode: str, image_path: str, image_size: tuple[int, int], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> np.ndarray:
    """The pixels of :func:`open_label`: uint8 (H, W, 3) or (H, W) with the image's size."""
    return np.array(open_label(path, mode, image_path, image_size, max_pixels=max_pixels).decode())


def _open(what: str, path: str, max_pixels: int) -> Picture:
    """The file's bytes are whole and its size within the budget. What may be turned by EXIF is decoded at once."""
    content = read_image_bytes(what, path, max_pixels)
    if content.startswith(PNG_SIGNATURE) and not may_be_turned(content):
        height, width = png_size(content)
        return Picture((height, width), lambda rows=None: _decode(what, path, first_rows(content, rows or height)))
    return _decoded(_decode(what, path, content))


def _decoded(image: Image.Image) -> Picture:
    return Picture(_shape(image), lambda rows=None: image)


def _decode(what: str, path: str, content: bytes) -> Image.Image:
    """Decoded, and turned by its EXIF entry; a damaged entry is none, as in Detectron2."""
    # Pillow's decoders raise anything for a damaged file, most of it without the file's name.
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            image.load()
    except Exception as error:
        raise undecodable(what, path, " ".join(str(error).split()) or type(error).__name__) from None
    try:
        # Without the first look, an image that needs no turn would be copied.
        return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
    except Exception:
        return image


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def id_pixels(label: Image.Image) -> np.ndarray:
    """The ids of a panoptic PNG, uint32 (H, W), straight from Pillow's four bytes a pixel."""
    label = label if label.mode == "RGB" else label.convert("RGB")
    pixels = np.frombuffer(label.tobytes("raw", "RGBX"), dtype="<u4").reshape(label.height, label.width)
    return pixels & 0xFFFFFF


def stored_size(path: str) -> tuple[int, int]:
    """(height, width) of an image as it is stored, before it is turned upright."""
    with Image.open(path) as image:
        return image.height, image.width


def _turn_like_image(label: Image.Image, image_path: str) -> Image.Image:
    """Apply the image's EXIF entry to a label that was drawn on the image as it is stored."""
    if stored_size(image_path) != _shape(label):
        return label
    label = Image.fromarray(np.asarray(label))
    with Image.open(image_path) as image:
        label.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(label)


def _shape(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
