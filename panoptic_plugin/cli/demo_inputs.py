"""What the demo reads: images, a video or a camera, as one stream of shots."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from panoptic_plugin.data.reading import read_image
from panoptic_plugin.errors import DatasetError, UserError
from panoptic_plugin.structures import PanopticResult
from panoptic_plugin.visualization.video import VideoReader

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm")


@dataclass
class Shot:
    """One image on its way from the reader over the model to the files.

    Attributes:
        name: what a user calls it: its file, or "frame 7 of v.mp4".
        stem: of the files that are made of it; no two shots of a run share it.
        image: uint8 RGB (H, W, 3); None where it could not be read.
        seconds: since the start of a camera; 0 for files.
        error: why there is no image.
        result: what the model made of it.
    """

    name: str
    stem: str
    image: np.ndarray | None = field(default=None, repr=False)
    seconds: float = 0.0
    error: DatasetError | None = None
    result: PanopticResult | None = field(default=None, repr=False)

    @cached_property
    def picture(self) -> np.ndarray:
        """The segmentation over the image, drawn once for all who want it."""
        assert self.result is not None
        return self.result.draw(self.image)


def image_shots(paths: Sequence[Path], stems: Sequence[str], max_pixels: int) -> Iterator[Shot]:
    """The images in order; one that is damaged comes without pixels and with its error."""
    for path, stem in zip(paths, stems, strict=True):
        shot = Shot(str(path), stem)
        try:
            shot.image = read_image(str(path), "RGB", max_pixels=max_pixels)
        except DatasetError as error:
            shot.error = error
        yield shot


def video_shots(reader: VideoReader, stem: str) -> Iterator[Shot]:
    """The frames of a video or camera; their stems end in a number of six digits, from 000000."""
    started = None
    try:
        for number, frame in enumerate(reader):
            started = time.monotonic() if started is None else started
            seconds = time.monotonic() - started
            yield Shot(f"frame {number} of {reader.name}", f"{stem}_{number:06d}", frame, seconds)
    finally:
        reader.close()


def find_inputs(words: Sequence[str]) -> list[Path]:
    """The images that ``--input`` names: files, folders and glob patterns, in the order of the words.

    What a pattern or a folder names is sorted. A file that several words name is taken once.

    Raises:
        UserError: a file that does not exist, a video, or a pattern or folder without images.
    """
    found = [path for word in words for path in _expand(os.path.expanduser(word))]
    missing = [str(path) for path in found if not path.is_file()]
    if missing:
        raise UserError(f"input {', '.join(missing[:5])} does not exist; {len(missing)} of {len(found)} are missing")
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        raise UserError(f"input {videos[0]} is a video; name it with --video-input")
    return list(dict.fromkeys(found))


def _expand(word: str) -> list[Path]:
    if os.path.isdir(word):
        found = sorted(path for path in Path(word).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise UserError(
                f"the folder {word} holds no image ({', '.join(IMAGE_SUFFIXES)}); a quoted pattern, "
                f"'{os.path.join(word, '**', '*.jpg')}', searches its sub-folders"
            )
        return found
    if not os.path.exists(word) and glob.has_magic(word):
        found = sorted(Path(path) for path in glob.glob(word, recursive=True) if os.path.isfile(path))
        if not found:
            raise UserError(f"no file matches {word}")
        return found
    return [Path(word)]
