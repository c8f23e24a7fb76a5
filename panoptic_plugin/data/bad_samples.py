"""Samples that cannot be read, in training: the end of it, or counted, listed and limited.

``DATASETS.ON_BAD_SAMPLE`` "raise" lets the error pass. With "skip" each bad sample is written to
``OUTPUT_DIR/bad_samples.txt``, which all processes and workers share, and another sample takes its place; more than
``DATASETS.MAX_BAD_SHARE`` of the dataset ends the training.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

from panoptic_plugin.data.seeding import seeded
from panoptic_plugin.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

FILE_NAME = "bad_samples.txt"
RAISE, SKIP = "raise", "skip"
NUM_SPARES = 64


class SkippingMapper:
    """A mapper that answers a sample which cannot be read with another one.

    Args:
        mapper: raises DatasetError for a bad sample.
        spares: samples that may take its place.
        log_path: the file that lists bad samples, one a line: image, then the reason.
        max_bad: so many different images may be bad.
        num_samples: images of the dataset, for the message.
    """

    def __init__(
        self,
        mapper: Callable[[dict[str, Any]], Any],
        spares: Sequence[dict[str, Any]],
        *,
        log_path: str,
        max_bad: int,
        num_samples: int,
    ):
        self._mapper = mapper
        self._spares = list(spares)
        self._log_path = log_path
        self._max_bad = max_bad
        self._num_samples = num_samples
        self._bad: set[str] = set()

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        """The sample, or another one.

        Raises:
            DatasetError: too many samples are bad.
        """
        # What takes its place must not depend on which samples this process has found bad before, nor on how far the
        # mapper came: resumed or not, with any number of workers, a training sees the same.
        seed = random.getrandbits(32)
        sample = self._try(dataset_dict)
        for attempt, spare in enumerate(random.Random(seed).sample(self._spares, len(self._spares))):
            if sample is not None:
                return sample
            with seeded(seed, attempt):
                sample = self._try(spare)
        if sample is None:
            raise DatasetError(f"no sample can be read; {self._log_path} lists the reasons")
        return sample

    def _try(self, dataset_dict: dict[str, Any]) -> Any:
        name = dataset_dict["file_name"]
        if name in self._bad:
            return None
        try:
            sample = self._mapper(dataset_dict)
        except DatasetError as error:
            self._bad.add(name)
            self._note(name, error)
            return None
        return sample

    def _note(self, name: str, error: DatasetError) -> None:
        """List the sample where no other process has; stop where there are too many."""
        listed = read_bad_samples(self._log_path)
        if name not in listed:
            with open(self._log_path, "a", encoding="utf-8") as file:
                file.write(f"{name}\t{' '.join(str(error).split())}\n")
            listed[name] = str(error)
            logger.warning(
                "Bad sample %d of at most %d is left out (DATASETS.ON_BAD_SAMPLE skip): %s",
                len(listed),
                self._max_bad,
                error,
            )
        if len(listed) > self._max_bad:
            raise DatasetError(
                f"{len(listed)} of {self._num_samples} samples cannot be read, more than DATASETS.MAX_BAD_SHARE allows "
                f"({self._max_bad}); {self._log_path} lists them. The last is: {error}"
            ) from error


def read_bad_samples(path: str) -> dict[str, str]:
    """Image -> reason, as listed so far."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n").split("\t", 1) for line in file]
    return {line[0]: line[-1] for line in lines}


def with_policy(
    mapper: Callable[[dict[str, Any]], Any], records: Sequence[dict[str, Any]], cfg, *, is_main: bool = True
) -> Callable[[dict[str, Any]], Any]:
    """The mapper under ``DATASETS.ON_BAD_SAMPLE``.

    Args:
        mapper: raises DatasetError for a bad sample.
        records: the dataset.
        is_main: this process empties the list of an earlier training.

    Raises:
        ConfigError: a policy or share that cannot be.
    """
    policy, share = cfg.DATASETS.ON_BAD_SAMPLE, cfg.DATASETS.MAX_BAD_SHARE
    if policy not in (RAISE, SKIP):
        raise ConfigError(f"DATASETS.ON_BAD_SAMPLE is {policy!r}, expected {RAISE!r} or {SKIP!r}")
    if not 0 <= share <= 1:
        raise ConfigError(f"DATASETS.MAX_BAD_SHARE is {share}, expected a share between 0 and 1")
    if policy == RAISE or not records:
        return mapper
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    path = os.path.join(cfg.OUTPUT_DIR, FILE_NAME)
    if is_main and os.path.exists(path):
        os.remove(path)
    spares = records[:: max(1, len(records) // NUM_SPARES)][:NUM_SPARES]
    return SkippingMapper(mapper, spares, log_path=path, max_bad=int(share * len(records)), num_samples=len(records))
