"""Validation at the start of a training, what is remembered of it, and bad samples in the middle."""

from __future__ import annotations

import json
import logging
import os

import pytest
from dataset_faults import FAULTS, PanopticFolder, cut, flip_byte, put

from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.catalog import register_panoptic_dataset
from panoptic_plugin.data.loader import build_train_loader
from panoptic_plugin.data.validate.cache import FILE_NAME, ValidationCache
from panoptic_plugin.data.validate.training import check_before_training
from panoptic_plugin.errors import ConfigError, DatasetError


@pytest.fixture
def data(tmp_path):
    return PanopticFolder(tmp_path / "set", range(1, 9))


@pytest.fixture
def cfg(data, tmp_path):
    register(data, "checked")
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("checked",), ()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.ENABLED = (12,), False
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.ASPECT_RATIO_GROUPING = 0, False
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


def register(data, name):
    paths = {"image_root": str(data.images), "panoptic_json": str(data.json), "panoptic_root": str(data.labels)}
    register_panoptic_dataset(name, **paths)


def test_clean_sets_are_looked_at_once(cfg, data):
    assert [len(report.inspections) for report in check_before_training(cfg)] == [8]
    assert check_before_training(cfg) == []
    os.utime(data.labels / "3.png", (1, 1))
    assert len(check_before_training(cfg)) == 1
    assert check_before_training(cfg) == []
    cfg.DATASETS.VALIDATE = "full"
    assert len(check_before_training(cfg)) == 1


def test_faults_end_it_with_a_name_and_are_not_remembered(cfg, data, caplog):
    cut(data.labels / "3.png")
    for _ in range(2):
        with (
            caplog.at_level(logging.ERROR, "panoptic_plugin"),
            pytest.raises(DatasetError, match=r"'checked' has 1 errors; the first is truncated in .*3\.png"),
        ):
            check_before_training(cfg)
    assert "What to do" in caplog.text
    cfg.DATASETS.VALIDATE = "off"
    assert check_before_training(cfg) == []


def test_how_thorough(cfg, data):
    flip_byte(data.labels / "3.png")
    assert check_before_training(cfg)[0].num_errors == 0  # fast
    cfg.DATASETS.VALIDATE = "full"
    with pytest.raises(DatasetError, match="crc-error"):
        check_before_training(cfg)
    cfg.DATASETS.VALIDATE = "thorough"
    with pytest.raises(ConfigError, match="DATASETS.VALIDATE is 'thorough', expected 'full', 'fast', 'off'"):
        check_before_training(cfg)


def test_training_on_what_is_tested_is_a_warning(cfg, data, tmp_path, caplog):
    other = PanopticFolder(tmp_path / "other", range(1, 3), seed=1)
    (other.images / "2.png").write_bytes((data.images / "4.png").read_bytes())
    register(other, "tested")
    cfg.DATASETS.TEST = ("tested",)
    with caplog.at_level(logging.WARNING, "panoptic_plugin"):
        reports = check_before_training(cfg)
    assert [report.num_errors for report in reports] == [0, 0] and "split-overlap" in caplog.text


def test_an_unreadable_cache_is_an_empty_one(cfg, tmp_path, caplog):
    path = tmp_path / "output" / FILE_NAME
    path.parent.mkdir()
    path.write_text("[1,")
    assert len(check_before_training(cfg)) == 1
    assert json.loads(path.read_text())
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "panoptic_plugin"):
        ValidationCache(str(tmp_path / "file" / "cache.json")).add("digest", "clean")
    assert "validated again" in caplog.text


def test_sets_that_are_not_there_are_left_to_their_loaders(cfg, data):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cityscapes_fine_sem_seg_val",), ("cityscapes_fine_panoptic_val",)
    assert check_before_training(cfg) == []


def batches(cfg, number):
    iterator = iter(build_train_loader(cfg))
    return [sample["image_id"] for _ in range(number) for sample in next(iterator)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_fatal_with_its_name(cfg, data, workers):
    flip_byte(data.labels / "3.png")
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(DatasetError, match=r"labels/3\.png cannot be decoded \(checksum"):
        batches(cfg, 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_samples_are_counted_listed_and_limited(cfg, data, workers):
    cut(data.labels / "3.png")
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATASETS.ON_BAD_SAMPLE, cfg.DATASETS.MAX_BAD_SHARE = "skip", 0.2
    seen = batches(cfg, 16)
    assert set(seen) == {1, 2, 4, 5, 6, 7, 8} and len(seen) == 32
    listed = os.path.join(cfg.OUTPUT_DIR, "bad_samples.txt")
    with open(listed) as file:
        lines = file.read().splitlines()
    assert {line.split("\t")[0] for line in lines} == {str(data.images / "3.jpg")} and "3.png" in lines[0]
    assert {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()} == before
    flip_byte(data.labels / "5.png")
    with pytest.raises(DatasetError, match=r"2 of 8 samples cannot be read.*MAX_BAD_SHARE allows \(1\)"):
        batches(cfg, 16)


def test_nothing_left_to_train_on(cfg, data):
    for path in data.labels.iterdir():
        path.write_bytes(b"")
    cfg.DATASETS.ON_BAD_SAMPLE, cfg.DATASETS.MAX_BAD_SHARE = "skip", 1.0
    with pytest.raises(DatasetError, match="no sample can be read"):
        batches(cfg, 1)


def test_unknown_policies(cfg):
    cfg.DATASETS.ON_BAD_SAMPLE = "ignore"
    with pytest.raises(ConfigError, match="ON_BAD_SAMPLE is 'ignore', expected 'raise' or 'skip'"):
        build_train_loader(cfg)
    cfg.DATASETS.ON_BAD_SAMPLE, cfg.DATASETS.MAX_BAD_SHARE = "skip", 3
    with pytest.raises(ConfigError, match="MAX_BAD_SHARE is 3"):
        build_train_loader(cfg)


@pytest.mark.parametrize("folder, name", [("images", "2.png"), ("labels", "2.png"), ("images", "1.jpg")])
def test_the_pixel_budget_holds_in_training(cfg, data, folder, name):
    cfg.INPUT.MAX_IMAGE_PIXELS = 239
    with pytest.raises(DatasetError, match=r"too large \(12x20 pixels\).*INPUT.MAX_IMAGE_PIXELS"):
        batches(cfg, 1)


@pytest.mark.parametrize("fault", ["path-outside", "path-outside (absolute)", "path-outside (link)"])
def test_paths_of_the_json_stay_inside(cfg, data, fault):
    assert fault in FAULTS
    put(data, fault)
    with pytest.raises(DatasetError, match=r"expected a path inside|leads out of"):
        build_train_loader(cfg)
