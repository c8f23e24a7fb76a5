"""Images and labels from disk, upright, with errors that name the file.

Detectron2 turns an image upright by its EXIF entry when it reads it, so a label has to follow: it is turned by its
own entry, and by the image's where it was drawn on the stored, unturned pixels.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from detectron2.data import detection_utils
from PIL import Image, ImageOps

from panoptic_plugin.errors import DatasetError

ORIENTATION = 0x0112  # EXIF tag
# Pillow raises any of these for a damaged file; none but UnidentifiedImageError has the file's name in it.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image(path: str, image_format: str) -> np.ndarray:
    """An upright image.

    Args:
        path: the file, in any format that Pillow reads.
        image_format: "RGB", "BGR" or "L".

    Returns:
        uint8 (H, W, 3), or (H, W, 1) for "L".

    Raises:
        DatasetError: the file is missing or cannot be decoded.
    """
    try:
        return detection_utils.read_image(path, format=image_format)
    except FileNotFoundError:
        raise DatasetError(f"image {path} does not exist; check the dataset's folder") from None
    except _DAMAGED as error:
        raise DatasetError(_damaged("image", path, error)) from None


def read_label(path: str, mode: str, image_path: str, image_size: tuple[int, int]) -> np.ndarray:
    """A label PNG, turned as its image was.

    Args:
        path: the PNG.
        mode: "RGB" for panoptic ids, "L" for semantic labels.
        image_path: the image the label belongs to.
        image_size: (height, width) of that image after it was turned upright.

    Returns:
        uint8 (H, W, 3) or (H, W) with the image's size.

    Raises:
        DatasetError: the file is missing, damaged, or not of the image's size.
    """
    try:
        with Image.open(path) as stored:
            label = ImageOps.exif_transpose(stored)
            pixels = np.array(label.convert("RGB") if mode == "RGB" else label)
    except FileNotFoundError:
        raise DatasetError(f"label {path} does not exist; check the dataset's folder") from None
    except _DAMAGED as error:
        raise DatasetError(_damaged("label", path, error)) from None
    if mode == "L" and (pixels.ndim != 2 or pixels.dtype != np.uint8):
        raise DatasetError(f"label {path} is not a grey 8-bit image; a semantic label holds one class id a pixel")
    if pixels.shape[:2] != image_size:
        pixels = _turn_like_image(pixels, image_path)
    if pixels.shape[:2] != image_size:
        raise DatasetError(
            f"label {path} is {_size(pixels.shape)}, but its image {image_path} is {_size(image_size)} (height x "
            "width); make the label again from this image"
        )
    return pixels


def stored_size(path: str) -> tuple[int, int]:
    """(height, width) of an image as it is stored, before it is turned upright."""
    with Image.open(path) as image:
        return image.height, image.width


def _turn_like_image(pixels: np.ndarray, image_path: str) -> np.ndarray:
    """Apply the image's EXIF entry to a label that was drawn on the image as it is stored."""
    if stored_size(image_path) != pixels.shape[:2]:
        return pixels
    label = Image.fromarray(pixels)
    with Image.open(image_path) as image:
        label.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return np.array(ImageOps.exif_transpose(label))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _damaged(what: str, path: str, error: BaseException) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{what} {path} cannot be decoded ({reason}); the file is damaged or incomplete, copy it again"
