"""Pixels as parts of an HTML page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

QUALITY = {"webp": 82, "jpeg": 88}


def data_uri(pixels: np.ndarray, kind: str = "webp") -> str:
    """uint8 (H, W, 3) RGB as the address of an image that is held in the page; ``kind`` is webp or jpeg."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind.upper(), quality=QUALITY[kind])
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
