"""What several files need that train or evaluate for real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_training import job_environment, make_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Iterator[Path]:
    """A few generated Cityscapes scenes, registered for the tests of one file."""
    folder = make_scenes(tmp_path_factory.mktemp("scenes"), "cityscapes")
    with job_environment(folder):
        yield folder
