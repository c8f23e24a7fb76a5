"""Run-length codes of label maps, against pycocotools' code of each mask."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from panoptic_plugin.evaluation.rle import encode_labels


@pytest.mark.parametrize("seed", range(20))
def test_equals_pycocotools(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(1, 6), rng.integers(1, 40, 2)).astype(
        rng.choice([np.uint8, np.int32, np.int64])
    )
    if seed % 2:  # long runs, whose numbers take several characters
        labels = np.kron(labels, np.ones(rng.integers(1, 30, 2), labels.dtype))
    codes = encode_labels(labels)
    assert list(codes) == np.unique(labels).tolist()
    for label, code in codes.items():
        assert code == coco_mask.encode(np.asfortranarray(labels == label, dtype=np.uint8))["counts"]


def test_empty():
    assert encode_labels(np.zeros((0, 4), np.uint8)) == {}
