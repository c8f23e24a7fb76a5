"""Results: codes, drawing, COCO's format, doubtful things."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from panoptic_plugin.errors import UserError
from panoptic_plugin.structures import PanopticResult, boxes_of_segments, number_pixels, rgb_to_ids

METADATA = SimpleNamespace(
    stuff_classes=["road", "car"],
    thing_dataset_id_to_contiguous_id={26: 1},
    stuff_dataset_id_to_contiguous_id={7: 0},
)


@pytest.fixture
def result():
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[10:20, 10:30], ids[25:30, 50:60], ids[:, :2] = 1001, 1002, -1
    segments = [
        {"id": 0, "category_id": 0, "isthing": False, "area": 2070, "score": None},
        {"id": 1001, "category_id": 1, "isthing": True, "area": 200, "score": 0.9},
        {"id": 1002, "category_id": 1, "isthing": True, "area": 50, "score": 0.3},
    ]
    return PanopticResult(ids, segments, metadata=METADATA, image=np.full((40, 60, 3), 90, np.uint8))


def test_semantic(result):
    assert result.semantic.dtype == np.int32
    assert np.unique(result.semantic).tolist() == [-1, 0, 1]
    assert (result.semantic == 1).sum() == 250


def test_instances(result):
    instances = result.instances
    assert instances.pred_classes.tolist() == [1, 1]
    assert instances.pred_boxes.tensor.tolist() == [[10, 10, 30, 20], [50, 25, 60, 30]]
    assert instances.pred_masks.sum(dim=(1, 2)).tolist() == [200, 50]
    result.segments[1]["score"] = None
    assert result.instances.scores.tolist() == pytest.approx([1.0, 0.3])
    assert len(PanopticResult(np.full((4, 4), -1, np.int32)).instances) == 0


def test_to_coco(result):
    annotation, png = result.to_coco(17)
    assert annotation["file_name"] == "17.png" and annotation["image_id"] == 17
    assert [(one["category_id"], one["area"], one["bbox"]) for one in annotation["segments_info"]] == [
        (7, 2070, [2, 0, 58, 40]),
        (26, 200, [10, 10, 20, 10]),
        (26, 50, [50, 25, 10, 5]),
    ]
    assert "score" not in annotation["segments_info"][0]
    ids = rgb_to_ids(png)
    assert np.array_equal(ids - 1, result.ids)
    assert {one["id"] for one in annotation["segments_info"]} == set(np.unique(ids).tolist()) - {0}


def test_without_metadata_classes_are_numbers():
    result = PanopticResult(np.full((9, 9), 3000, np.int32), [{"id": 3000, "category_id": 3, "isthing": False}])
    assert result.to_coco("a")[0]["segments_info"][0]["category_id"] == 3
    assert result.draw().shape == (9, 9, 3)


def test_confident(result):
    sure = result.confident(0.5)
    assert [one["id"] for one in sure.segments] == [0, 1001]
    assert (sure.ids[25:30, 50:60] == -1).all() and sure.ids.dtype == np.int32
    assert (result.ids[25:30, 50:60] == 1002).all()
    assert result.confident(0.3) is result


def test_draw_and_save(result, tmp_path):
    assert not np.array_equal(result.draw(), result.image)
    result.save(tmp_path / "a.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], result.draw())
    result.save(tmp_path / "ids.png", ids=True)
    assert np.array_equal(rgb_to_ids(cv2.imread(str(tmp_path / "ids.png"))[..., ::-1]) - 1, result.ids)
    with pytest.raises(UserError, match=r"suffix \.png"):
        result.save(tmp_path / "ids.jpg", ids=True)
    for path in (tmp_path / "gone" / "a.png", tmp_path / "a.xyz"):
        with pytest.raises(UserError, match="cannot be written"):
            result.save(path)


def test_boxes_of_missing_segments():
    ids = np.array([[5, 5], [0, 9]])
    assert boxes_of_segments(ids, [9, 5, 77]) == [([1, 1, 1, 1], 1), ([0, 0, 2, 1], 2), ([0, 0, 0, 0], 0)]
    assert boxes_of_segments(ids, []) == []


def test_number_pixels():
    ids = np.array([[-1, 7], [7, 12_000_000]])
    assert number_pixels(ids, [12_000_000, 7], dtype=np.uint8).tolist() == [[0, 2], [2, 1]]
    assert number_pixels(ids, [7], last=-1).tolist() == [[2, 1], [1, 0]]
    assert number_pixels(np.zeros((0, 3), int), [1]).shape == (0, 3)


@pytest.mark.parametrize("repeats", [1, 40])  # short runs are looked up in a table, long ones are searched
@pytest.mark.parametrize("highest", [40, 1 << 24, 1 << 40])
def test_number_pixels_as_written_by_hand(repeats, highest):
    rng = np.random.default_rng(repeats)
    pool = [-1, 0, *rng.integers(1, highest, 12).tolist(), highest]
    ids = np.repeat(rng.choice(pool, (6, 50)), repeats, axis=1)
    for listed, last in ((pool[3:9], None), (pool[3:9], pool[5]), (pool[3:9], -1), ([], 0), ([], None), ([-1, 7], 3)):
        wanted = {
            **({last: len(listed) + 1} if last is not None else {}),
            **{one: n for n, one in enumerate(listed, 1)},
        }
        found = number_pixels(ids, listed, last, dtype=np.uint8)
        assert found.dtype == np.uint8 and found.tolist() == [
            [wanted.get(one, 0) for one in row] for row in ids.tolist()
        ]
