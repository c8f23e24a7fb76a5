"""What the demo writes: pictures, ids, COCO's panoptic format, a video, a window."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from panoptic_plugin.cli.demo_inputs import IMAGE_SUFFIXES, Shot
from panoptic_plugin.errors import UserError
from panoptic_plugin.structures import dataset_category_ids, write_picture
from panoptic_plugin.visualization.attention import attention_figure
from panoptic_plugin.visualization.draw import class_name, thing_categories
from panoptic_plugin.visualization.video import VideoWriter

logger = logging.getLogger(__name__)

WINDOW = "panoptic demo"
ESCAPE = 27
CITYSCAPES_SUFFIX = "_leftImg8bit"  # of image files; the image ids of Cityscapes' JSON do without


class WindowClosed(Exception):
    """The user has seen enough."""


class Output(Protocol):
    """Takes shots that have a result, in order."""

    def write(self, shot: Shot) -> None: ...

    def close(self) -> None: ...


class Pictures:
    """The segmentation over the image, a file a shot.

    Args:
        paths: by the shot's stem.
    """

    def __init__(self, paths: dict[str, Path]):
        self._paths = paths

    def write(self, shot: Shot) -> None:
        write_picture(self._paths[shot.stem], shot.picture)

    def close(self) -> None:
        pass


class Ids:
    """PNGs of COCO's panoptic ids, R + 256 G + 65536 B: ``category * label_divisor + instance + 1``, 0 for void.

    Args:
        folder: they are STEM.png in it.
        file: one file in place of the folder, for one image.
    """

    def __init__(self, folder: Path, file: Path | None = None):
        self._folder, self._file = folder, file
        make_folder(folder)

    def write(self, shot: Shot) -> None:
        assert shot.result is not None
        shot.result.save(self._file or self._folder / f"{shot.stem}.png", ids=True)

    def close(self) -> None:
        pass


class Attention:
    """What the network looked at, ``STEM_attention.png`` in a folder.

    Args:
        folder: of the figures.
        metadata: of the dataset; gives the names of the classes.
    """

    def __init__(self, folder: Path, metadata: Any):
        self._folder, self._names = folder, list(metadata.get("stuff_classes", []))
        make_folder(folder)

    def write(self, shot: Shot) -> None:
        result = shot.result
        assert result is not None and result.image is not None
        figure = attention_figure(result.image, result.attention, result.segments, self._names, ids=result.ids)
        write_picture(self._folder / f"{shot.stem}_attention.png", figure)

    def close(self) -> None:
        pass


class CocoJson:
    """``predictions.json`` and the PNGs of ``predictions/``, in COCO's panoptic format; the JSON is written last.

    Args:
        folder: of both.
        metadata: of the dataset; gives the categories.
    """

    def __init__(self, folder: Path, metadata: Any):
        self._folder, self._metadata = folder, metadata
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._ids: set[int | str] = set()
        make_folder(folder / "predictions")

    def write(self, shot: Shot) -> None:
        assert shot.result is not None
        image_id = self._image_id(shot.stem)
        annotation, png = shot.result.to_coco(image_id, f"{shot.stem}.png")
        write_picture(self._folder / "predictions" / f"{shot.stem}.png", png)
        height, width = shot.result.ids.shape
        self._images.append({"id": image_id, "file_name": Path(shot.name).name, "height": height, "width": width})
        self._annotations.append(annotation)

    def close(self) -> None:
        content = {"images": self._images, "annotations": self._annotations, "categories": categories(self._metadata)}
        path = self._folder / "predictions.json"
        try:
            path.write_text(json.dumps(content), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None

    def _image_id(self, stem: str) -> int | str:
        """As the ground truths of COCO and Cityscapes call the image, unless that is taken."""
        name = stem.removesuffix(CITYSCAPES_SUFFIX)
        image_id = int(name) if name.isdecimal() else name
        image_id = stem if image_id in self._ids else image_id
        self._ids.add(image_id)
        return image_id


class Video:
    """The segmentation over the frames, as a video.

    Args:
        path: of the file; its suffix may change where no codec for it works.
        fps: frames a second.
        live: frames come from a camera and are shown as long as they lasted.
    """

    def __init__(self, path: Path, fps: float, *, live: bool = False):
        self._path, self._fps, self._live = path, fps, live
        self._writer: VideoWriter | None = None

    def write(self, shot: Shot) -> None:
        if self._writer is None:
            self._writer = VideoWriter(self._path, self._fps, shot.picture.shape[:2])
        if self._live:
            self._writer.write_until(shot.picture, shot.seconds)
        else:
            self._writer.write(shot.picture)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            logger.info("%d frames at %g a second in %s", self._writer.num_frames, self._fps, self._writer.path)


class Window:
    """Shows shots on the display; use it in the main thread.

    Args:
        wait: for a key after each picture; Escape ends the demo either way.
    """

    def __init__(self, *, wait: bool):
        self._wait = wait

    def write(self, shot: Shot) -> None:
        cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
        cv2.imshow(WINDOW, np.ascontiguousarray(shot.picture[..., ::-1]))
        if cv2.waitKey(0 if self._wait else 1) == ESCAPE:
            raise WindowClosed

    def close(self) -> None:
        cv2.destroyAllWindows()


def has_display() -> bool:
    """Whether a window can be opened."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    return "GUI:                           NONE" not in cv2.getBuildInformation()


