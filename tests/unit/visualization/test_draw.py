"""Drawing: deterministic, void untouched, stuff in its class colour, things apart, labels where there is room."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from panoptic_plugin.visualization.colors import class_colors, shade
from panoptic_plugin.visualization.draw import draw_comparison, draw_panoptic
from panoptic_plugin.visualization.labels import draw_label, find_rooms

METADATA = SimpleNamespace(
    stuff_classes=["road", "car"],
    stuff_colors=[(128, 64, 128), (0, 0, 142)],
    thing_dataset_id_to_contiguous_id={26: 1},
    label_divisor=1000,
)


@pytest.fixture
def scene():
    """Grey image (120, 200); road (id 0!), two touching cars, a void strip on the right."""
    ids = np.zeros((120, 200), dtype=np.int64)
    ids[20:70, 20:70], ids[20:70, 70:120] = 1001, 1002
    ids[:, 180:] = -1
    return np.full((120, 200, 3), 100, dtype=np.uint8), ids


def test_colours(scene):
    image, ids = scene
    before = image.copy()
    picture = draw_panoptic(image, ids, METADATA, labels=False, alpha=0.5)
    assert picture.dtype == np.uint8 and picture.shape == image.shape
    assert np.array_equal(image, before)
    assert np.array_equal(picture[:, 181:], image[:, 181:])  # void
    assert picture[100, 20].tolist() == [114, 82, 114]  # half the image, half the class colour
    assert picture[45, 45].tolist() == [50, 50, 121]  # the first car has the class colour
    first, second = picture[45, 45].astype(int), picture[45, 100].astype(int)
    assert np.abs(first - second).max() > 20
    assert picture[45, 69].min() > 120  # a bright line between touching cars


def test_same_input_same_picture(scene):
    assert np.array_equal(draw_panoptic(*scene, METADATA), draw_panoptic(*scene, METADATA))


def test_labels_stand_inside_their_segments(scene):
    image, ids = scene
    changed = (draw_panoptic(image, ids, METADATA) != draw_panoptic(image, ids, METADATA, labels=False)).any(axis=2)
    assert changed[20:70, 20:70].any() and changed[20:70, 70:120].any() and changed[70:, :180].any()
    assert not changed[:, 181:].any()


def test_tiny_segments_get_no_label(scene):
    image, ids = scene
    ids[:] = -1
    ids[50:54, 50:54] = 1001
    assert np.array_equal(draw_panoptic(image, ids, METADATA), draw_panoptic(image, ids, METADATA, labels=False))


def test_rooms_are_inside_concave_segments():
    numbers = np.zeros((90, 90), dtype=np.uint8)
    numbers[10:80, 10:80] = 1
    numbers[10:60, 30:60] = 2  # the middle of segment 1 belongs to segment 2
    for number, room in enumerate(find_rooms(numbers, 2), start=1):
        assert numbers[room.y, room.x] == number
    assert find_rooms(np.zeros((5, 5), np.uint8), 1) == [None]


def test_more_segments_than_a_byte_counts():
    ids = np.repeat(np.repeat(1000 + np.arange(400).reshape(20, 20), 4, 0), 4, 1)
    picture = draw_panoptic(np.zeros((80, 80, 3), np.uint8), ids, METADATA)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_coco_ids_with_segments_and_scores(scene):
    image, ids = scene
    ids = np.where(ids == 1001, 12_000_000, 0)
    segments = [{"id": 12_000_000, "category_id": 1, "score": 0.87}]
    picture = draw_panoptic(image, ids, METADATA, segments_info=segments)
    assert np.array_equal(picture[100], image[100])
    assert not np.array_equal(picture[45], image[45])


def test_empty_and_unknown(scene):
    image, ids = scene
    assert np.array_equal(draw_panoptic(image, np.full_like(ids, -1), METADATA), image)
    draw_panoptic(image, np.full_like(ids, 7000), SimpleNamespace())  # neither names nor colours
    with pytest.raises(ValueError, match="the image has size"):
        draw_panoptic(image[:50], ids, METADATA)


def test_comparison(scene):
    image, ids = scene
    sheet = draw_comparison(image, ids, ids, METADATA)
    assert sheet.shape[0] > 320 and sheet.shape[1] > 3 * 200 * 3
    thirds = np.array_split(sheet[40:350], 3, axis=1)
    assert not np.array_equal(thirds[0][:, :500], thirds[1][:, :500])


def test_shades_and_spread():
    assert len({shade((0, 0, 142), number) for number in range(40)}) == 40
    assert shade((1, 2, 3), 0) == (1, 2, 3)
    assert len(set(class_colors(SimpleNamespace(), 133))) == 133


@pytest.mark.parametrize("background", [0, 128, 255])
@pytest.mark.parametrize("letter_height", [8, 11, 20, 40])
def test_labels_are_read_on_any_background(background, letter_height):
    image = np.full((120, 600, 3), background, np.uint8)
    taken = []
    assert draw_label(image, "vegetation 87%", (300, 60), letter_height, taken)
    ((left, top, right, bottom),) = taken
    patch = image[top:bottom, left:right]
    assert patch.max() > 230 and patch.min() < 100
    image[top:bottom, left:right] = background
    assert (image == background).all()  # nothing stands outside its rectangle


def test_labels_never_overlap_and_step_aside():
    image = np.full((100, 200, 3), 128, np.uint8)
    taken = []
    drawn = [draw_label(image, "car", (100, 50), 12, taken) for _ in range(4)]
    assert drawn == [True, True, True, False]
    assert not any(one[1] < other[3] and other[1] < one[3] for one in taken for other in taken if one is not other)


def test_letters_grow_with_the_image():
    heights = []
    for factor in (1, 4):
        ids = np.zeros((240 * factor, 400 * factor), np.int64)
        image = np.full((*ids.shape, 3), 100, np.uint8)
        changed = draw_panoptic(image, ids, METADATA) != draw_panoptic(image, ids, METADATA, labels=False)
        heights.append(np.ptp(np.flatnonzero(changed.any(axis=(1, 2)))) + 1)
    assert heights[1] > 2 * heights[0]
