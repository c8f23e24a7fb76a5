"""Copy-paste: what is pasted, what is covered, and that the mapper's samples agree with their labels."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.copy_paste import CopyPaste, paste_instances
from panoptic_plugin.data.datasets.builtin import register_builtin_datasets
from panoptic_plugin.data.loader import build_train_loader
from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.data.synthesize import SynthesisOptions, synthesize
from panoptic_plugin.errors import ConfigError


def _two_images():
    image, ids = np.zeros((4, 5, 3), np.uint8), np.full((4, 5), 1)
    ids[0, 0] = 7  # an object that the paste covers
    donor_image, donor_ids = np.full((6, 3, 3), 200, np.uint8), np.zeros((6, 3), int)
    donor_ids[:2, :2] = 9
    donor_ids[5, :] = 8  # below the image
    segments = [{"id": 1, "category_id": 0}, {"id": 7, "category_id": 11}]
    chosen = [{"id": 9, "category_id": 13}, {"id": 8, "category_id": 11}]
    return image, ids, segments, donor_image, donor_ids, chosen


def test_pastes_pixels_ids_and_segments():
    image, ids, segments, donor_image, donor_ids, chosen = _two_images()
    new_image, new_ids, new_segments = paste_instances(image, ids, segments, donor_image, donor_ids, chosen)
    assert new_segments[:2] == segments
    assert new_segments[2:] == [{"id": 2, "category_id": 13, "iscrowd": 0, "area": 4, "bbox": [0, 0, 2, 2]}]
    pasted = new_ids == 2
    assert pasted.sum() == 4 and pasted[:2, :2].all()
    assert (new_image[pasted] == 200).all() and (new_image[~pasted] == 0).all()
    assert 7 not in new_ids and (new_ids[~pasted] == 1).all()


def test_changes_none_of_its_arguments():
    arguments = _two_images()
    before = [np.copy(value) if isinstance(value, np.ndarray) else list(value) for value in arguments]
    paste_instances(*arguments)
    for value, old in zip(arguments, before, strict=True):
        assert np.array_equal(value, old) if isinstance(value, np.ndarray) else value == old


def test_chooses_objects_but_neither_stuff_nor_crowds():
    np.random.seed(0)
    policy = CopyPaste(probability=1.0, records=[{}], thing_ids={11})
    segments = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 11, "iscrowd": 1}]
    objects = [{"id": number, "category_id": 11, "iscrowd": 0} for number in range(3, 43)]
    chosen = policy.choose([*segments, *objects])
    assert {segment["id"] for segment in chosen} < set(range(3, 43)) and len(chosen) > 5


@pytest.fixture
def scenes(tmp_path):
    synthesize(tmp_path, SynthesisOptions(num_train=4, num_val=1, height=48, width=96))
    register_builtin_datasets(str(tmp_path))
    yield
    register_builtin_datasets()


def _config(probability: float):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("cityscapes_fine_panoptic_train",)
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.COPY_PASTE_PROB = probability
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def test_mapper_adds_centers_where_objects_were_pasted(scenes):
    records = DatasetCatalog.get("cityscapes_fine_panoptic_train")
    plain = PanopticMapper(_config(0.0), is_train=True, records=records)
    pasting = PanopticMapper(_config(1.0), is_train=True, records=records)
    pasting.augmentations = plain.augmentations = lambda aug_input: None
    changed = 0
    for seed, record in enumerate(records * 3):
        np.random.seed(seed)
        before, after = plain(record), pasting(record)
        new = (before["image"] != after["image"]).any(dim=0)
        changed += int(new.any())
        # Whatever was pasted is an object: it has a class among Cityscapes' things and an offset to its center.
        assert (after["sem_seg"][new] >= 11).all() and (after["offset_weights"][0][new] == 1).all()
    assert changed >= 3


def test_loader_pastes_only_where_the_config_says_so(scenes):
    assert next(iter(build_train_loader(_config(1.0))))[0]["center"].ndim == 2
    assert PanopticMapper(_config(0.0), is_train=True, records=[{}]).copy_paste is None
    with pytest.raises(ConfigError, match="COPY_PASTE_PROB is 1.5"):
        PanopticMapper(_config(1.5), is_train=True)
