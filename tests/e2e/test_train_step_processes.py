"""One iteration over two gloo processes: parts of a batch, and a loss that is not finite in one of them."""

from __future__ import annotations

import pytest
import torch
import train_step_job as job

from panoptic_plugin.engine.launch import _free_port, start_processes

pytestmark = pytest.mark.slow


def start(function, folder):
    start_processes(function, 2, 1, 0, f"tcp://127.0.0.1:{_free_port()}", (str(folder),), use_cuda=False)
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pth"))]


def test_parts_in_two_processes_train_what_the_whole_batch_does_in_one(tmp_path):
    first, second = start(job.train_in_parts, tmp_path)
    step = job.make_step([job.samples(one) for one in range(job.STEPS)], 1)
    job.run(step, job.STEPS)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, job.weights(step), rtol=1e-6, atol=1e-6)


def test_a_fault_in_one_process_ends_both_before_it_reaches_a_weight(tmp_path):
    for found in start(job.train_with_a_fault, tmp_path):
        assert "at iteration=1: loss nan" in found["message"]
        assert "Images with such a loss: 1_4, 1_5, 1_6, 1_7" in found["message"]
        assert found["unchanged"]
