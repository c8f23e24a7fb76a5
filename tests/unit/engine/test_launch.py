"""Which processes and devices a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from panoptic_plugin.engine import launch as launching
from panoptic_plugin.engine.launch import check_num_gpus, choose_num_gpus, launch
from panoptic_plugin.errors import ConfigError


@pytest.fixture
def gpus(monkeypatch):
    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    for name in launching.TORCHRUN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return see


def test_default_is_one_gpu_and_the_cpu_where_there_is_none(gpus, caplog):
    gpus(2)
    assert choose_num_gpus(None, "cuda") == 1
    gpus(0)
    assert choose_num_gpus(None, "cuda") == 0
    assert "running on the CPU" in caplog.text


def test_the_cpu_is_asked_for_without_a_warning(gpus, caplog):
    gpus(0)
    assert choose_num_gpus(0, "cpu") == choose_num_gpus(None, "cpu") == choose_num_gpus(0, "cuda") == 0
    assert not caplog.text


def test_numbers_that_cannot_be(gpus):
    gpus(2)
    with pytest.raises(ConfigError, match="4 GPUs are asked for, but PyTorch sees 2"):
        choose_num_gpus(4, "cuda")
    with pytest.raises(ConfigError, match="--num-gpus is -1"):
        check_num_gpus(-1)
    with pytest.raises(ConfigError, match="MODEL.DEVICE is cpu"):
        choose_num_gpus(1, "cpu")


def test_one_process_runs_here_and_returns_the_result(gpus):
    gpus(0)
    assert launch(lambda a, b: a + b, 0, args=(1, 2)) == 3


def test_several_gpus_start_as_many_processes(gpus, monkeypatch):
    gpus(2)
    started = []
    monkeypatch.setattr(launching, "start_processes", lambda *args, **kwargs: started.append(args))
    launch(print, 2, num_machines=2, machine_rank=1, dist_url="tcp://10.0.0.1:1234")
    assert started == [(print, 2, 2, 1, "tcp://10.0.0.1:1234", ())]
    with pytest.raises(ConfigError, match="--dist-url auto"):
        launch(print, 2, num_machines=2)
    with pytest.raises(ConfigError, match="torchrun"):
        launch(print, 0, num_machines=2)


def test_torchrun_is_joined_and_left(gpus, monkeypatch, tmp_path: Path):
    gpus(0)
    port = launching._free_port()
    values = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1,
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))

    def main():
        return dist.get_backend(), comm.get_world_size(), comm.get_local_rank(), comm.all_gather("x")

    for _ in range(2):  # leaving forgets everything, so that joining works again
        assert launch(main, 0) == ("gloo", 1, 0, ["x"])
        assert not dist.is_initialized()
