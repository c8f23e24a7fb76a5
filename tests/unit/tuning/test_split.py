"""The tuning split: whole cities of the training set, and nothing of val or test."""

from __future__ import annotations

import json
import shutil

import pytest
from detectron2.data import DatasetCatalog
from shape_scenes import write_shapes_config

from panoptic_plugin.config import load_config
from panoptic_plugin.data.catalog import register_panoptic_dataset
from panoptic_plugin.errors import ConfigError, DatasetError
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth
from panoptic_plugin.tuning.split import (
    TRAIN_PART,
    TUNING_PART,
    check_overlap,
    choose_groups,
    group_images,
    make_split,
    open_split,
    source_name,
)


@pytest.fixture
def make(tmp_path, request):
    """A function that writes shapes and returns their config; each test has names of its own."""
    prefix = f"split_{request.node.name[5:40].replace('[', '_').replace('val', 'v')}"

    def write(count=8, **changes):
        return load_config(write_shapes_config(tmp_path, prefix, count=count, **changes))

    return write


def test_the_parts_are_whole_cities_and_together_the_training_set(make, tmp_path):
    cfg = make()
    split = make_split(cfg, tmp_path / "split")
    parts = {name: DatasetCatalog.get(name) for name in (split.train, split.tuning)}
    cities = {name: {record["image_id"].split("_")[0] for record in records} for name, records in parts.items()}
    assert not cities[split.train] & cities[split.tuning] and len(cities[split.tuning]) == 1
    assert sum(map(len, parts.values())) == 8
    truth = PanopticGroundTruth(
        panoptic_json=tmp_path / "split" / f"{TUNING_PART}.json",
        panoptic_root=cfg.DATASETS.CUSTOM[0]["PANOPTIC_ROOT"],
        contiguous_ids={1: 0, 2: 1, 3: 2},
    )
    assert truth.image_ids == [record["image_id"] for record in parts[split.tuning]]
    again = open_split(cfg, tmp_path / "split")
    assert again.manifest == split.manifest
    assert list(split.manifest["held_out"]) == [cfg.DATASETS.TEST[0]]


def test_cities_may_be_named(make, tmp_path):
    cfg = make()
    cfg.TUNE.SPLIT.CITIES = ["birch", "dale"]
    split = make_split(cfg, tmp_path / "split")
    assert {one.split("_")[0] for one in split.manifest["image_ids"][TUNING_PART]} == {"birch", "dale"}
    cfg.TUNE.SPLIT.CITIES = ["brich"]
    with pytest.raises(ConfigError, match="birch"):
        make_split(cfg, tmp_path / "split")


def test_one_image_that_is_also_in_val_is_refused_whatever_its_name(make, tmp_path):
    cfg = make()
    train, val = (entry["IMAGE_ROOT"] for entry in cfg.DATASETS.CUSTOM)
    shutil.copyfile(f"{val}/alder_0000.png", f"{train}/cedar_0002.png")
    with pytest.raises(DatasetError, match="1 images of tuning_.* are also in .*first: cedar_0002, there alder_0000"):
        make_split(cfg, tmp_path / "split")


def test_val_of_the_family_counts_even_where_the_config_does_not_name_it(make, tmp_path):
    cfg = make()
    val = cfg.DATASETS.CUSTOM[1]
    register_panoptic_dataset(
        val["NAME"], image_root=val["IMAGE_ROOT"], panoptic_json=val["PANOPTIC_JSON"],
        panoptic_root=val["PANOPTIC_ROOT"],
    )  # fmt: skip
    sibling = cfg.DATASETS.TRAIN[0].replace("train", "val")
    assert sibling == val["NAME"]
    cfg.DATASETS.TEST = ()
    assert list(make_split(cfg, tmp_path / "split").manifest["held_out"]) == [sibling]


def test_a_copy_within_the_training_set_does_not_fall_on_both_sides(make, tmp_path):
    cfg = make()
    images = cfg.DATASETS.CUSTOM[0]["IMAGE_ROOT"]
    shutil.copyfile(f"{images}/alder_0000.png", f"{images}/dale_0003.png")
    split = make_split(cfg, tmp_path / "split")
    ids = [one for part in (TRAIN_PART, TUNING_PART) for one in split.manifest["image_ids"][part]]
    assert "dale_0003" not in ids and len(ids) == 7


@pytest.mark.parametrize("name", ["shapes_val", "val", "coco_2017_val_100_panoptic", "x_test", "mini-dev", "Test_set"])
def test_a_set_for_results_is_refused_by_its_name(name, make):
    cfg = make()
    is_known = name in DatasetCatalog.list()
    cfg.DATASETS.CUSTOM = [] if is_known else [{**cfg.DATASETS.CUSTOM[0], "NAME": name}]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    with pytest.raises(ConfigError, match="results are reported on"):
        source_name(cfg)


def test_training_on_the_test_set_is_refused(make):
    cfg = make()
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    with pytest.raises(ConfigError, match="both name"):
        source_name(cfg)
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ConfigError, match="exactly one"):
        source_name(cfg)


def test_names_that_only_look_alike_are_no_val_sets(make):
    for word in ("valley", "latest", "devices", "evaluate2"):
        cfg = make()
        entry = {**cfg.DATASETS.CUSTOM[0], "NAME": f"{word}_{cfg.DATASETS.TRAIN[0]}"}
        cfg.DATASETS.CUSTOM, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [entry], (entry["NAME"],), ()
        assert source_name(cfg) == entry["NAME"]


def test_images_of_one_city_are_grouped_by_sequence_and_those_of_none_stay_single():
    def records(*ids):
        return [{"image_id": one, "file_name": f"images/{one}.png"} for one in ids]

    assert set(group_images(records("a_1_2", "a_1_3", "b_1_2"))) == {"a", "b"}
    assert set(group_images(records("a_1_2", "a_1_3", "a_2_2"))) == {"a_1", "a_2"}
    assert set(group_images(records("1", "2", "3"))) == {"1", "2", "3"}
    numbered = [{"image_id": 7, "file_name": "x/7.png"}, {"image_id": 8, "file_name": "y/8.png"}]
    assert group_images(numbered) == {"x": ["7"], "y": ["8"]}


def test_groups_are_drawn_until_the_share_is_reached():
    groups = {name: [f"{name}{n}" for n in range(5)] for name in "abcdefgh"}
    chosen = choose_groups(groups, [], 0.3, seed=0)
    assert len(chosen) == 3 and chosen == choose_groups(groups, [], 0.3, seed=0)
    assert len({tuple(choose_groups(groups, [], 0.3, seed=seed)) for seed in range(6)}) > 1
    with pytest.raises(ConfigError, match="all 1 groups"):
        choose_groups({"a": ["1"]}, [], 0.3, seed=0)
    with pytest.raises(ConfigError, match="SHARE"):
        choose_groups(groups, [], 1.0, seed=0)


def test_overlap_between_the_parts_is_an_error():
    with pytest.raises(DatasetError, match="1 images of fit are also in score"):
        check_overlap({"fit": {"a": "1", "b": "2"}, "score": {"c": "2"}}, {})
    check_overlap({"fit": {"a": "1"}, "score": {"c": "2"}}, {"val": {"d": "3"}})


def test_the_manifest_says_what_is_where(make, tmp_path):
    split = make_split(make(), tmp_path / "split")
    content = json.loads((tmp_path / "split" / "split.json").read_text())
    assert content == split.manifest
    assert all(len(value) == 64 for value in content["fingerprints"].values())
