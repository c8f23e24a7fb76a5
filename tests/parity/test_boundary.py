"""Boundary IoU and Boundary PQ against their definitions, written out pixel by pixel and segment by segment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from panoptic_plugin.evaluation.boundary import BoundaryIoU, BoundaryQuality, boundary_width, near_boundary
from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.panoptic import PanopticQuality

CLASSES = ["road", "sky", "person", "car"]
THINGS = frozenset({2, 3})
DIVISOR = 10


def _boundary(mask, width):
    """The mask without what is left of it after ``width`` erosions by 3 x 3, for which the outside is empty."""
    left = np.pad(mask, 1)
    for _ in range(width):
        previous, left = left, np.zeros_like(left)
        for y in range(1, left.shape[0] - 1):
            for x in range(1, left.shape[1] - 1):
                left[y, x] = previous[y - 1 : y + 2, x - 1 : x + 2].all()
    return mask & ~left[1:-1, 1:-1]


def _iou(true, predicted, void):
    predicted = predicted & ~void
    union = (true | predicted).sum()
    return (true & predicted).sum() / union if union else 0.0


def _blocks(rng, values, size=(18, 24)):
    """int (H, W): blocks of the values, of which some are cut in pieces."""
    coarse = rng.choice(values, (3, 4))
    return np.kron(coarse, np.ones((size[0] // 3, size[1] // 4), int))


def _image(rng):
    """(truth, model output): void, a crowd, a prediction that is a little off."""
    ids = np.where(np.arange(18)[:, None] < 9, 10, 20) * np.ones((1, 24), int)
    for number in range(1, 5):
        y, x = rng.integers(0, 10), rng.integers(0, 15)
        ids[y : y + 8, x : x + 9] = int(rng.choice([30, 40])) + number
    ids[:3, :5] = 0
    listed = np.unique(ids[ids > 0]).tolist()
    segments = [
        {"id": number, "category_id": one // DIVISOR - 1, "iscrowd": int(one % DIVISOR == 4), "dataset_id": one}
        for number, one in enumerate(listed, start=1)
    ]
    truth = Truth("x", np.searchsorted([0, *listed], ids), segments)
    predicted = np.roll(np.where(ids > 0, ids - DIVISOR, 13), rng.integers(0, 3), axis=int(rng.integers(0, 2)))
    predicted[rng.integers(0, 17), rng.integers(0, 20) :] = -1
    return truth, {"panoptic_seg": (torch.from_numpy(predicted), None)}


@pytest.mark.parametrize("seed", range(6))
def test_near_boundary_is_what_erosion_takes_away(seed):
    rng = np.random.default_rng(seed)
    ids = _blocks(rng, [-1, 0, 3, 70_000])
    ids[rng.integers(0, 18), rng.integers(0, 24)] = 5
    for width in (1, 2, 4):
        expected = np.zeros(ids.shape, bool)
        for one in np.unique(ids):
            expected |= _boundary(ids == one, width)
        assert np.array_equal(near_boundary(ids, width), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 7), (7, 1), (3, 3)])
def test_near_boundary_of_narrow_images(shape):
    ids = np.zeros(shape, int)
    assert np.array_equal(near_boundary(ids, 1), _boundary(ids == 0, 1))


def test_width_is_2_percent_of_the_diagonal():
    assert boundary_width((1024, 2048)) == 46
    assert boundary_width((10, 10)) == 1
    assert boundary_width((300, 400), 0.01) == 5


@pytest.mark.parametrize("seed", range(8))
def test_boundary_pq_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    images = [_image(rng) for _ in range(3)]
    arguments = {"class_names": CLASSES, "thing_ids": THINGS, "categories": range(4), "label_divisor": DIVISOR}
    metric = BoundaryQuality(dilation=0.08, **arguments)  # 2 pixels
    found = metric.summarize([metric.count(*image) for image in images])

    sums = {category: [0.0, 0, 0, 0] for category in range(4)}  # sum of IoU, TP, FP, FN
    for truth, output in images:
        _add_image(sums, truth, output["panoptic_seg"][0].numpy())
    qualities = []
    for category, (total, tp, fp, fn) in sums.items():
        if tp + fp + fn:
            qualities.append(100 * total / (tp + fp / 2 + fn / 2))
            assert found[f"PQ-{CLASSES[category]}"] == pytest.approx(qualities[-1], abs=1e-10)
    assert found["PQ"] == pytest.approx(np.mean(qualities), abs=1e-10)

    plain = PanopticQuality(**arguments)
    assert found["PQ"] <= plain.summarize([plain.count(*image) for image in images])["PQ"]


def _add_image(sums, truth, predicted):
    void, matched = truth.numbers == 0, set()
    for segment in truth.segments:
        true_mask, category = truth.numbers == segment["id"], segment["category_id"]
        if segment["iscrowd"]:
            continue
        for one in np.unique(predicted[predicted >= 0]).tolist():
            if one // DIVISOR == category:
                mask = predicted == one
                boundaries = _boundary(true_mask, 2), _boundary(mask, 2)
                iou = min(_iou(true_mask, mask, void), _iou(*boundaries, void))
                if iou > 0.5:
                    matched.add(one)
                    sums[category][0] += iou
                    sums[category][1] += 1
                    break
        else:
            sums[category][3] += 1
    for one in np.unique(predicted[predicted >= 0]).tolist():
        mask = predicted == one
        crowds = [s["id"] for s in truth.segments if s["iscrowd"] and s["category_id"] == one // DIVISOR]
        forgiven = mask & (void | np.isin(truth.numbers, crowds))
        if one not in matched and forgiven.sum() / mask.sum() <= 0.5:
            sums[one // DIVISOR][2] += 1


@pytest.mark.parametrize("seed", range(4))
def test_boundary_iou_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    metric = BoundaryIoU(class_names=CLASSES, label_divisor=DIVISOR, dilation=0.08)
    images = [_image(rng) for _ in range(3)]
    found = metric.summarize([metric.count(*image) for image in images])
    both, either = np.zeros(4), np.zeros(4)
    for truth, output in images:
        predicted = output["panoptic_seg"][0].numpy() // DIVISOR
        for category in range(4):
            numbers = [segment["id"] for segment in truth.segments if segment["category_id"] == category]
            true = _boundary(np.isin(truth.numbers, numbers), 2)
            ours = _boundary(predicted == category, 2) & (truth.numbers > 0)
            both[category] += (true & ours).sum()
            either[category] += (true | ours).sum()
    expected = 100 * both[either > 0] / either[either > 0]
    assert [found[f"IoU-{name}"] for name, occurs in zip(CLASSES, either > 0, strict=True) if occurs] == pytest.approx(
        expected.tolist(), abs=1e-10
    )
    assert found["mIoU"] == pytest.approx(expected.mean(), abs=1e-10)


def test_perfect_predictions_score_100():
    truth, _ = _image(np.random.default_rng(0))
    truth.segments = [{**segment, "iscrowd": 0} for segment in truth.segments]
    table = np.array([-1] + [segment["dataset_id"] - DIVISOR for segment in truth.segments])
    output = {"panoptic_seg": (torch.from_numpy(table[truth.numbers]), None)}
    quality = BoundaryQuality(class_names=CLASSES, thing_ids=THINGS, categories=range(4), label_divisor=DIVISOR)
    assert quality.summarize([quality.count(truth, output)])["PQ"] == 100
    iou = BoundaryIoU(class_names=CLASSES, label_divisor=DIVISOR)
    assert iou.summarize([iou.count(truth, output)])["mIoU"] == 100
