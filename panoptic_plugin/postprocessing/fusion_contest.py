"""Which mask of a panoptic fusion wins which pixel, one mask after the other and each in its box only.

Shapes: C categories, H x W pixels of the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from panoptic_plugin.postprocessing.mask_boxes import Box
from panoptic_plugin.postprocessing.pixels import look_up
from panoptic_plugin.postprocessing.semantic import likeliest


def fuse_logits(mask_logits: torch.Tensor, semantic_logits: torch.Tensor) -> torch.Tensor:
    """(sigmoid(a) + sigmoid(b)) * (a + b): high where both agree; float, of the common shape."""
    return (mask_logits.sigmoid() + semantic_logits.sigmoid()) * (mask_logits + semantic_logits)


class Contest:
    """Stuff against masks: the highest logit so far of each pixel, and who has it.

    Attributes:
        codes: integers (H, W), the likeliest category of a pixel, or the code of the mask that won it.
        maps: the logits of all stuff, float (C', H, W), and of each mask, float (1, H, W), where they are kept.
    """

    def __init__(
        self,
        semantic: torch.Tensor,
        stuff_ids: Sequence[int],
        *,
        area: Box,
        num_codes: int,
        center: bool,
        only_stuff: bool,
        keep_maps: bool,
    ) -> None:
        """
        Args:
            semantic: float32 (C, H, W), logits.
            stuff_ids: the C' categories that masks compete with.
            area: the pixels that masks can win.
            num_codes: C and the number of masks to come.
            center: whether to subtract each pixel's mean over the categories.
            only_stuff: whether the likeliest category of a pixel is one of stuff, if there are any.
            keep_maps: whether to keep the logits; then ``area`` is all pixels.
        """
        self._semantic, self._area = semantic, area
        self._level = torch.zeros_like(semantic[0])
        if center:
            rows, columns = area.place
            self._level[rows, columns] = semantic[:, rows, columns].mean(dim=0)
        self._best = self._best_of(stuff_ids)
        self.codes = _likeliest_of(semantic, stuff_ids if only_stuff and stuff_ids else range(len(semantic)))
        if num_codes > 256:
            self.codes = self.codes.long()
        self.maps = [semantic[list(stuff_ids)] - self._level] if keep_maps else None

    def enter(
        self, code: int, mask_logits: torch.Tensor, category: int, box: Box, *, scale: float, outside: str
    ) -> None:
        """A mask wins the pixels where its fused logits are higher than all before.

        Args:
            code: of the mask.
            mask_logits: float (H, W).
            category: whose semantic logits it is fused with.
            box: where it is fused with them.
            scale: factor of the mask logits.
            outside: outside of the box "neg_inf" is lost, "zero" is fused with a semantic logit of 0.
        """
        place = box.place
        agreed = self._semantic[category][place] - self._level[place]
        if outside == "zero":
            agreed, place = _surrounded(agreed, place, self._level.shape, 0.0), self._area.place
        fused, best = fuse_logits(scale * mask_logits[place].float(), agreed), self._best[place]
        won = fused > best
        best.copy_(torch.where(won, fused, best))
        self.codes[place].masked_fill_(won, code)
        if self.maps is not None:
            self.maps.append(_surrounded(fused, place, self._level.shape, float("-inf"))[None])

    def _best_of(self, categories: Sequence[int]) -> torch.Tensor:
        best = torch.full_like(self._level, float("-inf"))
        inner = best[self._area.place]
        for category in categories:
            torch.maximum(inner, self._semantic[category][self._area.place], out=inner)
        inner -= self._level[self._area.place]
        return best


def _likeliest_of(semantic: torch.Tensor, categories: Sequence[int]) -> torch.Tensor:
    if len(categories) == len(semantic):
        return likeliest(semantic)
    labels = likeliest(semantic[list(categories)])
    return look_up(torch.tensor(categories, dtype=labels.dtype, device=labels.device), labels)


def _surrounded(values: torch.Tensor, place: tuple[slice, slice], size: Sequence[int], other: float) -> torch.Tensor:
    """``values`` at their place in a map (H, W) of ``other``."""
    whole = values.new_full(tuple(size), other)
    whole[place] = values
    return whole
