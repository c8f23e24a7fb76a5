"""Objects keep their number while they move, hide and are missed; another class is another object."""

from __future__ import annotations

import numpy as np

from panoptic_plugin.visualization.colors import segment_colors
from panoptic_plugin.visualization.tracking import Tracker


def frame(boxes: dict[int, tuple[int, int]], size=(100, 200), side=20):
    """Ids and segments of squares at (top, left) by id; class is id // 1000, the rest is road."""
    ids = np.zeros(size, dtype=np.int32)
    segments = [{"id": 0, "category_id": 0, "isthing": False}]
    for one, (top, left) in boxes.items():
        ids[top : top + side, left : left + side] = one
        segments.append({"id": one, "category_id": one // 1000, "isthing": True})
    return ids, segments


def tracks(tracker: Tracker, boxes, **arguments) -> dict[int, int]:
    return {
        one["id"]: one["track_id"]
        for one in tracker.update(*frame(boxes, **arguments))
        if one["isthing"] or "track_id" in one
    }


def test_numbers_follow_the_objects_whatever_their_ids():
    tracker = Tracker()
    assert tracks(tracker, {1001: (10, 10), 1002: (10, 100)}) == {1001: 1, 1002: 2}
    assert tracks(tracker, {1001: (12, 104), 1002: (12, 14)}) == {1001: 2, 1002: 1}
    assert tracks(tracker, {1001: (12, 108), 1002: (12, 18), 1003: (60, 60)}) == {1001: 2, 1002: 1, 1003: 3}


def test_best_overlap_wins():
    tracker = Tracker()
    tracks(tracker, {1001: (10, 10)})
    assert tracks(tracker, {1001: (10, 22), 1002: (10, 12)}) == {1002: 1, 1001: 2}


def test_a_missed_object_comes_back_with_its_number_for_a_while():
    tracker = Tracker(memory=3)
    tracks(tracker, {1001: (10, 10), 1002: (10, 100)})
    for _ in range(3):
        tracks(tracker, {1002: (10, 100)})
    assert tracks(tracker, {1001: (12, 12), 1002: (10, 100)}) == {1001: 1, 1002: 2}
    for _ in range(5):
        tracks(tracker, {1002: (10, 100)})
    assert tracks(tracker, {1001: (12, 12), 1002: (10, 100)}) == {1001: 3, 1002: 2}


def test_another_class_and_another_place_are_other_objects():
    tracker = Tracker()
    assert tracks(tracker, {1001: (10, 10)}) == {1001: 1}
    assert tracks(tracker, {2001: (10, 10)}) == {2001: 2}
    assert tracks(tracker, {2001: (70, 150)}) == {2001: 3}


def test_empty_frames_and_a_change_of_size():
    tracker = Tracker()
    assert tracks(tracker, {}) == {}
    assert tracks(tracker, {1001: (10, 10)}) == {1001: 1}
    assert tracks(tracker, {1001: (10, 10)}, size=(50, 50)) == {1001: 2}
    large = Tracker()
    assert tracks(large, {1001: (100, 100)}, size=(1000, 2000), side=200) == {1001: 1}
    assert tracks(large, {1009: (110, 120)}, size=(1000, 2000), side=200) == {1009: 1}


def test_colour_follows_the_number():
    segments = [{"category_id": 1, "track_id": 7}, {"category_id": 1, "track_id": 3}]
    colors = segment_colors(segments, [(0, 0, 0), (0, 0, 142)], frozenset({1}))
    assert colors == segment_colors(segments[::-1], [(0, 0, 0), (0, 0, 142)], frozenset({1}))[::-1]
    assert colors[0] != colors[1]
