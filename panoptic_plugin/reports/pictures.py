"""Pixels as parts of an HTML page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

QUALITY = {"webp": 82, "jpeg": 88}


def data_uri(pixels: np.ndarray, kind: str = "webp") -> str:
    """uint8 (H, W, 3) RGB as the address of an image that is held in the page; ``kind`` is webp or jpeg."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind.upper(), quality=QUALITY[kind])
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@dataclass(frozen=True)
class Picture:
    """One picture of a page: its address, its content in words for who does not see it, and its caption."""

    uri: str
    alt: str
    caption: str
    width: int
    height: int


def make_picture(pixels: np.ndarray, alt: str, caption: str, kind: str = "webp") -> Picture:
    """See :func:`data_uri` and :class:`Picture`."""
    return Picture(data_uri(pixels, kind), alt, caption, pixels.shape[1], pixels.shape[0])
