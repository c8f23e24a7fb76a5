"""Videos and cameras in, videos out, with a look at whether a file that is written can be played."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from panoptic_plugin.errors import UserError

logger = logging.getLogger(__name__)

# Codecs to try, by suffix. mp4v comes first because every build of OpenCV has it.
CODECS = {
    ".mp4": ("mp4v", "avc1"),
    ".m4v": ("mp4v", "avc1"),
    ".mov": ("mp4v", "avc1"),
    ".mkv": ("mp4v", "XVID", "MJPG"),
    ".avi": ("MJPG", "XVID"),
    ".webm": ("VP80", "VP90"),
}
FALLBACK = (".avi", "MJPG")  # needs no library at all
USUAL_FPS = 25.0


class VideoReader:
    """Frames of a video file or a camera.

    Args:
        source: a file, or the number of a camera.

    Attributes:
        fps: frames a second.
        num_frames: as the file says, 0 where it does not and for cameras.
        num_read: frames that were read.

    Raises:
        UserError: it is not there or cannot be decoded.
    """

    def __init__(self, source: str | int):
        self.source = source
        self.num_read = 0
        if isinstance(source, str) and not os.path.isfile(source):
            fault = "is a folder" if Path(source).expanduser().is_dir() else "does not exist"
            raise UserError(f"video {source} {fault}; name a video file")
        with _quiet():
            self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise UserError(_unreadable(source))
        self.num_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))) if isinstance(source, str) else 0
        self.fps = self._capture.get(cv2.CAP_PROP_FPS)
        if not math.isfinite(self.fps) or not 0 < self.fps <= 1000:
            logger.warning("%s states no usable frame rate; %g frames a second are assumed", self.name, USUAL_FPS)
            self.fps = USUAL_FPS

    @property
    def name(self) -> str:
        """The file, or "camera N"."""
        return self.source if isinstance(self.source, str) else f"camera {self.source}"

    def __iter__(self) -> Iterator[np.ndarray]:
        """uint8 RGB (H, W, 3), upright, until the end."""
        while True:
            there, frame = self._capture.read()
            if not there:
                break
            self.num_read += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if not self.num_read:
            raise UserError(_unreadable(self.source))
        if self.num_read < self.num_frames:
            logger.warning(
                "%s: %d of %d frames could be decoded; the file is cut or damaged",
                self.name, self.num_read, self.num_frames,
            )  # fmt: skip

    def close(self) -> None:
        self._capture.release()


class VideoWriter:
    """Writes frames of one size; the codec is one that was seen to work here.

    Args:
        path: its suffix is a key of :data:`CODECS`. Where none of its codecs works, an .avi of the same name is made.
        fps: frames a second.
        size: (height, width) of the frames.

    Attributes:
        path: the file that is written.
        num_frames: written frames.

    Raises:
        UserError: an unknown suffix, or a folder that cannot be written.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]):
        self.fps, self.size, self.num_frames = fps, size, 0
        self.path, self._codec = choose_codec(path, fps, size)
        if self.path != path:
            logger.warning("no codec for %s works here; %s is written instead", path.suffix, self.path)
        self._writer = _open(self.path, self._codec, fps, size)
        if not self._writer.isOpened():
            raise UserError(f"video {self.path} cannot be written; check the folder's permissions and the free space")

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 RGB (H, W, 3); one of another size is fitted, with black bars."""
        self._writer.write(cv2.cvtColor(_fit(frame, self.size), cv2.COLOR_RGB2BGR))
        self.num_frames += 1

    def write_until(self, frame: np.ndarray, seconds: float) -> None:
        """Show a frame until ``seconds`` after the start: it is repeated, or left out where there is no time for it.

        So what a camera saw is played as fast as it happened, however long a frame took to segment.
        """
        while self.num_frames < max(1, round(seconds * self.fps)):
            self.write(frame)

    def close(self) -> None:
        """Finish the file and look at whether it can be played.

        Raises:
            UserError: it cannot.
        """
        self._writer.release()
        if self.num_frames and not playable(self.path, self.num_frames):
            raise UserError(f"video {self.path} was written, but cannot be read back; is the disk full?")


def choose_codec(path: Path, fps: float, size: tuple[int, int]) -> tuple[Path, str]:
    """The file to write and a codec that works for it, found by writing and reading two frames."""
    suffix = path.suffix.lower()
    if suffix not in CODECS:
        raise UserError(f"--output {path} has the suffix {suffix!r}, expected one of {', '.join(CODECS)}, or a folder")
    with tempfile.TemporaryDirectory() as folder:
        for codec in CODECS[suffix]:
            if _works(Path(folder) / f"{codec}{suffix}", codec, fps, size):
                return path, codec
    return path.with_suffix(FALLBACK[0]), FALLBACK[1]


def playable(path: Path, num_frames: int) -> bool:
    """Whether the file opens, says that it has about so many frames, and its first one can be decoded.

    Some containers only know how long they last, so that their number of frames is one off.
    """
    with _quiet():
        capture = cv2.VideoCapture(str(path))
        try:
            stated = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
            return stated >= num_frames - 1 and bool(capture.read()[0])
        finally:
            capture.release()


def _works(path: Path, codec: str, fps: float, size: tuple[int, int]) -> bool:
    frames = 2
    with _quiet():
        writer = _open(path, codec, fps, size)
        if not writer.isOpened():
            return False
        for _ in range(frames):
            writer.write(np.full((*size, 3), 127, dtype=np.uint8))
        writer.release()
    return playable(path, frames)


def _open(path: Path, codec: str, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size[::-1])


def _fit(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if frame.shape[:2] == size:
        return frame
    scale = min(size[0] / frame.shape[0], size[1] / frame.shape[1])
    height, width = (max(1, min(round(scale * own), full)) for own, full in zip(frame.shape[:2], size, strict=True))
    fitted = np.zeros((*size, 3), dtype=np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    fitted[top : top + height, left : left + width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return fitted


def _unreadable(source: str | int) -> str:
    if isinstance(source, int):
        return f"camera {source} cannot be opened; is it plugged in, free, and may this user read /dev/video{source}?"
    return f"video {source} cannot be decoded; it is damaged, no video, or of a codec that OpenCV was built without"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the decoders of OpenCV write to the error stream while codecs are tried."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
