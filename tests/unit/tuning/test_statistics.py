"""What counts as an effect."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from panoptic_plugin.evaluation import pq
from panoptic_plugin.tuning.statistics import (
    MeanOfImages,
    Noise,
    PanopticScores,
    compare,
    measure_noise,
    measure_spread,
)


def test_what_a_seed_does_to_all_points_alike_is_no_noise():
    seeds = np.array([-20.0, 0.0, 30.0])
    points = np.array([50.0, 51.0, 50.0])
    generator = np.random.default_rng(0)
    scores = points[:, None] + seeds[None] + generator.normal(0, 0.01, (3, 3))
    found = measure_spread(scores)
    assert found.detected and found.p_value < 1e-3 and found.standard_error < 0.02
    assert found.spread == pytest.approx(1, abs=0.05)


def test_the_p_value_is_that_of_tukeys_test_where_seeds_do_not_matter():
    generator = np.random.default_rng(1)
    scores = generator.normal(0, 1, (4, 200))
    pairwise = stats.tukey_hsd(*scores).pvalue
    assert measure_spread(scores).p_value == pytest.approx(pairwise.min(), abs=0.02)


def test_flat_surfaces_are_taken_for_an_effect_as_often_as_the_level_says():
    generator = np.random.default_rng(2)
    found = [measure_spread(generator.normal(0, 1, (5, 3))) for _ in range(100)]
    assert np.mean([one.detected for one in found]) <= 0.05
    # Two standard errors, the limit for one pair of points, would be wrong far more often.
    assert np.mean([one.spread > 2 * one.standard_error for one in found]) > 0.2


@pytest.mark.parametrize(("scores", "detected"), [([[50.0] * 3] * 2, False), ([[50.0] * 3, [51.0] * 3], True)])
def test_without_noise_any_difference_is_real(scores, detected):
    assert measure_spread(np.array(scores)).detected is detected


def test_noise_is_pooled_over_tables():
    generator = np.random.default_rng(3)
    tables = [generator.normal(0, 2, (5, 3)) + generator.normal(0, 50, (1, 3)) for _ in range(40)]
    noise = measure_noise(tables)
    assert noise.deviation == pytest.approx(2, rel=0.1) and noise.freedom == 40 * 8
    assert noise.limit(3, 0.05) == pytest.approx(1.967 * noise.deviation * np.sqrt(2 / 3), rel=1e-3)


def test_panoptic_quality_of_images_is_that_of_the_evaluation():
    generator = np.random.default_rng(4)
    images, table = [], np.zeros((6, 4, 4))
    for image in range(6):
        counts = {}
        for category in generator.choice(4, 2, replace=False).tolist():
            ious = tuple(generator.uniform(0.5, 1, 2).tolist())
            counts[category] = pq.Counts(ious, int(generator.integers(3)), int(generator.integers(3)))
            table[image, category] = (sum(ious), 2, counts[category].fp, counts[category].fn)
        images.append(counts)
    times = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 3, 0, 0, 1]])
    for row, found in zip(times, PanopticScores(table).score(times), strict=True):
        taken = [images[image] for image in range(6) for _ in range(row[image])]
        expected = pq.average(pq.accumulate(taken), range(4))
        assert found == pytest.approx(100 * expected.pq, abs=1e-9)


def test_a_difference_of_all_images_is_seen_through_their_spread():
    generator = np.random.default_rng(5)
    of_images = generator.normal(50, 20, 60)
    baseline = [MeanOfImages(of_images + generator.normal(0, 0.5, 60)) for _ in range(3)]
    better = [MeanOfImages(of_images + 1 + generator.normal(0, 0.5, 60)) for _ in range(3)]
    found = compare(better, baseline, noise=Noise(0.1, 8))
    assert found.better and 0.7 < found.low < found.difference < found.high < 1.3
    assert not compare(baseline, better, noise=Noise(0.1, 8)).better
    assert not compare(better, baseline, noise=Noise(1.0, 8)).better  # trainings differ by as much


def test_a_difference_of_few_images_is_not_taken_for_one_of_all():
    values = np.full(50, 50.0)
    lucky = values.copy()
    lucky[0] += 100
    found = compare([MeanOfImages(lucky)] * 3, [MeanOfImages(values)] * 3, noise=Noise(0.01, 8))
    assert found.difference == pytest.approx(2) and not found.better
