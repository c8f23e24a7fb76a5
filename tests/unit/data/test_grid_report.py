"""What `panoptic data grids` counts: by hand, and against the targets that SOLOv2 is trained with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from panoptic_sets import write_set

from panoptic_plugin.cli.data import main
from panoptic_plugin.data.grid_objects import GridObjects, read_objects
from panoptic_plugin.data.grid_report import (
    GridRule,
    best_choice,
    compare_choices,
    count_grids,
    ranges_of,
)
from panoptic_plugin.data.panoptic_json import load_records, metadata_from_categories, read_categories
from panoptic_plugin.layers.solo_grid import center_cells, levels_of
from panoptic_plugin.systems.efficientps.solov2_targets import object_geometry, solov2_targets

RULE = GridRule(levels_of, center_cells)
THING, STUFF = 7, 3


def objects_of(*images: list[tuple[float, float, float, float]], size=(64, 64)) -> GridObjects:
    """From (y, x, height, width) of each image's objects."""
    rows = [row for image in images for row in image]
    table = torch.tensor(rows, dtype=torch.float64).view(-1, 4)
    counts = [len(image) for image in images]
    return GridObjects(
        images=np.repeat(np.arange(len(images)), counts),
        centers_yx=table[:, :2],
        sizes=table[:, 2:],
        padded=np.tile(np.array(size), (len(rows), 1)),
        num_images=len(images),
        num_vanished=0,
    )


def count(objects, num_grids=(8, 4), scale_ranges=((1, 16), (12, 40)), sigma=0.2):
    return count_grids(objects, RULE, num_grids=num_grids, scale_ranges=scale_ranges, sigma=sigma)


def test_objects_by_hand():
    """Cells of 8 and 16 pixels; scales 8, 14, 14, 50, 0.5; the third object takes the only cell of the first."""
    small, both, over, large, tiny = (
        (4, 4, 8, 8),
        (28, 28, 14, 14),
        (4, 4, 14, 14),
        (30, 30, 50, 50),
        (60, 60, 0.5, 0.5),
    )
    found = count(objects_of([small, both, over, large, tiny], [small]))
    assert (found.instances, found.smaller, found.between, found.larger) == (6, 1, 0, 1)
    assert found.by_levels == [2, 2, 2]
    first, second = found.levels
    assert (first.instances, first.cells, first.used_cells, first.shared_cells, first.covered) == (4, 4, 3, 1, 1)
    assert (second.instances, second.cells, second.shared_cells, second.covered) == (2, 2, 0, 0)
    assert found.by_cells == [2, 2, 2]  # none for the two outside; one for the small ones; one a level for the others
    assert (found.covered, found.lost, found.share(found.lost)) == (1, 3, 0.5)


def test_an_object_that_is_covered_at_one_level_can_be_learned_at_another():
    under, over = (8, 8, 14, 14), (8, 8, 10, 10)
    found = count(objects_of([under, over]))
    assert found.levels[0].covered == 1 and found.covered == 0


def test_gaps_between_ranges_are_counted():
    found = count(objects_of([(8, 8, 20, 20)]), scale_ranges=((1, 16), (24, 40)))
    assert (found.smaller, found.between, found.larger) == (0, 1, 0)


def test_nothing_at_all():
    found = count(objects_of([], []))
    assert (found.instances, found.lost, found.share(0)) == (0, 0, 0.0)
    assert best_choice(compare_choices(objects_of([]), RULE, num_grids=[8], scale_ranges=[[1, 9]], sigma=0.2))


def random_maps(number: int) -> list[tuple[np.ndarray, dict]]:
    """Images of two sizes with overlapping boxes as objects, a crowd, and stuff."""
    rng = np.random.default_rng(number)
    maps = []
    for index in range(number):
        height, width = ((96, 160), (64, 64))[index % 2]
        ids = np.full((height, width), 900, dtype=np.int32)
        segments = {900: (STUFF, 0)}
        for one in range(1, 26):
            y, x, tall, wide = rng.integers((0, 0, 1, 1), (height - 4, width - 4, 40, 40))
            ids[y : y + tall, x : x + wide] = one
            segments[one] = (THING, int(one == 5))
        maps.append((ids, segments))
    return maps


@pytest.fixture
def dataset(tmp_path):
    path = write_set(tmp_path, random_maps(6))
    metadata = metadata_from_categories(read_categories(str(path)))
    records = load_records(str(path), str(tmp_path / "images"), str(tmp_path / "panoptic"), metadata)
    return records, set(metadata["thing_dataset_id_to_contiguous_id"].values())


@pytest.mark.parametrize("edges", [(0, 0), (48, 100)])
def test_cells_are_those_of_the_training(dataset, edges):
    """The same pairs of object and cell as in the targets, and the same objects that nothing is left of."""
    records, thing_ids = dataset
    grids, ranges = [12, 8, 4], [[1, 24], [12, 48], [24, 96]]
    indices = []

    def geometry(index, number):
        indices.append((index, number))
        return object_geometry(index, number)

    objects = read_objects(records, thing_ids, edges=edges, pad_to=16, geometry=geometry, num_workers=1)
    found = count_grids(objects, RULE, num_grids=grids, scale_ranges=ranges, sigma=0.2)
    pairs = covered = 0
    for index, number in indices:
        height, width = index.shape
        padded = torch.nn.functional.pad(index, (0, -width % 16, 0, -height % 16))
        targets = solov2_targets(
            padded, torch.arange(number), num_classes=number, num_grids=grids, scale_ranges=ranges, sigma=0.2
        )
        pairs += len(targets.cells)
        learned = set(targets.categories.unique().tolist()) - {number}
        covered += len(set(targets.objects.tolist()) - learned)
    assert sum(level.cells for level in found.levels) == pairs > 100
    assert found.covered == covered > 0
    assert sum(number * times for number, times in enumerate(found.by_cells)) == pairs
    assert sum(found.by_levels) == sum(found.by_cells) == found.instances
    segments = [one for record in records for one in record["segments_info"] if not one["iscrowd"]]
    listed = sum(one["category_id"] in thing_ids for one in segments)
    assert found.instances + objects.num_vanished == listed


