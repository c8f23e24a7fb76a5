"""Scores of single images, from saved predictions and from what the evaluation wrote."""

from __future__ import annotations

import json

import numpy as np
import pytest
from report_runs import CLASSES, write_dataset, write_run

from panoptic_plugin.data.catalog import register_panoptic_dataset
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation import pq
from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.reports.run_images import Pictures, Predictions, open_dataset
from panoptic_plugin.reports.run_matching import SIZES, count_segments, match_image
from panoptic_plugin.reports.run_pictures import draw_errors, draw_objects, error_kinds, picture_size
from panoptic_plugin.reports.run_scores import ImageScore, analyse, best_and_worst, read_analysis
from panoptic_plugin.reports.run_tables import class_scores, size_scores


def random_match(seed: int):
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 6, (6, 8)).repeat(4, 0).repeat(4, 1)
    segments = [
        {"id": n, "category_id": int(random.integers(3)), "iscrowd": int(random.random() < 0.3), "dataset_id": n}
        for n in range(1, 6)
    ]
    noise = random.integers(0, 6, (6, 8)).repeat(4, 0).repeat(4, 1)
    ids = np.where(random.random((6, 8)).repeat(4, 0).repeat(4, 1) < 0.3, noise, numbers) * 7
    predicted = [{"id": 7 * n, "category_id": segments[n - 1]["category_id"]} for n in range(1, 6)]
    return Truth("x", numbers, segments), ids, predicted


@pytest.mark.parametrize("seed", range(8))
def test_segments_give_the_counts_of_pq(seed):
    truth, ids, predicted = random_match(seed)
    match = match_image(truth, ids, predicted)
    ours = count_segments(match.segments())
    official = pq.count_image(truth.numbers, truth.segments, ids, predicted)
    assert {c: (sorted(one.ious), one.fp, one.fn) for c, one in ours.items()} == {
        c: (sorted(one.ious), one.fp, one.fn) for c, one in official.items()
    }
    by_size = [count_segments(match.segments(), least, limit) for _, least, limit in SIZES]
    assert sum(len(one.ious) + one.fp + one.fn for sizes in by_size for one in sizes.values()) == len(match.segments())


def test_confusion_counts_every_pixel():
    truth, ids, predicted = random_match(3)
    pixels = match_image(truth, ids, predicted).confusion(3)
    table = np.array([3, *(one["category_id"] for one in truth.segments)])
    true, found = table[truth.numbers], np.array([3, *(one["category_id"] for one in predicted)])[ids // 7]
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (true.ravel(), found.ravel()), 1)
    assert (pixels == expected).all()


def test_kinds_of_errors():
    numbers = np.array([[1, 1, 1, 1, 1, 1, 1, 2, 2, 0, 3]])
    segments = [{"id": n, "category_id": c, "iscrowd": k} for n, c, k in ((1, 0, 0), (2, 1, 0), (3, 1, 1))]
    ids = np.array([[5, 5, 5, 5, 5, 6, 0, 6, 7, 5, 6]])
    predicted = [{"id": 5, "category_id": 0}, {"id": 6, "category_id": 0}, {"id": 7, "category_id": 1}]
    match = match_image(Truth("x", numbers, segments), ids, predicted)
    assert [pair[:2] for pair in match.pairs] == [(1, 1)]  # half of segment 2 is not enough
    # 5: same class, another object; 7: void; 8: wrong class; 9: right class, not matched; void; crowd, wrong class.
    assert error_kinds(match).tolist() == [[0, 0, 0, 0, 0, 2, 3, 1, 2, 4, 1]]
    image = np.full((40, 440, 3), 120, np.uint8)
    errors, objects = draw_errors(image, match), draw_objects(image, match)
    assert errors.shape == objects.shape == image.shape and errors.dtype == objects.dtype == np.uint8
    assert (errors[:, 300:310] != errors[:, 10:20]).any()


def test_sizes_of_pictures():
    assert picture_size(1024, 2048, 640) == (320, 640)
    assert picture_size(64, 48, 640) == (640, 480)
    assert picture_size(1, 5000, 640) == (1, 640)


def test_best_and_worst_share_no_image():
    scores = [ImageScore(str(n), float(n), 0, 0, [], 0, 0, 0) for n in range(5)]
    best, worst = best_and_worst(scores, 3)
    assert ([s.image_id for s in best], [s.image_id for s in worst]) == (["4", "3", "2"], ["0", "1"])
    assert best_and_worst([], 3) == ([], [])
    assert [len(part) for part in best_and_worst(scores[:1], 3)] == [1, 0]


