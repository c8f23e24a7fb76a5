"""Which query's mask has the highest logit at each pixel of the result (DETR, https://arxiv.org/abs/2005.12872).

Shapes: K kept queries, (h, w) masks at stride 4, (H, W) the size the network saw without padding, (H', W') the size of
the result.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

# Logits that are closer than this share of the largest one can change places by the rounding of an interpolation or of
# a softmax; and the share of pixels where that may happen before rounding is worth repeating.
_ROUNDING = 2e-6
_FEW = 2e-4


def find_owners(
    masks: torch.Tensor,
    image_size: tuple[int, int],
    padded_size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    crop: bool,
) -> FastOwners | OfficialOwners:
    """What tells the owner of each pixel, with ``among(alive)``.

    Args:
        masks: float (K, h, w), logits of the padded image's masks.
        image_size, padded_size, output_size: (H, W), that of the batch, (H', W').
        crop: masks are enlarged to the padded size and cut to (H, W), in place of being enlarged to (H, W).
    """
    picked = [nearest_sources(*sizes) for sizes in zip(image_size, output_size, strict=True)]
    kind = OfficialOwners if _are_alike(masks) else FastOwners
    return kind(masks, padded_size if crop else image_size, image_size, picked)


def _are_alike(masks: torch.Tensor) -> bool:
    """Whether rounding decides whose pixels are, as with random weights, whose masks hardly differ."""
    if len(masks) < 2:
        return False
    highest = masks.amax(dim=0)
    rivals = (masks >= highest - _ROUNDING * masks.abs().max()).sum(dim=0) > 1
    return float(rivals.float().mean()) > _FEW


class OfficialOwners:
    """All masks enlarged, and the softmax over them at each pixel, step by step as the official code."""

    def __init__(
        self, masks: torch.Tensor, enlarged: tuple[int, int], image_size: tuple[int, int], picked: list[np.ndarray]
    ) -> None:
        """
        Args:
            masks: float (K, h, w).
            enlarged: the size that they are enlarged to, before they are cut to ``image_size``.
            image_size: (H, W).
            picked: int64 (H',) and (W',), the rows and columns of (H, W) that the result has.
        """
        whole = F.interpolate(masks.float()[:, None], size=enlarged, mode="bilinear")
        self.masks = whole[:, 0, : image_size[0], : image_size[1]].flatten(1)
        self.image_size = image_size
        self.picked = [torch.as_tensor(index, device=masks.device) for index in picked]

    def among(self, alive: list[int]) -> torch.Tensor:
        """int64 (H', W'): which of the queries has the highest probability; the first one of equal ones."""
        queries = torch.tensor(alive, device=self.masks.device)
        found = self.masks[queries].transpose(0, 1).softmax(-1).argmax(-1)
        rows, columns = self.picked
        return queries[found].view(self.image_size)[rows][:, columns]


class FastOwners:
    """Masks at the pixels of the result, without ever enlarging all of them."""

    def __init__(
        self, masks: torch.Tensor, enlarged: tuple[int, int], image_size: tuple[int, int], picked: list[np.ndarray]
    ) -> None:
        """See :class:`OfficialOwners`."""
        device = masks.device
        # Fewer rows or columns: look at those alone. More: repeat them when it is known whose they are.
        shrinks = [len(index) <= size for index, size in zip(picked, image_size, strict=True)]
        rows, columns = (
            torch.as_tensor(index if fewer else np.arange(size), device=device)
            for index, fewer, size in zip(picked, shrinks, image_size, strict=True)
        )
        self.after = [
            (axis, torch.as_tensor(index, device=device)) for axis, index in enumerate(picked) if not shrinks[axis]
        ]
        self.top, self.bottom, self.share = _bilinear(rows, masks.shape[1], enlarged[0])
        left, right, share = _bilinear(columns, masks.shape[2], enlarged[1])
        # (K, h, W'): the columns first and then, mask by mask, the rows, as PyTorch does.
        first, second = (masks.float().gather(2, side.expand(*masks.shape[:2], len(columns))) for side in (left, right))
        self.wide = first.mul_(1 - share).add_(second.mul_(share))
        self.found: torch.Tensor | None = None

    def among(self, alive: list[int]) -> torch.Tensor:
        """int64 (H', W'): which of the queries has the highest logit; the first one of equal ones."""
        if self.found is None:
            self.found = self._best(alive, None)
        else:  # a query that is gone leaves its pixels to the others, the rest is as it was
            gone = torch.ones(len(self.wide), dtype=torch.bool, device=self.wide.device)
            gone[alive] = False
            pixels = gone[self.found.flatten().long()].nonzero()[:, 0]
            if len(pixels) and alive:
                self.found.view(-1)[pixels] = self._best(alive, pixels)
        owner = self.found
        for axis, index in self.after:
            owner = owner.index_select(axis, index)
        return owner.long()

    def _best(self, alive: list[int], pixels: torch.Tensor | None) -> torch.Tensor:
        """Which of the queries has the highest logit at all pixels, int16 (rows, columns), or at some, (P,)."""
        wide, upper, lower, share = self._places(pixels)
        rest = 1 - share
        best = owner = None
        for query in alive:
            logits = wide[query].index_select(0, upper).mul_(rest)
            logits += wide[query].index_select(0, lower).mul_(share)
            if best is None or owner is None:
                best, owner = logits, torch.full(logits.shape, query, dtype=torch.int16, device=logits.device)
                continue
            better = logits > best
            best = torch.where(better, logits, best)
            owner.masked_fill_(better, query)
        assert owner is not None
        return owner

    def _places(self, pixels: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Where logits lie: all queries' values, of which entries along axis 1 each is a mean, and the second's share.

        The entries are whole rows for all pixels, and single values for some.
        """
        if pixels is None:
            return self.wide, self.top, self.bottom, self.share[:, None]
        columns = self.wide.shape[2]
        row, column = torch.div(pixels, columns, rounding_mode="floor"), pixels % columns
        upper, lower = (side[row] * columns + column for side in (self.top, self.bottom))
        return self.wide.flatten(1), upper, lower, self.share[row]


def _bilinear(wanted: torch.Tensor, num_in: int, num_out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For some of ``num_out`` positions the two of ``num_in`` they lie between, and the share of the second one.

    As ``torch.nn.functional.interpolate`` with ``align_corners=False``.
    """
    scale = torch.tensor(num_in / num_out, dtype=torch.float32, device=wanted.device)
    source = (scale * (wanted.float() + 0.5) - 0.5).clamp(min=0)
    first = source.long().clamp(max=num_in - 1)
    return first, (first + 1).clamp(max=num_in - 1), source - first


def nearest_sources(num_in: int, num_out: int) -> np.ndarray:
    """Which of ``num_in`` rows each of ``num_out`` rows is taken from, as Pillow's nearest neighbour: int64 (num_out,).

    Pillow adds the step up in double precision, and that decides where the middle of a row falls on an edge.
    """
    step = num_in / num_out
    positions = np.full(num_out, step)
    positions[0] = 0.5 * step
    return np.minimum(np.cumsum(positions).astype(np.int64), num_in - 1)
