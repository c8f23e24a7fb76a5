"""In which order a training sees its images: a fixed function of the seed, so that any place in it can be found again.

The images form one endless sequence, epoch after epoch; the number of an image in it is its *position*. Iteration ``i``
with batches of ``B`` images takes the positions ``i * B .. (i + 1) * B - 1``, whatever the number of processes: process
``r`` of ``W`` takes every ``W``-th of them from the ``r``-th on, as in Detectron2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import Sampler

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

# Number of an epoch -> the images it goes through.
Epochs = Callable[[int], np.ndarray]


def shuffled(num_images: int, seed: int) -> Epochs:
    """Every image once an epoch, in random order."""
    return lambda epoch: _generator(seed, epoch).permutation(num_images)


def shuffled_subset(num_images: int, seed: int, ratio: float) -> Epochs:
    """The same random share of the images in every epoch, in random order."""
    chosen = np.random.default_rng(seed).permutation(num_images)[: max(1, int(num_images * ratio))]
    return lambda epoch: _generator(seed, epoch).permutation(chosen)


def repeated(repeat_factors: Sequence[float], seed: int) -> Epochs:
    """Every image as often an epoch as its factor says, rounded up or down at random; in random order.

    Source: Gupta et al., LVIS (2019), repeat factor sampling.
    """
    factors = np.asarray(repeat_factors, np.float64)

    def epoch_images(epoch: int) -> np.ndarray:
        generator = _generator(seed, epoch)
        times = np.floor(factors + generator.random(len(factors))).astype(np.int64)
        return generator.permutation(np.repeat(np.arange(len(factors)), times))

    return epoch_images


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng((seed, epoch))


def build_order(cfg, records: Sequence[dict[str, Any]]) -> Callable[[int], Epochs]:
    """The order that ``DATALOADER.SAMPLER_TRAIN`` names, as a function of the seed; Detectron2's keys parametrise it.

    Raises:
        ConfigError: an unknown sampler, a share that is none, or no image to train on.
    """
    name, num_images = cfg.DATALOADER.SAMPLER_TRAIN, len(records)
    if not num_images:
        raise ConfigError(f"DATASETS.TRAIN ({', '.join(cfg.DATASETS.TRAIN)}) holds no image to train on")
    if name == "TrainingSampler":
        return lambda seed: shuffled(num_images, seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        if not 0 < ratio <= 1:
            raise ConfigError(f"DATALOADER.RANDOM_SUBSET_RATIO is {ratio}, expected a share above 0, at most 1")
        return lambda seed: shuffled_subset(num_images, seed, ratio)
    if name == "RepeatFactorTrainingSampler":
        # It counts the classes of "annotations", which are the segments here.
        segments = [{"annotations": record.get("segments_info", ())} for record in records]
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            segments, cfg.DATALOADER.REPEAT_THRESHOLD
        ).tolist()
        return lambda seed: repeated(factors, seed)
    known = ["TrainingSampler", "RandomSubsetTrainingSampler", "RepeatFactorTrainingSampler"]
    raise ConfigError(f"DATALOADER.SAMPLER_TRAIN is {name!r}. {suggestion(name, known)}")


class PositionBatchSampler(Sampler):
    """This process's batches, without end: lists of (position, image).

    Args:
        epochs: the order of the images.
        images_per_batch: of all processes together.
        rank: this process.
        world_size: how many there are.
        groups: for each image the group it belongs to; a batch has images of one group only, and positions are then
            taken as they fill the groups up. None: all images are of one group.
    """

    def __init__(
        self,
        epochs: Epochs,
        images_per_batch: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | None = None,
    ) -> None:
        self.epochs = epochs
        self.images_per_batch = images_per_batch
        self.groups = groups
        self.start_iteration = 0
        self._own = slice(rank, None, world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # All processes go through the batches of all, and so agree on them without a word.
        for batch in self._batches():
            yield batch[self._own]

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        if self.groups is None:
            places = self._places(self.start_iteration * self.images_per_batch)
            while True:
                yield list(itertools.islice(places, self.images_per_batch))
        # How groups fill up depends on all images before, so these are gone through again; nothing is read from disk.
        yield from itertools.islice(self._grouped(), self.start_iteration, None)

    def _grouped(self) -> Iterator[list[tuple[int, int]]]:
        assert self.groups is not None
        waiting: dict[int, list[tuple[int, int]]] = {}
        for place in self._places(0):
            batch = waiting.setdefault(self.groups[place[1]], [])
            batch.append(place)
            if len(batch) == self.images_per_batch:
                yield waiting.pop(self.groups[place[1]])

    def _places(self, first: int) -> Iterator[tuple[int, int]]:
        """(position, image) from the position ``first`` on."""
        start = 0
        for epoch in itertools.count():
            images = self.epochs(epoch)
            for offset in range(max(0, first - start), len(images)):
                yield start + offset, int(images[offset])
            start += len(images)
