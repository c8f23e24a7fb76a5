"""PQ against the panopticapi reference, run live: counts equal, IoU sums equal to the last digit."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from panoptic_plugin.evaluation import pq
from panoptic_plugin.structures import ids_to_rgb

reference = pytest.importorskip("panopticapi.evaluation")
CATEGORIES = {category: {"id": category, "isthing": int(category < 4)} for category in range(7)}


def _random_image(rng, *, empty_prediction=False):
    """Blocks of ids with void, crowds (two of one category at times) and a prediction that often overlaps the truth."""
    blocks = rng.integers(0, 9, (6, 8))
    true_ids = np.kron(blocks, np.ones((7, 5), int)) * int(rng.choice([1, 7919, 1_800_000]))
    predicted_ids = np.where(rng.random(true_ids.shape) < rng.choice([0.02, 0.3]), 0, true_ids)
    predicted_ids = np.roll(predicted_ids, rng.integers(0, 3), axis=int(rng.integers(0, 2)))
    if empty_prediction:
        predicted_ids = np.zeros_like(predicted_ids)
    true_segments, category_of = [], {}
    for true_id in np.unique(true_ids[true_ids > 0]).tolist():
        category_of[true_id] = int(rng.integers(0, 7))
        crowd = int(category_of[true_id] < 4 and rng.random() < 0.4)
        area = int((true_ids == true_id).sum())
        true_segments.append({"id": true_id, "category_id": category_of[true_id], "iscrowd": crowd, "area": area})
    rng.shuffle(true_segments)
    predicted_segments = [
        {"id": i, "category_id": category_of[i] if rng.random() < 0.8 else int(rng.integers(0, 7))}
        for i in np.unique(predicted_ids[predicted_ids > 0]).tolist()
    ]
    return true_ids, true_segments, predicted_ids, predicted_segments


def _reference_counts(images, tmp_path):
    pairs = []
    for index, (true_ids, true_segments, predicted_ids, predicted_segments) in enumerate(images):
        for folder, ids in (("gt", true_ids), ("pred", predicted_ids)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(ids_to_rgb(ids)).save(tmp_path / folder / f"{index}.png")
        pair = {"image_id": index, "file_name": f"{index}.png"}
        pairs.append(
            ({**pair, "segments_info": true_segments}, {**pair, "segments_info": [dict(s) for s in predicted_segments]})
        )
    with contextlib.redirect_stdout(io.StringIO()):
        return reference.pq_compute_single_core(0, pairs, str(tmp_path / "gt"), str(tmp_path / "pred"), CATEGORIES)


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_panopticapi(seed, tmp_path):
    rng = np.random.default_rng(seed)
    images = [_random_image(rng, empty_prediction=index == 3) for index in range(8)]
    expected = _reference_counts(images, tmp_path)
    counts = pq.accumulate(pq.count_image(*image) for image in images)

    for category in CATEGORIES:
        ours = counts.get(category, pq.Counts())
        theirs = expected.pq_per_cat[category]
        assert (len(ours.ious), ours.fp, ours.fn) == (theirs.tp, theirs.fp, theirs.fn)
    for isthing in (None, True, False):
        chosen = [c for c, info in CATEGORIES.items() if isthing is None or isthing == (info["isthing"] == 1)]
        theirs, _ = expected.pq_average(CATEGORIES, isthing=isthing)
        ours = pq.average(counts, chosen)
        assert ours == (theirs["pq"], theirs["sq"], theirs["rq"], theirs["n"])  # exact, no tolerance


def test_things_only_is_mended():
    """Reference: ZeroDivisionError for the stuff of a data set without stuff. Here: nothing to average."""
    ids = np.ones((4, 4), int)
    counts = pq.count_image(ids, [{"id": 1, "category_id": 0}], ids, [{"id": 1, "category_id": 0}])
    assert pq.average(counts, []) is None
    assert pq.average(counts, [5]) is None
    assert pq.average(counts, [0]) == (1.0, 1.0, 1.0, 1)


def test_segment_with_id_0_is_mended():
    """Reference: a predicted segment with id 0 is taken for void. Here an id means what its segment says."""
    true_ids = np.repeat([[1, 2]], 4, axis=0)
    predicted_ids = np.repeat([[0, 5]], 4, axis=0)
    true = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 1}]
    counts = pq.count_image(true_ids, true, predicted_ids, [{"id": 0, "category_id": 0}, {"id": 5, "category_id": 1}])
    assert pq.average(counts, [0, 1]) == (1.0, 1.0, 1.0, 2)


_COLOURS = {
    (0, 0, 0): 0,
    (0, 0, 255): 1,
    (255, 0, 0): 2,
    (0, 255, 0): 3,
    (255, 0, 255): 4,
    (0, 255, 255): 5,
    (255, 255, 0): 6,
}
_TRUE_CLASS = {
    "team": {0: 0, 198: 2, **dict.fromkeys((47, 97, 133, 150, 174, 215, 244, 255), 1)},
    "bird": {92: 5, 176: 3, 255: 4},
    "cat": {0: 0, 255: 6},
}


def _published_image(folder, name):
    true_ids = np.array(
        Image.open(folder / (f"{name}_gt_instance.png" if name == "team" else f"{name}_gt.png"))
    ).astype(int)
    true_ids = true_ids[..., 0] if true_ids.ndim == 3 else true_ids
    instances = np.array(Image.open(folder / f"{name}_pred_instance.png").convert("L")).astype(int)
    colours = np.array(Image.open(folder / f"{name}_pred_class.png").convert("RGB"))
    classes = np.full(instances.shape, -1)
    for colour, category in _COLOURS.items():
        classes[(colours == colour).all(axis=-1)] = category
    predicted_ids = np.where(classes > 0, classes * 256 + instances, 0)
    true_of = _TRUE_CLASS[name]
    shifted = np.vectorize(lambda value: 0 if true_of[value] == 0 else value + 1)(true_ids)
    true = [{"id": value + 1, "category_id": category} for value, category in true_of.items() if category]
    predicted = [{"id": i, "category_id": i // 256} for i in np.unique(predicted_ids[predicted_ids > 0]).tolist()]
    return pq.count_image(shifted, true, predicted_ids, predicted)


def test_published_numbers(shared_data):
    folder = shared_data / "pq_images"
    team = _published_image(folder, "team")
    assert (len(team[1].ious), team[1].fp, team[1].fn) == (7, 0, 1)
    alone = pq.average(team, [1, 2])
    assert np.round(alone[:3], 4).tolist() == [0.6216, 0.6466, 0.9667]  # read off by deeplab2's tests
    together = pq.accumulate([_published_image(folder, name) for name in ("bird", "cat")] + [team])
    assert np.round(pq.average(together, range(1, 7))[:3], 4).tolist() == [0.7686, 0.7769, 0.9889]
