"""Samples depend on the seed and their position alone, not on workers or on what was made before."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from panoptic_plugin.data.bad_samples import SkippingMapper
from panoptic_plugin.data.resumable import ResumableLoader
from panoptic_plugin.data.sampling import PositionBatchSampler, shuffled
from panoptic_plugin.data.seeding import seeded
from panoptic_plugin.errors import DatasetError

RECORDS = [{"file_name": f"{number}.png", "image_id": number} for number in range(7)]


def draw(record):
    """A sample that shows which random numbers its mapper saw."""
    return record["image_id"], random.random(), np.random.rand(), torch.rand(()).item()


def loader(mapper=draw, *, seed=5, workers=0, records=RECORDS):
    return ResumableLoader(
        records, mapper, lambda s: PositionBatchSampler(shuffled(len(records), s), 2), seed=seed, num_workers=workers
    )


def first(loader, count: int, start: int = 0) -> list:
    loader.start_at(start)
    return list(itertools.islice(loader, count))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_start_and_any_number_of_workers_give_the_same_samples(workers):
    straight = first(loader(), 12)
    assert first(loader(workers=workers), 7, start=5) == straight[5:]
    assert len({sample for batch in straight for sample in batch}) == 24


def test_the_training_draws_as_if_no_sample_were_made():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first(loader(), 3)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_other_seeds_give_other_samples_and_orders():
    assert first(loader(seed=6), 3) != first(loader(), 3)


def refuse_odd(record):
    return None if record["image_id"] % 2 else draw(record)


def test_another_image_takes_the_place_of_one_without_anything():
    images = [sample[0] for batch in first(loader(refuse_odd), 20) for sample in batch]
    assert not any(image % 2 for image in images) and len(images) == 40
    assert first(loader(refuse_odd, workers=2), 4, start=9) == first(loader(refuse_odd), 13)[9:]


def test_a_mapper_that_refuses_all_is_an_error():
    with pytest.raises(DatasetError, match="100 samples in a row"):
        first(loader(lambda record: None), 1)


def damaged(record):
    random.random()  # the mapper comes some way before it fails
    if record["image_id"] in (1, 4):
        raise DatasetError(f"{record['file_name']} is damaged")
    return draw(record)


def skipping(folder):
    folder.mkdir()
    return SkippingMapper(damaged, RECORDS, log_path=str(folder / "bad.txt"), max_bad=7, num_samples=7)


def test_bad_samples_are_replaced_alike_whatever_was_met_before(tmp_path):
    straight = first(loader(skipping(tmp_path / "a")), 14)
    assert first(loader(skipping(tmp_path / "b")), 5, start=9) == straight[9:]
    assert first(loader(skipping(tmp_path / "c"), workers=2), 5, start=9) == straight[9:]
    assert {sample[0] for batch in straight for sample in batch} == {0, 2, 3, 5, 6}


def test_state_goes_from_run_to_run():
    before = loader(seed=9)
    after = loader(seed=1)
    assert after.load_state_dict(before.state_dict()) == [] and first(after, 3) == first(before, 3)
    assert "7 before" in loader(records=RECORDS[:6]).load_state_dict(before.state_dict())[0]
    others = [{"file_name": record["file_name"], "image_id": f"x{number}"} for number, record in enumerate(RECORDS)]
    assert loader(records=others).load_state_dict(before.state_dict()) == ["the dataset has other images now"]


def test_seeded_is_a_function_of_all_its_numbers():
    def numbers(*seed):
        with seeded(*seed):
            return draw({"image_id": 0})

    found = {numbers(*seed) for seed in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 1 << 40)]}
    assert len(found) == 5 and numbers(1, 2) == numbers(1, 2)
