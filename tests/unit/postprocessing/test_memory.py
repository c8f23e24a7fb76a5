"""The memory of the post-processing is bounded whatever the scene: no K x H x W tensor, on any way it takes.

Measured in a process of its own: what a process keeps of all that it has done before would be counted otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MIB_ASKED = 64
JOB = Path(__file__).resolve().parents[2] / "memory_job.py"


@pytest.fixture(scope="module")
def needed() -> dict[str, float]:
    """MiB by case, see tests/memory_job.py."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(JOB.parent), *sys.path])}
    done = subprocess.run([sys.executable, str(JOB)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    if None in found.values():
        pytest.skip("the system does not tell the highest memory of a process")
    return found


@pytest.mark.parametrize("num_centers", [0, 1, 60, 400])
@pytest.mark.parametrize("labels", ["smooth, some things", "smooth, all things", "noise, all things"])
def test_memory_of_a_large_image(needed, labels, num_centers):
    panoptic = 1024 * 2048 * 8 / 2**20
    assert panoptic <= needed[f"{labels}, {num_centers}"] <= MIB_ASKED


@pytest.mark.parametrize("num_centers", [1, 200])
def test_memory_of_the_way_of_other_devices(needed, num_centers):
    # All distances at once would be 100 MiB a step for 200 centers.
    assert needed[f"other devices, {num_centers}"] <= MIB_ASKED
