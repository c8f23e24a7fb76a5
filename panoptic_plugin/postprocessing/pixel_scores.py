"""Probabilities of classes at the pixels of things, without those of all other pixels.

Shapes: P thing pixels, M some of them.
"""

from __future__ import annotations

from functools import cached_property

import torch

from panoptic_plugin.postprocessing.semantic import SemanticLogits, SemanticMap

SMALLEST_PROBABILITY = 1e-6
# Enlarging one class for the whole image costs as much as fetching this share of its pixels one by one.
SHARE_FETCHED = 0.03


class PixelScores:
    """Logarithms of softmax probabilities.

    Args:
        logits: of the image.
        semantic: what they were classified to.

    Attributes:
        categories: integers (P,), the most likely class of each thing pixel.
        own_log_probability: float32 (P,), that of the most likely class.
    """

    def __init__(self, logits: SemanticLogits, semantic: SemanticMap) -> None:
        self._logits, self._semantic = logits, semantic
        self.categories = semantic.labels.reshape(-1).index_select(0, semantic.pixels)
        self.own_log_probability = semantic.top - semantic.log_sum

    @property
    def pixels(self) -> torch.Tensor:
        """int64 (P,) positions y * W + x."""
        return self._semantic.pixels

    def log_probability(self, categories: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """That of one class at each of some pixels: float32 (M,), from int64 (M,) classes and places in ``pixels``."""
        values = self._logits.at(categories, self.pixels.index_select(0, index))
        return values - self._semantic.log_sum.index_select(0, index)

    def log_probability_of(self, category: int, index: torch.Tensor) -> torch.Tensor:
        """As :meth:`log_probability`, for the same class everywhere, which is faster for many pixels."""
        if self._logits.stride > 1 and len(index) < SHARE_FETCHED * self._num_pixels:
            return self.log_probability(torch.full_like(index, category), index)
        plane = self._logits.whole(slice(category, category + 1)).reshape(-1)
        values = plane.index_select(0, self.pixels.index_select(0, index))
        return values - self._semantic.log_sum.index_select(0, index)

    @cached_property
    def _num_pixels(self) -> int:
        return self._logits.size[0] * self._logits.size[1]
