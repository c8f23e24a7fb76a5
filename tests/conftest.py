"""Shared fixtures. Importing the plugin first lets its repairs of older Detectron2 versions come before any test."""

from __future__ import annotations

import os
from pathlib import Path

# Test processes run side by side and start more: a thread pool in each would make them wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import panoptic_plugin  # noqa: F401

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Evaluations keep the ground truth in a folder of this test run, not in that of the user."""
    os.environ["PANOPTIC_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the clone: configs/, tools/, scripts."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real data sets; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no folder of real sample data beside the clone")
    return SHARED_DATA