@pytest.fixture
def pictures(tmp_path):
    data = write_dataset(tmp_path / "set").parent
    name = f"report_scores_{tmp_path.name}"
    run = write_run(tmp_path / "one", data, name)
    roots = {"image_root": data / "images", "panoptic_json": data / "panoptic.json", "panoptic_root": data / "panoptic"}
    register_panoptic_dataset(name, **{key: str(value) for key, value in roots.items()})
    dataset = open_dataset(name)
    return Pictures(dataset, Predictions(run / "inference", dataset.contiguous_ids))


def test_analysis_of_predictions(pictures):
    analysis = analyse(pictures)
    assert [score.image_id for score in analysis.scores] == ["1", "2", "3", "4"] and not analysis.skipped
    assert [score.missed for score in analysis.scores] == [0, 1, 0, 1]
    assert analysis.scores[0].pq > analysis.scores[1].pq
    assert analysis.scores[0].void == pytest.approx(100 * 2 / 48)
    assert analysis.confusion.sum() == 4 * 48 * 64
    sizes = size_scores(analysis)
    assert [(row["objects"], row["missed"]) for row in sizes] == [(8, 2), (0, 0), (0, 0)]
    assert sizes[2]["PQ"] is None


def test_what_the_evaluation_wrote_gives_the_same(pictures, tmp_path):
    counted = analyse(pictures)
    keys = ("kind", "category", "area", "iou")
    ignored = {"kind": "ignored", "category": 1, "area": 5, "iou": 0}
    lines = [
        {
            **{name: getattr(score, name) for name in ("pq", "sq", "rq", "void")},
            "image_id": int(score.image_id),
            "segments": [*(dict(zip(keys, segment, strict=True)) for segment in score.segments), ignored],
        }
        for score in counted.scores
    ]
    lines.append({"image_id": 9, "pq": None, "sq": None, "rq": None, "void": None, "segments": []})
    (tmp_path / "per_image.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "confusion.json").write_text(json.dumps({"pixels": counted.confusion.tolist()}))
    per_class = [{"class": one, "kind": "thing" if one == "cell" else "stuff"} for one in CLASSES]
    read = read_analysis(tmp_path, per_class)
    assert read.scores == counted.scores and (read.confusion == counted.confusion).all()
    assert read.thing_ids == counted.thing_ids and read.class_names == counted.class_names
    (tmp_path / "confusion.json").write_text(json.dumps({"pixels": [[1]]}))
    with pytest.raises(DatasetError, match="expected 4 rows"):
        read_analysis(tmp_path, per_class)
    (tmp_path / "per_image.jsonl").write_text('{"image_id": 1, "pq"')
    with pytest.raises(DatasetError, match="cannot be read"):
        read_analysis(tmp_path, per_class)


def test_class_scores_fill_what_the_evaluation_lacks(pictures):
    class Run:
        results = {"per_class": [{"class": "cell", "kind": "thing", "PQ": 1.5, "IoU": None}, {"class": "gone"}]}

    rows = class_scores(Run, analyse(pictures))
    assert [row["class"] for row in rows] == ["cell"]
    assert rows[0]["PQ"] == 1.5 and 50 < rows[0]["SQ"] <= 100 and rows[0]["IoU"] is None


def test_damaged_predictions(pictures, tmp_path):
    analysis = analyse(pictures)
    root = tmp_path / "one" / "inference" / "predictions"
    (root / "panoptic" / "2.png").write_bytes(b"no PNG")
    assert len(analyse(pictures).scores) == 3 and "image 2" in analyse(pictures).skipped[0]
    (root / "panoptic.json").write_text("{}")
    with pytest.raises(DatasetError, match="cannot be read"):
        Predictions(tmp_path / "one" / "inference", {})
    (root / "panoptic.json").unlink()
    with pytest.raises(DatasetError, match="SAVE_PREDICTIONS"):
        Predictions(tmp_path / "one" / "inference", {})
    assert len(analysis.scores) == 4


def test_datasets_that_cannot_be_opened():
    for name in (None, "report_unheard_of"):
        with pytest.raises(DatasetError, match="not registered"):
            open_dataset(name)
