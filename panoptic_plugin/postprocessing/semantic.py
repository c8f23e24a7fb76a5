"""Categories and their probabilities from semantic logits, which need not exist at the size of the result.

Shapes: C classes, (h, w) logits as the network makes them, (H, W) result, P thing pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.pixels import compact_labels, look_up, pixels_of, rows_and_columns
from panoptic_plugin.postprocessing.resize import to_output_size
from panoptic_plugin.postprocessing.semantic_cells import classify_cells, highest_labels

# Logits worked on at a time on a CPU: what fits a second- or third-level cache, and bounds the memory.
LOGITS_AT_A_TIME = 1 << 20

# Pixels up to which an image is little to PyTorch's interpolation.
SMALL_AREA = 4096


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
        self.size = size or (logits.shape[1] * stride, logits.shape[2] * stride)

    def rows(self, rows: slice, classes: slice = slice(None)) -> torch.Tensor:
        """Rows of ``F.interpolate(logits, scale_factor=stride, mode="bilinear")``, bit for bit.

        Args:
            rows: start and stop; the start is a multiple of the stride.
            classes: which of them.

        Returns:
            float32 (classes, rows, W).
        """
        if self.stride == 1:
            return self.logits[classes, rows, : self.size[1]]
        # One more on each side, except at the image border, which interpolation treats in its own way.
        start, stop = max(rows.start // self.stride - 1, 0), -(-rows.stop // self.stride) + 1
        # PyTorch enlarges little images and those of three channels by other code, which rounds differently.
        few = SMALL_AREA // (self.logits.shape[2] * self.stride**2) + 1
        start, stop = max(min(start, self.logits.shape[1] - few), 0), max(stop, start + few)
        is_small = self.logits[0].numel() * self.stride**2 <= SMALL_AREA
        if is_small or self.num_classes == 3:
            part, chosen = self.logits[:, start:stop], classes
        else:
            part, chosen = self.logits[classes, start:stop], slice(None)
        enlarged = F.interpolate(part[None], scale_factor=self.stride, mode="bilinear")[0]
        kept = slice(rows.start - start * self.stride, rows.stop - start * self.stride)
        return enlarged[chosen, kept, : self.size[1]]

    def at(self, categories: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The logit of one category at each of some pixels, right to the last places: float32 (P,).

        Args:
            categories: int64 (P,).
            pixels: int64 (P,) positions y * W + x.
        """
        y, x = rows_and_columns(pixels, self.size[1])
        if self.stride == 1:
            return self.logits[categories, y.long(), x.long()]
        (top, down), (left, right) = self._along(y, 1), self._along(x, 2)
        bottom, after = (top + 1).clamp(max=self.logits.shape[1] - 1), (left + 1).clamp(max=self.logits.shape[2] - 1)
        upper = torch.lerp(self.logits[categories, top, left], self.logits[categories, top, after], right)
        lower = torch.lerp(self.logits[categories, bottom, left], self.logits[categories, bottom, after], right)
        return torch.lerp(upper, lower, down)

    def _along(self, coordinate: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Index of the logit before a pixel's coordinate (P,), and how far the pixel is on the way to the next one."""
        low = ((coordinate + 0.5) / self.stride - 0.5).clamp(min=0)
        before = low.floor()
        return before.long(), low - before

    def whole(self, classes: slice = slice(None)) -> torch.Tensor:
        """float32 (classes, H, W)."""
        return self.rows(slice(0, self.size[0]), classes)


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
    if logits.stride > 1 and device.is_cpu(logits.logits):
        return SemanticMap(*map(torch.from_numpy, classify_cells(logits, is_thing.numpy())))
    bands = _bands(logits)
    parts = [_classify_band(logits, is_thing, band) for band in bands]
    for part, band in zip(parts, bands, strict=True):
        part.pixels.add_(band.start * logits.size[1])
    return SemanticMap(*(torch.cat(field) for field in zip(*parts, strict=True)))


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The labels of :func:`classify` alone, (H, W), from float logits (C, H, W) at the size of the result."""
    seen = SemanticLogits(logits)
    return torch.cat([_labels(seen.rows(band)) for band in _bands(seen)])


def _bands(logits: SemanticLogits) -> list[slice]:
    """Rows to work on at a time: on a CPU few, on other devices all."""
    height, width = logits.size
    rows = height
    if device.is_cpu(logits.logits):
        rows = max(1, LOGITS_AT_A_TIME // (logits.num_classes * width * logits.stride)) * logits.stride
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def _labels(values: torch.Tensor) -> torch.Tensor:
    """The first of the highest of float (C, h, w)."""
    if device.is_cpu(values):
        return torch.from_numpy(highest_labels(values.numpy()))
    return compact_labels(values.argmax(dim=0), len(values))


def _classify_band(logits: SemanticLogits, is_thing: torch.Tensor, band: slice) -> SemanticMap:
    """As :func:`classify`, for some rows; positions count from the first of them."""
    values = logits.rows(band)
    labels = _labels(values)
    pixels = pixels_of(look_up(is_thing, labels))
    at_pixels = values.reshape(logits.num_classes, -1).index_select(1, pixels)
    top = at_pixels.amax(dim=0)
    log_sum = at_pixels.sub_(top).exp_().sum(dim=0).log_().add_(top)
    return SemanticMap(labels, pixels, top, log_sum)
