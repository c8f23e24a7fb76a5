"""A training loader that can start at any iteration, with the same images and augmentations as if it had come there.

The random numbers of a sample's augmentations depend on the seed and on the sample's position in the training alone:
not on the worker that makes it, on how many there are, or on what was made before.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import torch
from detectron2.data.build import trivial_batch_collator
from torch.utils.data import DataLoader, Dataset

from panoptic_plugin.data.sampling import PositionBatchSampler
from panoptic_plugin.data.seeding import seeded
from panoptic_plugin.errors import DatasetError

# A mapper that finds nothing to train on in so many samples in a row will not find anything.
MAX_ATTEMPTS = 100


class ResumableLoader:
    """Endless batches (lists of samples) of this process.

    Args:
        records: Detectron2 dataset dicts, best as DatasetFromList, whose memory the workers share.
        mapper: makes a sample of a record, or None where there is nothing to train on; another takes its place then.
        make_sampler: of a seed, the batches by position and image.
        seed: of the order and the augmentations.
        num_workers: processes that make samples; 0 makes them in this one.
        pin_memory: copy batches to memory from which a GPU can fetch them while it computes.

    Attributes:
        seed: of the run's data, see :meth:`state_dict`.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], Any],
        make_sampler: Callable[[int], PositionBatchSampler],
        *,
        seed: int,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.records = records
        self.mapper = mapper
        self.seed = seed
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._make_sampler = make_sampler
        self._fingerprint = ""
        self._start_iteration = 0

    def start_at(self, iteration: int) -> None:
        """Let the next iterator begin with the batch of ``iteration``."""
        self._start_iteration = iteration

    def __iter__(self) -> Iterator[list[Any]]:
        sampler = self._make_sampler(self.seed)
        sampler.start_iteration = self._start_iteration
        loader = DataLoader(
            _SeededDataset(self.records, self.mapper, self.seed),
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=trivial_batch_collator,
            worker_init_fn=_set_up_worker,
            pin_memory=self.pin_memory,
            # The workers' own seeds matter to nobody; without a generator they would be drawn from the training's.
            generator=torch.Generator(),
        )
        return iter(loader)

    def state_dict(self) -> dict[str, Any]:
        """What fixes the order: seed, number of images, and a hash of their names."""
        return {"seed": self.seed, "num_images": len(self.records), "images": self._hash_of_names()}

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Take the seed of an earlier run; returns what else has changed since, in words."""
        self.seed = int(state["seed"])
        changes = []
        if state["num_images"] != len(self.records):
            changes.append(f"the dataset has {len(self.records):,} images now, {state['num_images']:,} before")
        elif state["images"] != self._hash_of_names():
            changes.append("the dataset has other images now")
        return changes

    def _hash_of_names(self) -> str:
        if not self._fingerprint:
            digest = hashlib.sha256()
            for record in self.records:
                digest.update(str(record.get("image_id", record["file_name"])).encode() + b"\n")
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint


class _SeededDataset(Dataset):
    """Samples by (position, image)."""

    def __init__(self, records, mapper, seed: int) -> None:
        self.records, self.mapper, self.seed = records, mapper, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        position, image = place
        with seeded(self.seed, position):
            for _ in range(MAX_ATTEMPTS):
                sample = self.mapper(self.records[image])
                if sample is not None:
                    return sample
                image = random.randrange(len(self.records))
        raise DatasetError(
            f"none of {MAX_ATTEMPTS} samples in a row holds anything to train on; look at the dataset with "
            "'panoptic data validate'"
        )


def _set_up_worker(worker: int) -> None:
    # One thread a worker: the workers share the cores already.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
