"""Data loaders over Detectron2's, with our mapper."""

from __future__ import annotations

from typing import Any

from detectron2.data import (
    DatasetFromList,
    MapDataset,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import InferenceSampler
from detectron2.utils.comm import get_world_size, is_main_process
from torch.utils.data import DataLoader

from panoptic_plugin.data.bad_samples import RAISE, with_policy
from panoptic_plugin.data.catalog import check_dataset_names
from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.errors import ConfigError


def build_train_loader(cfg) -> Any:
    """Endless batches (lists of samples) of ``DATASETS.TRAIN`` for this process.

    The order and the augmentations follow the random state at the start of the iteration, so they repeat with
    ``SEED``; the workers are seeded one by one from it.

    Raises:
        ConfigError: an unknown dataset or target generator, or a batch that does not split over the processes.
        DatasetError: the dataset cannot be read. Later a sample that cannot be, or too many of them, according to
            ``DATASETS.ON_BAD_SAMPLE``.
    """
    check_dataset_names(cfg)
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty; name the dataset to train on")
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, get_world_size()
    if batch < processes or batch % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch}, which does not split over {processes} processes; "
            f"use a multiple of {processes}"
        )
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    # As one block of bytes, which worker processes share.
    donors = DatasetFromList(records, copy=False) if cfg.INPUT.COPY_PASTE_PROB else None
    mapper = PanopticMapper(cfg, is_train=True, records=donors)
    if cfg.DATASETS.ON_BAD_SAMPLE != RAISE:
        mapper = with_policy(mapper, records, cfg, is_main=is_main_process())
    return build_detection_train_loader(cfg, mapper=mapper, dataset=records)


def build_test_loader(cfg, dataset_name: str) -> DataLoader:
    """This process's part of a dataset, in order, each image once, ``TEST.BATCH_SIZE`` at a time.

    Put together here from Detectron2's parts, because ``build_detection_test_loader`` of 0.6 has no batch size.
    """
    if cfg.TEST.BATCH_SIZE < 1:
        raise ConfigError(f"TEST.BATCH_SIZE is {cfg.TEST.BATCH_SIZE}, expected 1 or more")
    records = get_detection_dataset_dicts([dataset_name], filter_empty=False)
    dataset = MapDataset(DatasetFromList(records, copy=False), PanopticMapper(cfg, is_train=False))
    return DataLoader(
        dataset,
        batch_size=cfg.TEST.BATCH_SIZE,
        sampler=InferenceSampler(len(dataset)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
    )
