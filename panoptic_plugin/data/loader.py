"""Data loaders over Detectron2's, with our mapper."""

from __future__ import annotations

import torch
from detectron2.data import (
    DatasetFromList,
    MapDataset,
    get_detection_dataset_dicts,
)
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import InferenceSampler
from detectron2.utils.comm import get_rank, get_world_size, is_main_process, shared_random_seed
from torch.utils.data import DataLoader

from panoptic_plugin.data.bad_samples import RAISE, with_policy
from panoptic_plugin.data.catalog import check_dataset_names
from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.data.resumable import ResumableLoader
from panoptic_plugin.data.sampling import PositionBatchSampler, build_order
from panoptic_plugin.errors import ConfigError


def build_train_loader(cfg) -> ResumableLoader:
    """Endless batches (lists of samples) of ``DATASETS.TRAIN`` for this process.

    The order and the augmentations depend on ``SEED`` and the number of the iteration alone, so that a resumed
    training sees what it would have seen; see :mod:`panoptic_plugin.data.sampling`. Images wider than high and others
    do not share a batch where ``DATALOADER.ASPECT_RATIO_GROUPING`` is on.

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
    if cfg.DATALOADER.NUM_WORKERS < 0:
        raise ConfigError(f"DATALOADER.NUM_WORKERS is {cfg.DATALOADER.NUM_WORKERS}, expected 0 or more processes")
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    # As one block of bytes, which worker processes share.
    records = DatasetFromList(dicts, copy=False)
    mapper = PanopticMapper(cfg, is_train=True, records=records if cfg.INPUT.COPY_PASTE_PROB else None)
    if cfg.DATASETS.ON_BAD_SAMPLE != RAISE:
        mapper = with_policy(mapper, dicts, cfg, is_main=is_main_process())
    wide = [int(record["width"] > record["height"]) for record in dicts]
    by_shape = cfg.DATALOADER.ASPECT_RATIO_GROUPING and len(set(wide)) > 1
    order = build_order(cfg, dicts)

    def make_sampler(seed: int) -> PositionBatchSampler:
        return PositionBatchSampler(
            order(seed), batch, rank=get_rank(), world_size=processes, groups=wide if by_shape else None
        )

    return ResumableLoader(
        records,
        mapper,
        make_sampler,
        seed=cfg.SEED if cfg.SEED >= 0 else shared_random_seed(),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available(),
    )


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
