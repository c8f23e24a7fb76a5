"""What encoder and queries of a DETR look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from panoptic_plugin.layers.query_transformer import QueryTransformer


class AttentionRecord:
    """Weights of the last encoder and decoder layer, means over the heads.

    Attributes:
        encoder: float (B, T, T), T = h * w cells.
        decoder: float (B, Q, T).
    """

    encoder: torch.Tensor | None = None
    decoder: torch.Tensor | None = None

    def of_image(self, number: int, padding: torch.Tensor, queries: torch.Tensor) -> dict[str, np.ndarray]:
        """One image's weights, without its padding.

        Args:
            number: of the image in the batch.
            padding: bool (h, w).
            queries: int64 (K,), those that are wanted.

        Returns:
            encoder float32 (h', w', h', w'), decoder float32 (K, h', w') and queries int64 (K,).
        """
        assert self.encoder is not None and self.decoder is not None
        height, width = padding.shape
        rows, columns = int((~padding).any(dim=1).sum()), int((~padding).any(dim=0).sum())
        encoder = self.encoder[number].float().view(height, width, height, width)[:rows, :columns, :rows, :columns]
        decoder = self.decoder[number].float()[queries].view(-1, height, width)[:, :rows, :columns]
        return {
            "encoder": encoder.cpu().numpy(),
            "decoder": decoder.cpu().numpy(),
            "queries": queries.cpu().numpy(),
        }


@contextmanager
def recorded_attention(transformer: QueryTransformer, wanted: bool) -> Iterator[AttentionRecord]:
    """Within the block the last layers keep their weights where that is wanted; afterwards the record has them."""
    record = AttentionRecord()
    last = (transformer.encoder.layers[-1], transformer.decoder.layers[-1])
    for layer in last:
        layer.keep_weights = wanted
    try:
        yield record
        record.encoder, record.decoder = (layer.last_weights for layer in last)
    finally:
        for layer in last:
            layer.keep_weights, layer.last_weights = False, None
