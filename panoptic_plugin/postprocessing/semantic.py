"""Categories and their probabilities from semantic logits, which need not exist at the size of the result.

Shapes: C classes, (h, w) logits as the network makes them, (H, W) result, P thing pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from panoptic_plugin.postprocessing.pixels import compact_labels, look_up, pixels_of
from panoptic_plugin.postprocessing.resize import to_output_size

# Logits worked on at a time: what fits a second- or third-level cache, and bounds the memory.
LOGITS_AT_A_TIME = 1 << 20
# The lead of one class over another differs between two float32 interpolations by less than this, relative to the
# largest logit (worst case 1e-6).
ROUNDING = 4e-6


class SemanticLogits:
    """Logits (C, h, w), seen at ``stride`` times their size, cut to ``size``.

    Args:
        logits: float (C, h, w).
        stride: power of two; 1 means that the logits are those of the result.
        size: (H, W) of the result, at most ``stride`` times (h, w), which is the default.
    """

    def __init__(self, logits: torch.Tensor, *, stride: int = 1, size: tuple[int, int] | None = None) -> None:
        self.logits = logits.detach().float()
        self.stride = stride
        self.num_classes = logits.shape[0]
        self.largest = float(self.logits.abs().max()) if stride > 1 else 0.0
        self.size = size or (logits.shape[1] * stride, logits.shape[2] * stride)

    def window(self, rows: slice, columns: slice, classes: slice = slice(None)) -> torch.Tensor:
        """A part of ``F.interpolate(logits, scale_factor=stride, mode="bilinear")``, bit for bit.

        Args:
            rows: start and stop, both multiples of the stride, within the image.
            columns: the same.
            classes: which of them.

        Returns:
            float32 (classes, rows, columns).
        """
        if self.stride == 1:
            return self.logits[classes, rows, columns]
        # One more on each side, except at the image border, which interpolation treats in its own way.
        (top, kept_rows), (left, kept_columns) = self.with_border(rows), self.with_border(columns)
        part = self.logits[classes, top, left]
        return F.interpolate(part[None], scale_factor=self.stride, mode="bilinear")[0, :, kept_rows, kept_columns]

    def with_border(self, part: slice) -> tuple[slice, slice]:
        """(Logits that the part of the image depends on, the part in what they are enlarged to), along one axis."""
        start = max(part.start // self.stride - 1, 0)
        stop = -(-part.stop // self.stride) + 1
        return slice(start, stop), slice(part.start - start * self.stride, part.stop - start * self.stride)

    def whole(self, classes: slice = slice(None)) -> torch.Tensor:
        """float32 (classes, H, W)."""
        return self.window(slice(0, self.size[0]), slice(0, self.size[1]), classes)


def logits_of_result(
    logits: torch.Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]
) -> SemanticLogits:
    """Logits (C, h, w) of the padded network input at 1 / ``stride`` of its size, to be seen at the size of the result.

    They are enlarged at once where they have to be resized a second time, from (H, W) ``image_size`` to
    ``output_size``, or where the stride is not a power of two, because parts would be rounded differently.
    """
    if tuple(image_size) == tuple(output_size) and stride & (stride - 1) == 0:
        return SemanticLogits(logits, stride=stride, size=output_size)
    if stride > 1:
        logits = F.interpolate(logits[None], scale_factor=stride, mode="bilinear", align_corners=False)[0]
    return SemanticLogits(to_output_size(logits, image_size, output_size))


class SemanticMap(NamedTuple):
    """Categories of an image, and what the probabilities of its thing pixels need.

    Attributes:
        labels: (H, W) category of the highest logit, uint8 where that holds the classes, else int64.
        pixels: int64 (P,) positions y * W + x of the pixels of thing categories, ascending.
        top: float32 (P,) their highest logit.
        log_sum: float32 (P,) logarithm of the sum of the exponentials of their logits.
    """

    labels: torch.Tensor
    pixels: torch.Tensor
    top: torch.Tensor
    log_sum: torch.Tensor


def classify(logits: SemanticLogits, is_thing: torch.Tensor) -> SemanticMap:
    """Category of each pixel; equal to ``argmax`` of the enlarged logits, of equal ones the first.

    ``top`` and ``log_sum`` are right to a few units of the last place.

    Args:
        logits: of the image.
        is_thing: bool (C,).
    """
    height, width = logits.size
    rows = max(1, LOGITS_AT_A_TIME // (logits.num_classes * width * logits.stride)) * logits.stride
    bands = [slice(start, min(start + rows, height)) for start in range(0, height, rows)]
    parts = [_classify_band(logits, is_thing, band) for band in bands]
    for part, band in zip(parts, bands, strict=True):
        part.pixels.add_(band.start * width)
    return SemanticMap(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _classify_band(logits: SemanticLogits, is_thing: torch.Tensor, band: slice) -> SemanticMap:
    """As :func:`classify`, for some rows; positions count from the first of them."""
    columns = slice(0, logits.size[1])
    if logits.logits.device.type != "cpu":
        values = logits.window(band, columns)
        labels = compact_labels(values.argmax(dim=0), logits.num_classes)
    else:
        values, labels = _labels_on_cpu(logits, band)
    pixels = pixels_of(look_up(is_thing, labels))
    at_pixels = values.reshape(logits.num_classes, -1).index_select(1, pixels)
    top = at_pixels.amax(dim=0)
    log_sum = at_pixels.sub_(top).exp_().sum(dim=0).log_().add_(top)
    return SemanticMap(labels, pixels, top, log_sum)


def _labels_on_cpu(logits: SemanticLogits, band: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (C, rows, W), perhaps rounded differently, and exact labels of a band.

    OpenCV interpolates several times as fast as PyTorch and rounds differently. Only where that could change which
    class is the highest, PyTorch's values decide.
    """
    width = logits.size[1]
    if logits.stride == 1:
        values = logits.window(band, slice(0, width)).numpy()
        return torch.from_numpy(values), torch.from_numpy(_first_highest(values)[0])
    values = _resize(logits, band)
    labels, lead = _first_highest(values)
    uncertain = (lead <= ROUNDING * logits.largest).any(axis=0).nonzero()[0]
    if len(uncertain):
        stride = logits.stride
        columns = slice(int(uncertain[0]) // stride * stride, int(uncertain[-1]) + 1)
        exact = logits.window(band, columns).numpy()
        labels[:, columns] = _first_highest(exact)[0]
    return torch.from_numpy(values), torch.from_numpy(labels)


def _resize(logits: SemanticLogits, band: slice) -> np.ndarray:
    """float32 (C, rows, W): as ``logits.window``, rounded differently."""
    source, kept = logits.with_border(band)
    part = logits.logits[:, source].numpy()
    size = (part.shape[2] * logits.stride, part.shape[1] * logits.stride)
    values = np.empty((len(part), band.stop - band.start, logits.size[1]), dtype=np.float32)
    for channel, enlarged in zip(part, values, strict=True):
        enlarged[:] = cv2.resize(channel, size, interpolation=cv2.INTER_LINEAR)[kept, : logits.size[1]]
    return values


def _first_highest(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First of the highest along axis 0, and its lead over the second highest value (0 where there are several).

    One class after the other is three times as fast as ``argmax``, which jumps through the memory.
    """
    label_type = np.uint8 if len(values) <= 256 else np.int64
    highest, labels = values[0].copy(), np.zeros(values.shape[1:], dtype=label_type)
    second, lower = np.full_like(highest, -np.inf), np.empty_like(highest)
    for category in range(1, len(values)):
        higher = (values[category] > highest).view(np.uint8)
        np.maximum(labels, higher * label_type(category), out=labels)
        np.minimum(highest, values[category], out=lower)
        np.maximum(second, lower, out=second)
        np.maximum(highest, values[category], out=highest)
    return labels, highest - second
