"""Images and labels from disk, upright, with errors that name the file.

Detectron2 turns an image upright by its EXIF entry when it reads it, so a label has to follow: it is turned by its
own entry, and by the image's where it was drawn on the stored, unturned pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from detectron2.data import detection_utils
from PIL import Image, ImageOps

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.integrity import DEFAULT_MAX_PIXELS, IMAGE_FORMATS, read_image_bytes, undecodable

ORIENTATION = 0x0112  # EXIF tag


def open_image(path: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """An upright image, decoded, as Pillow has it.

    Args:
        path: the file, in any format of :data:`~panoptic_plugin.integrity.IMAGE_FORMATS`.
        max_pixels: a larger image is refused before it is decoded.

    Raises:
        DatasetError: the file is missing, damaged (see ``integrity.py``), too large or cannot be decoded.
    """
    with _opened("image", path, max_pixels) as stored:
        return _upright(stored)


def read_image(path: str, image_format: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """As :func:`open_image`, as pixels.

    Args:
        image_format: "RGB", "BGR" or "L".

    Returns:
        uint8 (H, W, 3), or (H, W, 1) for "L".
    """
    return detection_utils.convert_PIL_to_numpy(open_image(path, max_pixels=max_pixels), image_format)


def open_label(
    path: str, mode: str, image_path: str, image_size: tuple[int, int], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Image.Image:
    """A label PNG, decoded, turned as its image was.

    Args:
        path: the PNG.
        mode: "RGB" for panoptic ids, "L" for semantic labels.
        image_path: the image the label belongs to.
        image_size: (height, width) of that image after it was turned upright.
        max_pixels: a larger label is refused before it is decoded.

    Returns:
        A picture of the image's size, of mode RGB, or of one whose pixels are class ids from 0 to 255.

    Raises:
        DatasetError: the file is missing, damaged, too large, or not of the image's size.
    """
    with _opened("label", path, max_pixels) as stored:
        label = _upright(stored)
        if mode == "RGB" and label.mode != "RGB":
            label = label.convert("RGB")
    if mode == "L" and label.mode not in ("L", "P"):
        raise DatasetError(f"label {path} is not a grey 8-bit image; a semantic label holds one class id a pixel")
    if _shape(label) != image_size:
        label = _turn_like_image(label, image_path)
    if _shape(label) != image_size:
        raise DatasetError(
            f"label {path} is {_size(_shape(label))}, but its image {image_path} is {_size(image_size)} (height x "
            "width); make the label again from this image"
        )
    return label


def read_label(
    path: str, mode: str, image_path: str, image_size: tuple[int, int], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> np.ndarray:
    """As :func:`open_label`, as pixels: uint8 (H, W, 3) or (H, W) with the image's size."""
    return np.array(open_label(path, mode, image_path, image_size, max_pixels=max_pixels))


@contextmanager
def _opened(what: str, path: str, max_pixels: int) -> Iterator[Image.Image]:
    """The file as an image whose bytes are whole and whose size is within the budget, not decoded yet."""
    content = read_image_bytes(what, path, max_pixels)
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as whole:
            yield whole
    except DatasetError:
        raise
    # Pillow's decoders raise anything for a damaged file, most of it without the file's name.
    except Exception as error:
        raise undecodable(what, path, " ".join(str(error).split()) or type(error).__name__) from None


def _upright(image: Image.Image) -> Image.Image:
    """Decoded, and turned by its EXIF entry; a damaged entry is none, as in Detectron2."""
    image.load()
    try:
        # Without the first look, an image that needs no turn would be copied.
        return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
    except Exception:
        return image


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
