"""The figure of attention maps, and that they are recorded only where that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from panoptic_plugin.layers.query_transformer import QueryTransformer
from panoptic_plugin.systems.detr.attention import recorded_attention
from panoptic_plugin.visualization.attention import attention_figure


def run(transformer):
    torch.manual_seed(1)
    padding = torch.zeros(1, 3, 5, dtype=torch.bool)
    padding[..., 4] = True
    maps = torch.randn(2, 1, 16, 3, 5)
    return transformer(maps[0], padding, torch.randn(6, 16), maps[1]), padding[0]


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    return QueryTransformer(
        dim=16, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, feedforward_dim=8, dropout=0.0
    ).eval()


@torch.no_grad()
def test_weights_are_kept_where_wanted_and_change_nothing(transformer):
    with recorded_attention(transformer, False) as record:
        (plain, _), padding = run(transformer)
    assert record.encoder is None and record.decoder is None
    with recorded_attention(transformer, True) as record:
        (recorded, _), _ = run(transformer)
    assert torch.allclose(plain, recorded, atol=1e-5)
    assert transformer.encoder.layers[-1].last_weights is None  # nothing stays in memory
    found = record.of_image(0, padding, torch.tensor([1, 4]))
    assert found["encoder"].shape == (3, 4, 3, 4) and found["decoder"].shape == (2, 3, 4)
    assert found["encoder"].sum(axis=(2, 3)) == pytest.approx(np.ones((3, 4)), abs=1e-5)
    assert found["decoder"].sum(axis=(1, 2)) == pytest.approx([1, 1], abs=1e-5)


def test_the_figure_shows_points_and_queries():
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[10:30, 20:40] = 1001
    segments = [
        {"id": 0, "category_id": 0, "area": 2000, "query": 3},
        {"id": 1001, "category_id": 1, "area": 400, "query": 5},
    ]
    attention = {
        "encoder": np.random.default_rng(0).random((2, 3, 2, 3)),
        "decoder": np.random.default_rng(1).random((2, 2, 3)),
        "queries": np.array([3, 5]),
    }
    image = np.full((40, 60, 3), 90, dtype=np.uint8)
    figure = attention_figure(image, attention, segments, ["road", "car"], ids=ids)
    assert figure.dtype == np.uint8 and figure.shape[2] == 3 and figure.std() > 10
    empty = attention_figure(
        image, {**attention, "decoder": np.zeros((0, 2, 3)), "queries": np.zeros(0, int)}, [], [], ids=ids
    )
    assert empty.shape[0] < figure.shape[0]
