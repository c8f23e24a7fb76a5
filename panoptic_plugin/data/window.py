"""A window of a resized picture, without computing the rest: bit by bit what Pillow gives when it resizes the whole.

Pillow's bilinear weights of output ``i`` come from its place ``(i + 0.5) * scale`` in the source, where ``scale`` is
``source / resized``. Those of a part come from ``start + (i + 0.5) * scale`` with ``start`` rounded to float32. A
window is therefore widened to outputs whose ``start`` is a float32 exactly. What is left is the rounding of a double,
and it changes nothing: Pillow rounds the weights to multiples of 2**-22, and weights are fractions with denominators
of about the picture's size, none of which lies that close to the middle between two multiples.

Rows are resized first and columns then, with rounding to bytes between: as Pillow does, but for pictures that are
scaled down and lose more than twice as many rows as columns, where since version 13 it begins with the columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from panoptic_plugin.data.reading import Picture

FLOAT32_BITS = 24
BILINEAR = Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Window:
    """Rows from ``top`` and columns from ``left`` of a picture that is resized from one (height, width) to another."""

    source: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    def of_image(self, picture: Picture) -> Image.Image:
        """What Detectron2's ResizeTransform (BILINEAR) and CropTransform give of a picture of mode RGB or L."""
        bottom, right = self.top + self.height, self.left + self.width
        lost_rows, lost_columns = (before - after for before, after in zip(self.source, self.resized, strict=True))
        if self.resized == self.source:
            return picture.decode(bottom).crop((self.left, self.top, right, bottom))
        if lost_rows > max(0, 2 * lost_columns):
            return picture.decode().resize(self.resized[::-1], BILINEAR).crop((self.left, self.top, right, bottom))
        y = _Span.around(self.top, bottom, self.source[0], self.resized[0])
        x = _Span.around(self.left, right, self.source[1], self.resized[1])
        part = picture.decode(y.last).crop((x.first, y.first, x.last, y.last))
        part = part.resize((x.stop - x.start, part.height), BILINEAR, (x.low, 0, x.high, part.height))
        part = part.resize((part.width, y.stop - y.start), BILINEAR, (0, y.low, part.width, y.high))
        return part.crop((self.left - x.start, self.top - y.start, right - x.start, bottom - y.start))

    def of_label(self, picture: Picture) -> np.ndarray:
        """What the same transforms give of a label (NEAREST).

        Returns:
            int32 (height, width) ids of an RGB picture, uint8 (height, width) values of any other.
        """
        rows = _nearest(self.source[0], self.resized[0])[self.top : self.top + self.height]
        columns = _nearest(self.source[1], self.resized[1])[self.left : self.left + self.width]
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        part = picture.decode(box[3]).crop(box)
        if part.mode == "RGB":  # four bytes a pixel, the last one without a meaning
            pixels = np.frombuffer(part.tobytes("raw", "RGBX"), dtype="<i4").reshape(part.height, part.width)
        else:
            pixels = np.asarray(part)
        nearest = np.take(pixels[rows - rows[0]], columns - columns[0], axis=1)
        return nearest & 0xFFFFFF if part.mode == "RGB" else nearest


@dataclass(frozen=True)
class _Span:
    """Outputs ``start`` to ``stop`` of a resized row, made of the source's pixels ``first`` to ``last``.

    Attributes:
        low, high: places where the outputs begin and end, in pixels from ``first``; both are float32 exactly.
    """

    start: int
    stop: int
    first: int
    last: int
    low: float
    high: float

    @classmethod
    def around(cls, start: int, stop: int, source: int, resized: int) -> _Span:
        """The least span that holds start to stop; all of the row where ``start`` would not be exact otherwise."""
        denominator = resized // math.gcd(source, resized)
        power_of_two = denominator & -denominator
        step = denominator // power_of_two if source * power_of_two < 1 << FLOAT32_BITS else resized
        start, stop = start // step * step, -(-stop // step) * step
        low, high = start * source / resized, stop * source / resized
        reach = max(1.0, source / resized) + 1  # the filter's, and a pixel for rounding
        first, last = max(0, math.floor(low - reach)), min(source, math.ceil(high + reach))
        return cls(start, stop, first, last, low - first, high - first)


def _nearest(source: int, resized: int) -> np.ndarray:
    """intp (resized,): the pixel of the source that each output is taken from.

    Pillow adds ``scale`` up in double precision, and its rounding errors decide where places fall on whole numbers.
    """
    places = np.full(resized, source / resized)
    places[0] *= 0.5
    return np.cumsum(places).astype(np.intp)
