"""Showing the instance branch, early in training, things that the semantic branch does not see yet."""

from __future__ import annotations

import torch
from detectron2.utils.events import get_event_storage


class ShownForeground:
    """Picks the true thing pixels of some images of a batch; fewer and fewer, and none at all when a network is used.

    Args:
        probability: share of the images at the start.
        until: iteration from which none is shown; between, the share falls evenly.
        thing_ids: contiguous ids of the thing classes.
    """

    def __init__(self, *, probability: float, until: int, thing_ids: tuple[int, ...]) -> None:
        self.probability = probability
        self.until = until
        self.thing_ids = thing_ids

    def __call__(self, targets: torch.Tensor) -> torch.Tensor | None:
        """Semantic targets, int64 (N, H, W), to the pixels to show, bool (N, H, W); None where there are none."""
        share = self.share(_iteration())
        if share <= 0:
            return None
        # On the CPU, whose generator every iteration seeds anew.
        shown = torch.rand(len(targets)) < share
        is_thing = torch.isin(targets, torch.tensor(self.thing_ids, device=targets.device))
        return is_thing & shown.to(targets.device)[:, None, None]

    def share(self, iteration: int) -> float:
        """Share of the images in an iteration."""
        return self.probability * max(0.0, 1 - iteration / max(self.until, 1))


def _iteration() -> int:
    try:
        return get_event_storage().iter
    except AssertionError:  # no training is under way
        return 0
