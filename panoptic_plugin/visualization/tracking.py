"""The same object keeps its number from frame to frame, by the overlap of its masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from panoptic_plugin.structures import number_pixels

SIDE = 480  # longest side, in pixels, of the maps that are compared: overlap needs no more


class Tracker:
    """Numbers the things of a video's frames.

    A thing is the one of the same class that it overlaps most in the frames before. One that is hidden, or missed, is
    remembered where it was last seen until another thing stands there.

    Args:
        min_iou: intersection over union above which two masks are the same object.
        memory: for how many frames a thing that is not seen is remembered.
    """

    def __init__(self, *, min_iou: float = 0.2, memory: int = 12):
        self._min_iou = min_iou
        self._memory = memory
        self._canvas: np.ndarray | None = None  # int32, the track of each pixel, 0 for none
        self._category: dict[int, int] = {}
        self._unseen: dict[int, int] = {}
        self._last = 0

    def update(self, ids: np.ndarray, segments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The segments of the next frame, each thing with its ``track_id`` of 1 or more.

        Args:
            ids: int (H, W) panoptic ids.
            segments: dicts with id, category_id, isthing.
        """
        things = [one for one in segments if one["isthing"]]
        numbers = number_pixels(_shrink(ids), [one["id"] for one in things], dtype=np.int32)
        if self._canvas is None or self._canvas.shape != numbers.shape:
            self._canvas, self._category, self._unseen = np.zeros_like(numbers), {}, {}
        tracks = self._match(numbers, things)
        for index, thing in enumerate(things):
            if index not in tracks:
                self._last += 1
                tracks[index] = self._last
            self._category[tracks[index]] = thing["category_id"]
        self._remember(numbers, tracks)
        track_of = {thing["id"]: tracks[index] for index, thing in enumerate(things)}
        return [{**one, "track_id": track_of[one["id"]]} if one["isthing"] else dict(one) for one in segments]

    def _match(self, numbers: np.ndarray, things: Sequence[dict[str, Any]]) -> dict[int, int]:
        """Thing -> track, the pairs of most overlap first."""
        assert self._canvas is not None
        known, canvas = np.unique(self._canvas, return_inverse=True)
        pairs = np.bincount(
            (numbers * len(known) + canvas.reshape(numbers.shape)).ravel(), minlength=(len(things) + 1) * len(known)
        ).reshape(len(things) + 1, len(known))
        union = pairs.sum(axis=1, keepdims=True) + pairs.sum(axis=0, keepdims=True) - pairs
        overlap = pairs / np.maximum(union, 1)
        tracks: dict[int, int] = {}
        for flat in np.argsort(-overlap, axis=None, kind="stable").tolist():
            row, column = divmod(flat, len(known))
            if overlap[row, column] < self._min_iou:
                break
            index, track = row - 1, int(known[column])
            if index < 0 or track == 0 or index in tracks or track in tracks.values():
                continue
            if self._category[track] == things[index]["category_id"]:
                tracks[index] = track
        return tracks

    def _remember(self, numbers: np.ndarray, tracks: dict[int, int]) -> None:
        """The canvas of this frame: its things, and between them those that were seen not long ago."""
        assert self._canvas is not None
        seen = set(tracks.values())
        self._unseen = {
            track: 0 if track in seen else self._unseen.get(track, 0) + 1
            for track in self._category
            if track in seen or self._unseen.get(track, 0) < self._memory
        }
        self._category = {track: self._category[track] for track in self._unseen}
        gone = [track for track in self._unseen if track not in seen]
        before = np.where(np.isin(self._canvas, gone), self._canvas, 0)
        table = np.array([0, *(tracks[index] for index in range(len(tracks)))], dtype=np.int32)
        self._canvas = np.where(numbers > 0, table[numbers], before)


def _shrink(ids: np.ndarray) -> np.ndarray:
    scale = SIDE / max(ids.shape)
    if scale >= 1:
        return ids
    size = (max(1, round(ids.shape[1] * scale)), max(1, round(ids.shape[0] * scale)))
    return cv2.resize(ids.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
