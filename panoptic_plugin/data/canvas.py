"""A street seen by a camera: what the generator of scenes draws on.

Street coordinates are metres: X to the right, Y up from the ground, Z forward from the camera. A pinhole camera at
``CAMERA_HEIGHT`` looks along Z. Every stroke goes into the picture and, at the same pixels, into the map of segments,
so picture and label agree by construction, and what is drawn later hides what was drawn before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

CAMERA_HEIGHT = 1.4
NEAREST = 0.35  # metres; closer points are moved here, off the picture
SUBPIXEL_BITS = 4
FARTHEST_PIXEL = 30000.0  # OpenCV's coordinates are 16-bit numbers inside
_ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)

Color = Sequence[float]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class SceneSegment:
    """One segment of a scene.

    Attributes:
        name: class name, as Cityscapes has it.
        is_thing: a countable object.
        is_crowd: a group of objects that nobody told apart.
    """

    name: str
    is_thing: bool = False
    is_crowd: bool = False


class Canvas:
    """Picture and segment map, drawn together.

    Args:
        height, width: pixels.
        vanishing_yx: where the street ends, in pixels.
        focal: focal length, in pixels.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        ids: int32 (H, W), a segment's place in ``segments``; 0 is unlabelled.
    """

    def __init__(self, height: int, width: int, vanishing_yx: tuple[float, float], focal: float):
        self.image = np.zeros((height, width, 3), dtype=np.uint8)
        self.ids = np.zeros((height, width), dtype=np.int32)
        self.segments = [SceneSegment("unlabeled")]
        self.vanishing_yx = vanishing_yx
        self.focal = focal

    @property
    def height(self) -> int:
        return self.ids.shape[0]

    @property
    def width(self) -> int:
        return self.ids.shape[1]

    def stuff(self, name: str) -> int:
        """The one segment of a stuff or void class."""
        segment = SceneSegment(name)
        if segment not in self.segments:
            self.segments.append(segment)
        return self.segments.index(segment)

    def thing(self, name: str, is_crowd: bool = False) -> int:
        """A new object."""
        self.segments.append(SceneSegment(name, True, is_crowd))
        return len(self.segments) - 1

    def scale(self, z: float) -> float:
        """Pixels a metre at depth z."""
        return self.focal / max(z, NEAREST)

    def project(self, points: Iterable[Point]) -> np.ndarray:
        """Street points (X, Y, Z) to pixels, float (N, 2), x first."""
        y0, x0 = self.vanishing_yx
        return np.array([self._pixel(x0, y0, x, y, z) for x, y, z in points], dtype=float)

    def _pixel(self, x0: float, y0: float, x: float, y: float, z: float) -> tuple[float, float]:
        metre = self.scale(z)
        return x0 + x * metre, y0 + (CAMERA_HEIGHT - y) * metre

    def polygon(self, points: Any, color: Color, segment: int | None) -> None:
        """Fill a polygon of pixels (N, 2), x first; ``segment`` None leaves the label as it is."""
        corners = _fixed_point(points)
        cv2.fillPoly(self.image, [corners], _byte(color), shift=SUBPIXEL_BITS)
        if segment is not None:
            cv2.fillPoly(self.ids, [corners], segment, shift=SUBPIXEL_BITS)

    def ellipse(self, center: Sequence[float], radii: Sequence[float], color: Color, segment: int | None) -> None:
        """Fill an ellipse; center and radii are pixels, x first."""
        self.polygon(np.asarray(center) + CIRCLE * radii, color, segment)

    def face(self, corners: Iterable[Point], color: Color, segment: int | None) -> None:
        """Fill a flat face given by street points."""
        self.polygon(self.project(corners), color, segment)

    def front(self, x: Sequence[float], y: Sequence[float], z: float, color: Color, segment: int | None) -> None:
        """Fill the upright rectangle x[0]..x[1], y[0]..y[1] that faces the camera at depth z."""
        self.face([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)], color, segment)

    def side(self, x: float, y: Sequence[float], z: Sequence[float], color: Color, segment: int | None) -> None:
        """Fill the upright rectangle that runs along the street at x."""
        self.face([(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])], color, segment)

    def ground(self, x: Sequence[float], z: Sequence[float], color: Color, segment: int | None) -> None:
        """Fill a rectangle on the ground."""
        self.face([(x[0], 0, z[0]), (x[1], 0, z[0]), (x[1], 0, z[1]), (x[0], 0, z[1])], color, segment)

    def shadow(self, x: Sequence[float], z: Sequence[float], darkness: float = 0.55) -> None:
        """Darken the ground below an object; the label stays what it was."""
        corners = self.project([(x[0], 0, z[0]), (x[1], 0, z[0]), (x[1], 0, z[1]), (x[0], 0, z[1])])
        limits = (self.width, self.height)
        left, top = (int(min(max(low, 0), limit)) for low, limit in zip(corners.min(axis=0), limits, strict=True))
        right, bottom = (
            int(min(max(high + 2, 0), limit)) for high, limit in zip(corners.max(axis=0), limits, strict=True)
        )
        if right <= left or bottom <= top:
            return
        mask = np.zeros((bottom - top, right - left), dtype=np.uint8)
        cv2.fillPoly(mask, [_fixed_point(corners - (left, top))], 1, shift=SUBPIXEL_BITS)
        inside = mask.astype(bool)
        region = self.image[top:bottom, left:right]
        region[inside] = (region[inside] * darkness).astype(np.uint8)


def shade(color: Color, factor: float) -> tuple[float, ...]:
    """The colour in stronger or weaker light."""
    return tuple(channel * factor for channel in color)


def _fixed_point(points: Any) -> np.ndarray:
    """Pixels (N, 2) as OpenCV takes them: int32 in units of 1 / 2**SUBPIXEL_BITS."""
    near = np.minimum(np.maximum(np.asarray(points), -FARTHEST_PIXEL), FARTHEST_PIXEL)
    return np.rint(near * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _byte(color: Color) -> tuple[int, ...]:
    return tuple(int(min(max(channel, 0), 255)) for channel in color)
