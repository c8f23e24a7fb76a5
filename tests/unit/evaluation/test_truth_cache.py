"""Caches of the ground truth: used for the very data they were made of, never for others, and whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from panoptic_plugin.errors import ConfigError, DatasetError
from panoptic_plugin.evaluation.build import build_evaluator
from panoptic_plugin.evaluation.panoptic_labels import PanopticLabels, use_cache


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(scene_set, **keys):
    """(truth, cache) of the dataset as it lies there now, after its cache was found or made."""
    cfg = scene_set.cfg.clone()
    for key, value in keys.items():
        cfg.TEST[key] = value
    labels = PanopticLabels.of(MetadataCatalog.get(scene_set.name))
    use_cache(cfg, labels, scene_set.name)
    if labels.truth.cache is not None:
        labels.truth.cache.open()
    return labels.truth, labels.truth.cache


def json_of(scene_set):
    return Path(MetadataCatalog.get(scene_set.name).panoptic_json)


def label_of(scene_set, number=0):
    return Path(MetadataCatalog.get(scene_set.name).panoptic_root) / f"{number:03d}.png"


def change_json(scene_set, change):
    content = json.loads(json_of(scene_set).read_text())
    change(content)
    json_of(scene_set).write_text(json.dumps(content))


def change_pixel(scene_set, number=0):
    """One pixel of an image becomes that of its neighbour."""
    pixels = np.array(Image.open(label_of(scene_set, number)))
    row, column = np.argwhere((pixels[:, 1:] != pixels[:, :-1]).any(axis=2))[0]
    pixels[row, column] = pixels[row, column + 1]
    Image.fromarray(pixels).save(label_of(scene_set, number))


def caches(root):
    return sorted(root.glob("*/*/manifest.json"))


def test_a_second_run_converts_nothing_and_reads_the_same(scene_set):
    truth, first = opened(scene_set)
    again, second = opened(scene_set)
    assert first.conversions == len(truth.image_ids) and second.conversions == 0
    for image_id in truth.image_ids:
        expected, found = truth.read(image_id), again.load(image_id)
        assert np.array_equal(found.numbers, expected.numbers) and found.numbers.dtype == expected.numbers.dtype
        assert found.segments == expected.segments
        assert np.array_equal(found.semantic, expected.semantic)


def scores(scene_set, folder, **keys):
    cfg = scene_set.cfg.clone()
    for key, value in keys.items():
        cfg.TEST[key] = value
    evaluator = build_evaluator(cfg, scene_set.name, folder)
    evaluator.reset()
    evaluator.process(scene_set.inputs, scene_set.outputs)
    return evaluator.evaluate(), [(folder / name).read_text() for name in ("per_image.jsonl", "confusion.json")]


def test_results_are_equal_with_and_without(scene_set, tmp_path):
    expected = scores(scene_set, tmp_path / "off", CACHE="off")
    for number in range(2):
        found = scores(scene_set, tmp_path / str(number))
        assert repr(found) == repr(expected)


@pytest.mark.parametrize(
    "change",
    [
        change_pixel,
        lambda s: None,
        lambda s: change_json(s, lambda content: content["annotations"].pop()),
        lambda s: (
            label_of(s).rename(label_of(s).with_name("renamed.png")),
            change_json(s, lambda content: content["annotations"][0].update(file_name="renamed.png")),
        ),
        lambda s: change_json(s, lambda content: content["annotations"][0]["segments_info"][0].update(iscrowd=1)),
    ],
    ids=["one pixel", "nothing", "split subset", "one file name", "one crowd"],
)
def test_anything_that_changes_makes_another_cache(scene_set, root, change, request):
    opened(scene_set)
    change(scene_set)
    truth, cache = opened(scene_set)
    is_same = "nothing" in request.node.callspec.id
    assert cache.conversions == (0 if is_same else len(truth.image_ids))
    assert len(caches(root)) == (1 if is_same else 2)


def test_a_class_name_is_part_of_it_and_the_order_is_not(scene_set):
    opened(scene_set)
    change_json(scene_set, lambda content: content["annotations"].reverse())
    truth, cache = opened(scene_set)
    assert cache.conversions == 0
    for image_id in truth.image_ids:
        assert np.array_equal(truth.load(image_id).numbers, truth.read(image_id).numbers)
    metadata = MetadataCatalog.get(scene_set.name)
    names = [*metadata.stuff_classes]
    metadata.__dict__["stuff_classes"] = [*names[:-1], "another"]
    try:
        assert opened(scene_set)[1].conversions == len(truth.image_ids)
    finally:
        metadata.__dict__["stuff_classes"] = names


@pytest.mark.parametrize("name", ["runs.npz", "panoptic.json", "instances.json", "manifest.json"])
@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: c[:-9] + bytes([c[-9] ^ 1]) + c[-8:], lambda c: b""]
)
def test_what_is_cut_off_or_changed_is_found_and_made_anew(scene_set, root, name, damage, caplog):
    truth, _ = opened(scene_set)
    file = caches(root)[0].with_name(name)
    file.write_bytes(damage(file.read_bytes()))
    _, cache = opened(scene_set)
    if name == "manifest.json" and cache.conversions == 0:
        return  # a digit of its counts, which nothing depends on
    assert cache.conversions == len(truth.image_ids)
    assert "made anew" in caplog.text
    assert opened(scene_set)[1].conversions == 0


def test_a_folder_without_a_manifest_is_no_cache(scene_set, root):
    truth, _ = opened(scene_set)
    caches(root)[0].unlink()
    assert opened(scene_set)[1].conversions == len(truth.image_ids)
    assert not list(root.glob("*/.new-*")) and not list(root.glob("*/.old-*"))


def _open_in_process(scene_set, queue, start):
    start.wait()
    truth, cache = opened(scene_set)
    queue.put((cache.conversions, [truth.load(one).numbers.sum() for one in truth.image_ids]))


def test_of_two_processes_at_once_one_makes_the_cache(scene_set, root):
    context = multiprocessing.get_context("fork")
    queue, start = context.Queue(), context.Event()
    processes = [context.Process(target=_open_in_process, args=(scene_set, queue, start)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(conversions for conversions, _ in found) == [0, 5]
    assert found[0][1] == found[1][1]
    assert len(caches(root)) == 1


@pytest.mark.parametrize("key", ["PANOP_JSON", "INSTANCE_COCO_EVAL"])
class TestGivenFiles:
    """TEST.PANOP_JSON and TEST.INSTANCE_COCO_EVAL."""

    def test_is_made_where_there_is_none_and_used_after(self, scene_set, tmp_path, key):
        file = tmp_path / "given" / "truth.json"
        truth, cache = opened(scene_set, **{key: str(file)})
        assert cache.conversions == 5 and file.is_file()
        assert json.loads(file.read_text())["info"]["fingerprint"] == cache.fingerprint()
        assert opened(scene_set, **{key: str(file)})[1].conversions == 0

    def test_a_stale_one_is_refused_unless_rebuilt(self, scene_set, tmp_path, key):
        file = str(tmp_path / "truth.json")
        opened(scene_set, **{key: file})
        change_pixel(scene_set)
        with pytest.raises(DatasetError, match=f"TEST.{key}.*made of other labels.*TEST.CACHE rebuild"):
            build_evaluator(_with(scene_set.cfg, key, file), scene_set.name, tmp_path / "out")
        assert opened(scene_set, CACHE="rebuild", **{key: file})[1].conversions == 5
        assert opened(scene_set, **{key: file})[1].conversions == 0

    def test_a_pickle_is_refused(self, scene_set, tmp_path, key):
        for name in ("truth.json", "truth.pkl"):
            file = tmp_path / name
            file.write_bytes(pickle.dumps({"annotations": []}))
            with pytest.raises(DatasetError, match="pickle.*name a .json"):
                opened(scene_set, **{key: str(file)})

    def test_a_changed_one_is_refused(self, scene_set, tmp_path, key):
        file = tmp_path / "truth.json"
        opened(scene_set, **{key: str(file)})
        file.write_text(file.read_text().replace("person", "parson"))
        with pytest.raises(DatasetError, match="not what was written"):
            opened(scene_set, **{key: str(file)})
        (tmp_path / "other.json").write_text("{}")
        with pytest.raises(DatasetError, match=r"no other.json.manifest.json beside it"):
            opened(scene_set, **{key: str(tmp_path / "other.json")})


def _with(cfg, key, value):
    cfg = cfg.clone()
    cfg.TEST[key] = value
    return cfg


def test_objects_are_those_of_the_truth(scene_set, tmp_path):
    truth, _ = opened(scene_set, INSTANCE_COCO_EVAL=str(tmp_path / "objects.json"))
    content = json.loads((tmp_path / "objects.json").read_text())
    number = 0
    for image_id in truth.image_ids:
        one = truth.read(image_id)
        for segment in one.segments:
            if segment["category_id"] in (2, 3, 4):
                annotation = content["annotations"][number]
                mask = one.numbers == segment["id"]
                assert np.array_equal(coco_mask.decode(annotation["segmentation"]).astype(bool), mask)
                assert annotation["area"] == mask.sum() and annotation["iscrowd"] == segment["iscrowd"]
                assert annotation["category_id"] == segment["category_id"]
                assert str(annotation["image_id"]) == image_id
                number += 1
    assert number == len(content["annotations"]) > 0


def test_stat_trusts_size_and_time_and_full_does_not(scene_set, root):
    opened(scene_set, CACHE_VERIFY="stat")
    pixels = Image.open(label_of(scene_set))
    pixels.save(label_of(scene_set), compress_level=0)
    assert opened(scene_set, CACHE_VERIFY="stat")[1].conversions == 5  # another size, so it is hashed
    content = bytearray(label_of(scene_set).read_bytes())
    content[-1] ^= 1
    times = label_of(scene_set).stat()
    label_of(scene_set).write_bytes(content)
    os.utime(label_of(scene_set), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert opened(scene_set, CACHE_VERIFY="stat")[1].conversions == 0


def test_off_and_wrong_keys(scene_set, root):
    assert opened(scene_set, CACHE="off")[1] is None and not root.exists()
    for key in ("CACHE", "CACHE_VERIFY"):
        with pytest.raises(ConfigError, match=f"TEST.{key}"):
            opened(scene_set, **{key: "maybe"})


def test_without_a_place_or_with_a_damaged_label_it_goes_on_without(scene_set, root, caplog, monkeypatch):
    root.write_text("a file, not a folder")
    truth, cache = opened(scene_set)
    assert np.array_equal(truth.load("7").numbers, truth.read("7").numbers)
    assert "No cache" in caplog.text
    root.unlink()
    label_of(scene_set).write_bytes(b"")
    truth, cache = opened(scene_set)
    assert cache.conversions < 5 and not caches(root)
    with pytest.raises(DatasetError, match="000.png"):
        truth.load("7")
    assert len(truth.load("8").segments) > 0


def test_a_user_without_a_home_goes_on_without(scene_set, monkeypatch):
    def nowhere():
        raise RuntimeError("no home")

    monkeypatch.delenv("PANOPTIC_CACHE")
    monkeypatch.setattr(Path, "home", nowhere)
    truth, cache = opened(scene_set, CACHE_VERIFY="stat")
    assert cache.conversions == 0 and len(truth.load("7").segments) > 0


def test_old_caches_of_a_dataset_are_removed(scene_set, root):
    for number in range(5):
        change_pixel(scene_set, number)
        opened(scene_set)
    assert len(caches(root)) == 3
    shutil.rmtree(root)
