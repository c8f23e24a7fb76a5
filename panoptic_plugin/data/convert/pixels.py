"""Label images from disk: whole, not too large, and of a kind that can hold labels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.structures import rgb_to_ids

MAX_PIXELS = 64_000_000  # a 20 kB PNG can announce gigabytes of pixels
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_label_png(path: str, modes: Sequence[str]) -> np.ndarray:
    """Pixels of a label PNG, checksums verified.

    Args:
        path: the file.
        modes: Pillow modes that can hold these labels, for example ("RGB",) or ("L",).

    Raises:
        DatasetError: the file is missing, damaged, too large or of another kind.
    """
    try:
        with Image.open(path) as image:
            _check_budget(f"label {path}", image.width, image.height)
            image.verify()
        with Image.open(path) as image:
            mode, pixels = image.mode, np.array(image)
    except FileNotFoundError:
        raise DatasetError(f"label {path} does not exist; check the dataset's folder") from None
    except DatasetError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"label {path} cannot be decoded ({reason}); copy it again") from None
    if mode not in modes:
        raise DatasetError(f"label {path} has pixels of mode {mode}, expected {' or '.join(modes)}; save it as such")
    return pixels


def read_panoptic_png(path: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """int32 (H, W) ids of a COCO panoptic PNG; DatasetError where its size is not ``size`` (height, width)."""
    ids = rgb_to_ids(read_label_png(path, ("RGB",)))
    check_same_size(path, ids.shape, size)
    return ids


def check_same_size(path: str, found: tuple[int, ...], expected: tuple[int, int] | None) -> None:
    """Raise DatasetError unless a label has the size that its dataset's JSON gives."""
    if expected is not None and tuple(found[:2]) != tuple(expected):
        raise DatasetError(
            f"label {path} is {found[0]}x{found[1]} (height x width), but the JSON says {expected[0]}x{expected[1]}"
        )


def image_size(where: str, height: Any, width: Any) -> tuple[int, int]:
    """(height, width) from a JSON record, checked."""
    for name, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise DatasetError(f"{where}: {name} is {side!r}, expected a number of pixels")
    _check_budget(where, width, height)
    return height, width


def _check_budget(where: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DatasetError(f"{where}: {width}x{height} pixels, more than the limit of {MAX_PIXELS // 10**6} million")