def test_threads_change_nothing(dataset):
    records, thing_ids = dataset
    one, four = (
        read_objects(records, thing_ids, edges=(40, 90), pad_to=32, geometry=object_geometry, num_workers=number)
        for number in (1, 4)
    )
    assert torch.equal(one.centers_yx, four.centers_yx) and np.array_equal(one.images, four.images)


def test_published_ranges_are_those_of_their_units():
    assert ranges_of(48, 5, 10) == ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    assert ranges_of(28, 5, 10) == ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896))
    assert ranges_of(28, 5, 1000.5)[-1] == (224, 1001)


def test_finer_grids_are_suggested_where_they_pay():
    """800 x 800 pixels full of objects of 10 pixels every 12: coarse cells of 20 and 22 pixels hold several."""
    crowd = [(float(y), float(x), 10.0, 10.0) for y in range(6, 800, 12) for x in range(6, 800, 12)]
    arguments = {"num_grids": [40, 36, 24, 16, 12], "scale_ranges": ranges_of(48, 5, 10), "sigma": 0.2}
    dense = best_choice(compare_choices(objects_of(crowd, size=(800, 800)), RULE, **arguments))
    assert dense.num_grids == (80, 72, 48, 32, 24) and dense.num_cells == 15488
    sparse = best_choice(compare_choices(objects_of(crowd[::40], size=(800, 800)), RULE, **arguments))
    assert sparse.num_grids == (40, 36, 24, 16, 12) and sparse.num_cells == 3872


def test_ranges_that_hold_the_objects_are_suggested():
    objects = objects_of([(400.0, 400.0, 1200.0, 1200.0)], size=(1600, 1600))
    arguments = {"num_grids": [40, 36, 24, 16, 12], "scale_ranges": ranges_of(28, 5, 10), "sigma": 0.2}
    chosen = best_choice(compare_choices(objects, RULE, **arguments))
    assert chosen.scale_ranges == ranges_of(48, 5, 10) and chosen.count.lost == 0


@pytest.fixture
def config(tmp_path, dataset):
    custom = {"NAME": "grids_set", "IMAGE_ROOT": str(tmp_path / "images"), "PANOPTIC_ROOT": str(tmp_path / "panoptic"),
              "PANOPTIC_JSON": str(tmp_path / "panoptic.json")}  # fmt: skip
    solo = {"NUM_GRIDS": [8, 4], "SCALE_RANGES": [[1, 20], [10, 60]], "MAX_PER_IMG": 9}
    content = {
        "DATASETS": {"CUSTOM": [custom], "TRAIN": ["grids_set"]},
        "INPUT": {"MIN_SIZE_TEST": 48, "MAX_SIZE_TEST": 100},
        "MODEL": {"SOLOV2": solo},
        "VERSION": 2,
    }
    path = tmp_path / "grids.yaml"
    path.write_text(yaml.safe_dump(content))
    yield str(path)
    if "grids_set" in DatasetCatalog.list():
        DatasetCatalog.remove("grids_set")
        MetadataCatalog.remove("grids_set")


def test_the_command_prints_tables_and_writes_json(config, tmp_path, capsys):
    assert main(["grids", "--config-file", config, "--json", str(tmp_path / "grids.json")]) == 0
    text = capsys.readouterr().out
    assert "grids_set: 6 images, resized to 48x100" in text and "10 to 60" in text
    assert "not learned, both together" in text and "suggestion" in text and "MAX_PER_IMG 9: 6" in text
    (report,) = json.loads((tmp_path / "grids.json").read_text())
    assert report["images"] == 6 and [level["num_grid"] for level in report["levels"]] == [8, 4]
    assert report["lost"] == report["outside"] + report["covered"]


def test_the_command_line_wins_over_the_config(config, capsys):
    words = ["--size", "0", "0", "--grids", "16", "--ranges", "1,500", "--max-images", "2", "--json", "-"]
    assert main(["grids", "grids_set", "--config-file", config, *words]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["images"] == 2 and report["edges"] == [0, 0] and report["num_grids"] == [16]
    assert report["outside"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no dataset: give the NAME"),
        (["nowhere"], "there is no dataset 'nowhere'"),
        (["x", "--grids", "4"], "1 grids [4] and 5 scale ranges; give as many of both"),
        (["x", "--grids", "4", "--ranges", "9"], "--ranges has '9', expected LOW,HIGH"),
        (["x", "--grids", "4", "--ranges", "9,3"], "a low scale and then a higher one"),
        (["x", "--grids", "0", "--ranges", "1,3"], "grids of 1 or more"),
        (["x", "--size", "512", "100"], "the size is 512 100"),
        (["x", "--max-images", "0"], "--max-images is 0, expected 1 or more"),
    ],
)
def test_mistakes_are_explained_in_a_line(words, message, capsys):
    assert main(["grids", *words]) == 2
    found = capsys.readouterr().err
    assert message in found and found.count("\n") == 1
