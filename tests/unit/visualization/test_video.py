"""Videos are written so that they can be read, at their rate; what cannot be read says why."""

from __future__ import annotations

import numpy as np
import pytest

from panoptic_plugin.errors import UserError
from panoptic_plugin.visualization import video
from panoptic_plugin.visualization.video import VideoReader, VideoWriter

SIZE = (48, 64)


def write(path, num_frames=5, fps=25.0, size=SIZE):
    """A video whose frames grow brighter."""
    writer = VideoWriter(path, fps, size)
    for number in range(num_frames):
        writer.write(np.full((*size, 3), 20 * (number % 12), dtype=np.uint8))
    writer.close()
    return writer.path


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
@pytest.mark.parametrize("fps", [25.0, 30000 / 1001])
def test_round_trip(tmp_path, name, fps):
    reader = VideoReader(str(write(tmp_path / name, fps=fps)))
    frames = list(reader)
    assert len(frames) == reader.num_read == 5
    assert reader.fps == pytest.approx(fps, rel=1e-3)
    assert [round(float(frame.mean()) / 20) for frame in frames] == [0, 1, 2, 3, 4]
    assert frames[0].shape == (*SIZE, 3) and frames[0].dtype == np.uint8
    reader.close()


def test_channels_are_rgb(tmp_path):
    writer = VideoWriter(tmp_path / "a.avi", 25, SIZE)
    writer.write(np.broadcast_to(np.array([200, 40, 90], np.uint8), (*SIZE, 3)))
    writer.close()
    (frame,) = VideoReader(str(writer.path))
    assert np.abs(frame.reshape(-1, 3).mean(axis=0) - [200, 40, 90]).max() < 12


def test_where_no_codec_works_an_avi_is_made(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(video.CODECS, ".mp4", ("zzzz", "none"))
    monkeypatch.setattr(video.logger, "propagate", True, raising=False)
    path = write(tmp_path / "a.mp4")
    assert path == tmp_path / "a.avi"
    assert len(list(VideoReader(str(path)))) == 5


def test_frames_of_another_size_are_fitted(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 25, SIZE)
    writer.write(np.full((*SIZE, 3), 99, np.uint8))
    writer.write(np.full((96, 64, 3), 255, np.uint8))
    writer.close()
    fitted = list(VideoReader(str(writer.path)))[1]
    assert fitted[:, 2:14].mean() < 20 and fitted[:, 28:36].mean() > 235


def test_live_frames_last_as_long_as_they_lasted(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 10, SIZE)
    frame = np.zeros((*SIZE, 3), np.uint8)
    counts = []
    for seconds in (0, 0.5, 0.52, 1.0):
        writer.write_until(frame, seconds)
        counts.append(writer.num_frames)
    assert counts == [1, 5, 5, 10]
    writer.close()


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        VideoReader(str(tmp_path / "none.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match="cannot be decoded"):
        list(VideoReader(str(tmp_path / "text.mp4")))
    with pytest.raises(UserError, match="camera 77 cannot be opened"):
        VideoReader(77)
    with pytest.raises(UserError, match="expected one of"):
        VideoWriter(tmp_path / "a.xyz", 25, SIZE)
    with pytest.raises(UserError, match="cannot be written"):
        VideoWriter(tmp_path / "gone" / "a.mp4", 25, SIZE)


def test_a_file_that_cannot_be_read_back_is_an_error(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 25, SIZE)
    writer.write(np.zeros((*SIZE, 3), np.uint8))
    writer._writer.release()
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read back"):
        writer.close()


def test_a_cut_file_gives_what_it_holds(tmp_path, caplog):
    path = write(tmp_path / "a.avi", num_frames=20)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert 1 <= len(list(VideoReader(str(path)))) <= 20