def categories(metadata: Any) -> list[dict[str, Any]]:
    """``categories`` of a panoptic JSON, in the order of the contiguous ids."""
    dataset_ids, things = dataset_category_ids(metadata), thing_categories(metadata)
    names = getattr(metadata, "stuff_classes", None) or getattr(metadata, "thing_classes", None) or []
    contiguous = sorted(dataset_ids) or range(len(names))
    return [
        {"id": dataset_ids.get(one, one), "name": class_name(metadata, one), "isthing": int(one in things)}
        for one in contiguous
    ]


def make_folder(folder: Path) -> Path:
    """The folder, made where it does not exist; UserError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made: {error.strerror or error}") from None
    return folder


def is_file_name(output: Path, suffixes: Sequence[str]) -> bool:
    """Whether ``--output`` means a file, by its suffix, and not a folder."""
    return output.suffix.lower() in suffixes and not output.is_dir()


def output_paths(inputs: Sequence[Path], output: str) -> list[Path]:
    """Where the picture of each image goes; no two share a stem, and none replaces an input.

    Args:
        inputs: the images.
        output: a folder, made where it does not exist; or a file name with an image's suffix for one input.

    Raises:
        UserError: a file name for several inputs, or a folder that cannot be made.
    """
    target = Path(output).expanduser()
    is_file = is_file_name(target, IMAGE_SUFFIXES)
    if is_file and len(inputs) > 1:
        raise UserError(f"--output {output} is one file, but there are {len(inputs)} inputs; name a folder")
    folder = make_folder(target.parent if is_file else target)
    originals = {path.resolve() for path in inputs}
    stems: set[str] = set()
    paths = []
    for image in inputs:
        candidates = [target] if is_file else _candidates(folder, image)
        path = next((one for one in candidates if one.resolve() not in originals and one.stem not in stems), None)
        if path is None:
            raise UserError(f"--output {target} would replace the input; name another file")
        stems.add(path.stem)
        paths.append(path)
    return paths


def _candidates(folder: Path, image: Path) -> Iterator[Path]:
    """a.jpg, then <its folder>_a.jpg, then a_panoptic.jpg, a_panoptic_2.jpg, ..."""
    suffix = image.suffix if image.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
    yield folder / f"{image.stem}{suffix}"
    if image.parent.name:
        yield folder / f"{image.parent.name}_{image.stem}{suffix}"
    yield folder / f"{image.stem}_panoptic{suffix}"
    number = 2
    while True:
        yield folder / f"{image.stem}_panoptic_{number}{suffix}"
        number += 1
