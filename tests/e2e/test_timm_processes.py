"""An encoder of timm with SyncBN on two gloo processes has the loss and the gradients of one with all images."""

from __future__ import annotations

import pytest
import timm_job as job
import torch

from panoptic_plugin.engine.launch import _free_port, start_processes

pytestmark = pytest.mark.slow


def test_two_processes_have_the_gradients_of_one(tmp_path):
    start_processes(job.train, 2, 1, 0, f"tcp://127.0.0.1:{_free_port()}", (str(tmp_path),), use_cuda=False)
    first, second = (torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("*.pth")))
    model = job.Mean(distributed=False)
    loss = model(job.images())
    loss.backward()
    torch.testing.assert_close((first[0] + second[0]) / 2, loss.detach())
    for one, other, expected in zip(first[1:], second[1:], job.gradients(model), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, expected, rtol=1e-6, atol=1e-9)
