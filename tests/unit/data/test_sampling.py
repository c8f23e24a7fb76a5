"""The order of a training's images: complete epochs, the same for any number of processes, and found again anywhere."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from panoptic_plugin import get_cfg
from panoptic_plugin.data.sampling import PositionBatchSampler, build_order, repeated, shuffled, shuffled_subset
from panoptic_plugin.errors import ConfigError

NUM_IMAGES, BATCH = 10, 4
WIDE = [0, 1, 1, 0, 1, 1, 1, 0, 1, 1]


def batches(start: int, count: int, *, rank=0, world_size=1, groups=None, seed=3):
    sampler = PositionBatchSampler(shuffled(NUM_IMAGES, seed), BATCH, rank=rank, world_size=world_size, groups=groups)
    sampler.start_iteration = start
    return list(itertools.islice(sampler, count))


@pytest.mark.parametrize("groups", [None, WIDE], ids=["plain", "grouped"])
@pytest.mark.parametrize("start", [0, 1, 2, 5, 7, 23])
def test_it_starts_anywhere_as_if_it_had_come_there(groups, start):
    assert batches(start, 9, groups=groups) == batches(0, start + 9, groups=groups)[start:]


@pytest.mark.parametrize("groups", [None, WIDE], ids=["plain", "grouped"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_what_one_would_see(groups, world_size):
    shares = [batches(2, 6, rank=rank, world_size=world_size, groups=groups) for rank in range(world_size)]
    for alone, *parts in zip(batches(2, 6, groups=groups), *shares, strict=True):
        assert all(len(part) == BATCH // world_size for part in parts)
        assert sorted(itertools.chain(*parts)) == sorted(alone)


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own():
    places = [place for batch in batches(0, 5 * NUM_IMAGES) for place in batch]
    assert [position for position, _ in places] == list(range(len(places)))
    images = np.array([image for _, image in places]).reshape(-1, NUM_IMAGES)
    assert (np.sort(images) == np.arange(NUM_IMAGES)).all()
    assert len({tuple(epoch) for epoch in images}) == len(images)
    assert batches(0, 3, seed=4) != batches(0, 3)


def test_a_batch_is_wholly_wide_or_wholly_not_and_no_image_is_lost():
    found = batches(0, 50, groups=WIDE)
    assert all(len({WIDE[image] for _, image in batch}) == 1 for batch in found)
    positions = sorted(position for batch in found for position, _ in batch)
    assert len(set(positions)) == len(positions) and positions[-1] - len(positions) < 2 * BATCH


def test_subset_is_the_same_in_every_epoch():
    epochs = shuffled_subset(100, seed=1, ratio=0.3)
    assert all(set(epochs(epoch)) == set(epochs(0)) and len(epochs(epoch)) == 30 for epoch in range(5))
    assert list(epochs(0)) != list(epochs(1))


def test_repeat_factors_hold_on_average():
    epochs = repeated([1.0, 2.5, 0.25], seed=0)
    counts = Counter(np.concatenate([epochs(epoch) for epoch in range(400)]).tolist())
    assert counts[0] == 400 and counts[1] == pytest.approx(1000, rel=0.05) and counts[2] == pytest.approx(100, rel=0.3)


def test_samplers_by_name():
    cfg = get_cfg()
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    records = [{"segments_info": [{"category_id": 0}]} for _ in range(9)]
    records.append({"segments_info": [{"category_id": 1}]})
    images = np.concatenate([build_order(cfg, records)(0)(epoch) for epoch in range(200)])
    assert (images == 9).sum() / 200 == pytest.approx((0.5 / 0.1) ** 0.5, rel=0.1)
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    assert len(build_order(cfg, records)(0)(0)) == 5
    for key, value, message in [
        ("RANDOM_SUBSET_RATIO", 0.0, "RANDOM_SUBSET_RATIO is 0.0"),
        ("SAMPLER_TRAIN", "TrainingSample", "closest|TrainingSampler"),
    ]:
        cfg.DATALOADER[key] = value
        with pytest.raises(ConfigError, match=message):
            build_order(cfg, records)
    with pytest.raises(ConfigError, match="holds no image"):
        build_order(cfg, [])
