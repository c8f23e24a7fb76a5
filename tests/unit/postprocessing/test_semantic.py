from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from panoptic_plugin.postprocessing import semantic
from panoptic_plugin.postprocessing.semantic import SemanticLogits, classify


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (5, 9)])
@pytest.mark.parametrize("values", ["smooth", "few"])
def test_labels_equal_argmax_of_interpolated_logits(monkeypatch, stride, size, values):
    monkeypatch.setattr(semantic, "LOGITS_AT_A_TIME", 500)
    logits = torch.randn(4, *size) if values == "smooth" else torch.randint(-1, 2, (4, *size)).float()
    large = F.interpolate(logits[None], scale_factor=stride, mode="bilinear")[0]
    cut = (max(1, large.shape[1] - 3), max(1, large.shape[2] - 1))
    source = SemanticLogits(logits, stride=stride, size=cut)
    large = large[:, : cut[0], : cut[1]]
    assert torch.equal(source.whole(), large)
    found = classify(source, torch.tensor([False, True, True, False]))
    assert torch.equal(found.labels.long(), large.argmax(0))
    things = torch.isin(large.argmax(0), torch.tensor([1, 2])).view(-1).nonzero()[:, 0]
    assert torch.equal(found.pixels, things)
    torch.testing.assert_close(found.top, large.amax(0).view(-1)[things])
    torch.testing.assert_close(found.log_sum, large.logsumexp(0).view(-1)[things])


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("size", [(40, 70), (70, 18), (9, 300), (9, 20), (16, 16)])
def test_close_logits_of_larger_images(num_classes, size):
    """Logits that differ in the last places only: every rounding decides somewhere."""
    logits = 8 + torch.randn(num_classes, *size) * 2e-6
    large = F.interpolate(logits[None], scale_factor=4, mode="bilinear")[0]
    found = classify(SemanticLogits(logits, stride=4), torch.ones(num_classes, dtype=torch.bool))
    assert torch.equal(found.labels.long(), large.argmax(0))
    rows = slice(12, min(31, large.shape[1]))
    assert torch.equal(SemanticLogits(logits, stride=4).rows(rows), large[:, rows])


def test_more_classes_than_a_byte_holds():
    logits = torch.randn(300, 3, 4)
    found = classify(SemanticLogits(logits), torch.ones(300, dtype=torch.bool))
    assert torch.equal(found.labels, logits.argmax(0))


def test_values_that_know_their_gradient():
    logits = torch.randn(3, 4, 5, requires_grad=True)
    assert torch.equal(
        classify(SemanticLogits(logits, stride=4), torch.ones(3, dtype=torch.bool)).labels,
        classify(SemanticLogits(logits.detach(), stride=4), torch.ones(3, dtype=torch.bool)).labels,
    )
