from __future__ import annotations

import torch

from panoptic_plugin.postprocessing.resize import offsets_to_output_size, to_output_size


def test_padding_is_cut_off():
    result = torch.randn(3, 8, 8)
    assert torch.equal(to_output_size(result, (5, 7), (5, 7)), result[:, :5, :7])


def test_offsets_grow_with_the_image():
    offsets = torch.stack([torch.full((4, 6), 2.0), torch.full((4, 6), -3.0)])
    resized = offsets_to_output_size(offsets, (4, 6), (12, 12))
    assert resized.shape == (2, 12, 12)
    torch.testing.assert_close(resized[:, 5, 5], torch.tensor([6.0, -6.0]))
