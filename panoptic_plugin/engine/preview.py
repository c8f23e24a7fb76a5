"""Pictures of how a training goes: image, ground truth and prediction of a few images, again and again."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.data.reading import read_image, read_label
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.structures import VOID, rgb_to_ids
from panoptic_plugin.visualization.draw import draw_comparison

logger = logging.getLogger(__name__)

FOLDER = "previews"
# Name of the picture in TensorBoard and Weights & Biases.
PICTURE = "preview"
# Larger images are drawn smaller: a picture of three side by side is for the screen.
MAX_PANEL_WIDTH = 640
JPEG_QUALITY = 88


class PreviewHook(HookBase):
    """Writes a picture every ``period`` iterations and after the last one. Register it on the main process only.

    A picture that cannot be made is a warning, and the last one that is tried; the training goes on.

    Args:
        folder: receives ``iter_0000099.jpg`` and the like; made when needed.
        period: iterations.
        draw: makes the picture, uint8 RGB (H, W, 3).
        max_files: at most so many pictures stay in the folder; see :func:`surplus`.
    """

    def __init__(self, folder: Path, *, period: int, draw: Callable[[], np.ndarray], max_files: int) -> None:
        self._folder = folder
        self._period = period
        self._draw = draw
        self._max_files = max_files
        self._failed = False

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._failed or (done % self._period and done != self.trainer.max_iter):
            return
        try:
            picture = self._draw()
            self._write(picture, self.trainer.iter)
            self.trainer.storage.put_image(PICTURE, np.ascontiguousarray(picture.transpose(2, 0, 1)))
        except Exception as reason:  # files, memory, a model that gives something else: none is worth a training
            self._failed = True
            logger.warning("No more previews: %s: %s", type(reason).__name__, reason, exc_info=True)

    def _write(self, picture: np.ndarray, iteration: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"iter_{iteration:07d}.jpg"
        encoded, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        assert encoded
        (self._folder / name).write_bytes(data.tobytes())
        for old in surplus(preview_iterations(self._folder), self._max_files):
            (self._folder / f"iter_{old:07d}.jpg").unlink(missing_ok=True)


def preview_iterations(folder: Path) -> list[int]:
    """Iterations of which the folder has a picture, ascending."""
    found = (re.fullmatch(r"iter_(\d{7,})\.jpg", path.name) for path in folder.glob("iter_*.jpg"))
    return sorted(int(match[1]) for match in found if match)


def surplus(iterations: Sequence[int], limit: int) -> list[int]:
    """Which pictures to remove so that ``limit`` stay, spread over the training; the first and the last stay.

    Args:
        iterations: ascending.
        limit: at least 2.
    """
    kept, removed = list(iterations), []
    while len(kept) > max(limit, 2):
        # What closes the smallest gap is missed least.
        inner = min(range(1, len(kept) - 1), key=lambda index: kept[index + 1] - kept[index - 1])
        removed.append(kept.pop(inner))
    return removed


def build_preview_hooks(cfg, make_model: Callable[[], nn.Module]) -> list[HookBase]:
    """The hook that VIS_PERIOD asks for; none where it is 0, and on other processes than the main one.

    Args:
        cfg: reads VIS_PERIOD, PREVIEW, DATASETS, INPUT and OUTPUT_DIR.
        make_model: gives what evaluation would run now.

    Raises:
        ConfigError: a number that cannot be, on every process.
    """
    if cfg.VIS_PERIOD <= 0:
        return []
    for key, lowest in (("NUM_IMAGES", 1), ("MAX_FILES", 2)):
        if cfg.PREVIEW[key] < lowest:
            raise ConfigError(f"PREVIEW.{key} is {cfg.PREVIEW[key]}, expected {lowest} or more")
    if not comm.is_main_process():
        return []
    previews: list[Previews] = []

    def draw() -> np.ndarray:
        if not previews:
            previews.append(Previews(cfg))
        return previews[0].draw(make_model())

    folder = Path(cfg.OUTPUT_DIR) / FOLDER
    return [PreviewHook(folder, period=cfg.VIS_PERIOD, draw=draw, max_files=cfg.PREVIEW.MAX_FILES)]


class Previews:
    """Draws the same few images of a dataset with whatever model it is given.

    Args:
        cfg: reads DATASETS, INPUT and PREVIEW.NUM_IMAGES.

    Raises:
        ConfigError: there is no dataset to draw.
    """

    def __init__(self, cfg) -> None:
        names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
        if not names:
            raise ConfigError("VIS_PERIOD draws images of DATASETS.TEST, or else of DATASETS.TRAIN; both are empty")
        self._metadata = MetadataCatalog.get(names[0])
        self._divisor = int(getattr(self._metadata, "label_divisor", None) or 1000)
        records = get_detection_dataset_dicts([names[0]], filter_empty=False)
        self._records = spread(records, cfg.PREVIEW.NUM_IMAGES)
        self._mapper = PanopticMapper(cfg, is_train=False)
        self._max_pixels = cfg.INPUT.MAX_IMAGE_PIXELS

    def draw(self, model: nn.Module) -> np.ndarray:
        """One row an image, uint8 RGB (H, W, 3). Neither the model nor any random state is changed."""
        with as_it_was(model), torch.no_grad():
            model.eval()
            return stack_rows([self._row(record, model([self._mapper(record)])[0]) for record in self._records])

    def _row(self, record: dict[str, Any], output: dict[str, Any]) -> np.ndarray:
        image = read_image(record["file_name"], "RGB", max_pixels=self._max_pixels)
        true_ids, true_segments = self._truth(record, image.shape[:2])
        ids, segments = predicted_ids(output, self._divisor)
        if image.shape[1] > MAX_PANEL_WIDTH:
            size = (MAX_PANEL_WIDTH, max(1, round(image.shape[0] * MAX_PANEL_WIDTH / image.shape[1])))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return draw_comparison(
            image, shrink(true_ids, image.shape[:2]), shrink(ids, image.shape[:2]), self._metadata,
            true_segments=true_segments, predicted_segments=segments, label_divisor=self._divisor,
        )  # fmt: skip

    def _truth(self, record: dict[str, Any], size: tuple[int, int]) -> tuple[np.ndarray, Any]:
        if "pan_seg_file_name" in record:
            label = read_label(record["pan_seg_file_name"], "RGB", record["file_name"], size)
            return rgb_to_ids(label), record["segments_info"]
        if "sem_seg_file_name" in record:
            label = read_label(record["sem_seg_file_name"], "L", record["file_name"], size).astype(np.int32)
            ignored = label == getattr(self._metadata, "ignore_label", 255)
            return np.where(ignored, VOID, label * self._divisor), None
        return np.full(size, VOID, dtype=np.int32), None


def predicted_ids(output: dict[str, Any], divisor: int) -> tuple[np.ndarray, Any]:
    """Panoptic ids (H, W) of a model's output and its segments; of a semantic model one segment a class."""
    if "panoptic_seg" in output:
        ids, listed = output["panoptic_seg"]
        return ids.cpu().numpy().astype(np.int32), output.get("segments_info") or listed
    semantic = output["sem_seg"]
    labels = semantic if semantic.dim() == 2 else semantic.argmax(dim=0)
    return labels.cpu().numpy().astype(np.int32) * divisor, None


def spread(records: Sequence[Any], number: int) -> list[Any]:
    """``number`` of the records, or all where there are fewer, evenly from the first to the last."""
    number = min(number, len(records))
    return [records[round(index * (len(records) - 1) / max(number - 1, 1))] for index in range(number)]


def shrink(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Ids (H, W) at another (height, width), each that of the nearest pixel."""
    if ids.shape == tuple(size):
        return ids
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(size, ids.shape, strict=True)
    )
    return ids[rows[:, None], columns]


def stack_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) below each other; narrower ones get white at the right."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Give back the training mode of each module, frozen ones too, and all random states as they were before."""
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, mode in modes:
            module.training = mode
