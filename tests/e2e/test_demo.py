"""The demo as a user runs it: a real video, Ctrl-C in the middle, and the example of the Python documentation."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import stub_panoptic_model as stub

from panoptic_plugin.cli import demo
from panoptic_plugin.structures import rgb_to_ids
from panoptic_plugin.visualization.video import VideoReader, VideoWriter

SLOW_DEMO = """
import sys
from panoptic_plugin.cli import demo
import stub_panoptic_model as stub
stub.register()
stub.StubPanopticModel.seconds = 0.03
sys.exit(demo.main(sys.argv[1:]))
"""


@pytest.fixture
def model(tmp_path):
    """Config and weights of the stub model."""
    stub.register()
    yield stub.write_model(tmp_path)
    stub.unregister()


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_leaves_a_file_that_plays(tmp_path, model):
    writer = VideoWriter(tmp_path / "long.mp4", 25, (64, 96))
    for number in range(400):
        writer.write(np.full((64, 96, 3), number % 200, np.uint8))
    writer.close()
    words = ["--config-file", str(model[0]), "--video-input", str(writer.path), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_DEMO, *words, "--output-format", "overlay", "json", "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": str(Path(stub.__file__).parent)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    _wait_for(lambda: len(list((tmp_path / "out").glob("predictions/*.png"))) >= 5, process)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    frames = list(VideoReader(str(tmp_path / "out" / "long.mp4")))
    assert 5 <= len(frames) < 400
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(content["annotations"]) == len(frames)


def _wait_for(condition, process: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_road_video_keeps_its_frames_and_rate(tmp_path, model, shared_data):
    source = shared_data / "road_video" / "test_video.mp4"
    words = ["--config-file", str(model[0]), "--video-input", str(source), "--output", str(tmp_path / "out.mp4")]
    assert demo.main([*words, "--device", "cpu", "--opts", "INPUT.MIN_SIZE_TEST", "64"]) == 0
    reader = VideoReader(str(tmp_path / "out.mp4"))
    frames = list(reader)
    assert (len(frames), reader.fps) == (38, 25)
    assert {frame.shape for frame in frames} == {(720, 1280, 3)}


def test_example_of_the_python_documentation(tmp_path, model, repository, monkeypatch):
    text = (repository / "docs" / "python_api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for name, size in (("street.jpg", (48, 60)), ("night.jpg", (60, 48))):
        cv2.imwrite(name, np.full((*size, 3), 90, np.uint8))
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python_api.md", "exec"), names)
    assert cv2.imread("street_panoptic.png").shape == (48, 60, 3)
    assert rgb_to_ids(cv2.imread("street_ids.png")[..., ::-1])[15, 15] == 1002
