from __future__ import annotations

import json
import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json

from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.catalog import (
    check_dataset_names,
    check_num_classes,
    register_custom_datasets,
    register_panoptic_dataset,
)
from panoptic_plugin.data.datasets.builtin import register_builtin_datasets
from panoptic_plugin.data.synthesize import SynthesisOptions, synthesize
from panoptic_plugin.errors import ConfigError, DatasetError


def test_metadata_follow_from_the_categories(tiny):
    register_panoptic_dataset("tiny", **tiny.paths)
    metadata = MetadataCatalog.get("tiny")
    assert metadata.stuff_classes == metadata.thing_classes == ["ground", "cell", "wall"]
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 1}
    assert metadata.stuff_dataset_id_to_contiguous_id == {3: 0, 21: 2}
    assert metadata.thing_colors[1] == [200, 0, 0]
    assert metadata.thing_colors[0] != metadata.thing_colors[2]
    assert (metadata.ignore_label, metadata.label_divisor) == (255, 1000)
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert metadata.panoptic_json == str(tiny.json)


def test_records(tiny):
    register_panoptic_dataset("tiny", **tiny.paths, sem_seg_root="/semantic")
    record = DatasetCatalog.get("tiny")[0]
    assert record["file_name"] == str(tiny.images / "picture_4.png")
    assert record["pan_seg_file_name"] == str(tiny.labels / "picture_4.png")
    assert record["sem_seg_file_name"] == os.path.join("/semantic", "picture_4.png")
    assert (record["image_id"], record["height"], record["width"]) == (4, 12, 20)
    assert [segment["category_id"] for segment in record["segments_info"]] == [0, 1, 1]
    assert [segment["isthing"] for segment in record["segments_info"]] == [False, True, True]


def test_categories_are_found_wherever_they_stand(tiny):
    tiny.content = {"categories": tiny.content["categories"], **tiny.content, "info": {"note": 'the "categories" [1]'}}
    tiny.write()
    register_panoptic_dataset("tiny", **tiny.paths)
    assert MetadataCatalog.get("tiny").stuff_classes == ["ground", "cell", "wall"]


@pytest.mark.parametrize("stem", ["b", "picture_4", "000000000004"])
def test_image_is_found_by_stem_in_a_sub_folder(tiny, stem):
    tiny.content["images"][0]["file_name"] = "b.jpg"
    tiny.write()
    (tiny.images / "deep").mkdir()
    (tiny.images / "picture_4.png").rename(tiny.images / "deep" / f"{stem}.png")
    register_panoptic_dataset("tiny", **tiny.paths)
    assert DatasetCatalog.get("tiny")[0]["file_name"] == str(tiny.images / "deep" / f"{stem}.png")


def test_string_ids(tiny):
    for image, annotation in zip(tiny.content["images"], tiny.content["annotations"], strict=True):
        image["id"] = annotation["image_id"] = f"city_{image['id']}"
    tiny.write()
    register_panoptic_dataset("tiny", **tiny.paths)
    assert DatasetCatalog.get("tiny")[0]["image_id"] == "city_4"


def test_registering_twice(tiny):
    register_panoptic_dataset("tiny", **tiny.paths)
    register_panoptic_dataset("tiny", **tiny.paths)
    with pytest.raises(DatasetError, match="image_root .*choose another name"):
        register_panoptic_dataset("tiny", **{**tiny.paths, "image_root": "/elsewhere"})
    with pytest.raises(DatasetError, match="'coco_2017_val' is registered already, by Detectron2"):
        register_panoptic_dataset("coco_2017_val", **tiny.paths)


def set_unknown_category(content):
    content["annotations"][1]["segments_info"][2]["category_id"] = 9999


def double_image(content):
    content["images"].append(dict(content["images"][0]))


def double_annotation(content):
    content["annotations"].append(dict(content["annotations"][0]))


def take_image(content):
    del content["images"][1]


def name_missing_image(content):
    content["images"][2].update(file_name="gone.png", id=66)
    content["annotations"][2].update(file_name="picture_4.png", image_id=66)
    content["annotations"][0]["file_name"] = "picture_5.png"
    content["images"][0]["file_name"] = "missing.jpg"
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = 77
    content["annotations"][0]["file_name"] = "no_label.png"


def climb(content):
    content["images"][0]["file_name"] = "../../secret.png"


def drop_segments(content):
    del content["annotations"][0]["segments_info"]


def drop_all(content):
    content["annotations"] = []


@pytest.mark.parametrize(
    "change, message",
    [
        (set_unknown_category, r"annotations\[1\] \(image_id 5\): segments_info\[2\] has category_id 9999"),
        (double_image, r"images\[3\]: id 4 stands twice"),
        (double_annotation, r"annotations\[3\]: image_id 4 stands twice"),
        (take_image, r"annotations\[1\] \(image_id 5\): no entry of 'images'"),
        (name_missing_image, r"1 of 3 images are not below .*images: missing.jpg"),
        (climb, r"file_name is '../../secret.png', expected a path inside"),
        (drop_segments, r"annotations\[0\] .*'segments_info' is missing"),
        (drop_all, r"'annotations' is missing or empty"),
    ],
)
def test_faults_of_the_records(tiny, change, message):
    change(tiny.content)
    tiny.write()
    register_panoptic_dataset("tiny", **tiny.paths)
    with pytest.raises(DatasetError, match=message) as caught:
        DatasetCatalog.get("tiny")
    assert str(tiny.json) in str(caught.value)


@pytest.mark.parametrize(
    "category, message",
    [
        ({"id": 7, "name": "x", "isthing": 0}, "id 7 belongs to cell already"),
        ({"id": 8, "name": "x"}, "'isthing' is missing"),
        ({"id": "8", "name": "x", "isthing": 1}, "id is '8', expected"),
    ],
)
def test_faults_of_the_categories(tiny, category, message):
    tiny.content["categories"].append(category)
    tiny.write()
    with pytest.raises(DatasetError, match=message):
        register_panoptic_dataset("tiny", **tiny.paths)


def test_faults_of_the_files(tiny):
    with pytest.raises(DatasetError, match="nowhere.json does not exist"):
        register_panoptic_dataset("tiny", **{**tiny.paths, "panoptic_json": "nowhere.json"})
    register_panoptic_dataset("a", **{**tiny.paths, "image_root": "/nowhere"})
    with pytest.raises(DatasetError, match="image folder /nowhere does not exist"):
        DatasetCatalog.get("a")
    register_panoptic_dataset("b", **{**tiny.paths, "panoptic_root": "/nowhere"})
    with pytest.raises(DatasetError, match="folder of panoptic PNGs /nowhere"):
        DatasetCatalog.get("b")
    register_panoptic_dataset("c", **tiny.paths)
    tiny.json.write_text(json.dumps(tiny.content, indent=1)[:-300])
    with pytest.raises(DatasetError, match=r"panoptic.json:\d+:\d+: not valid JSON"):
        DatasetCatalog.get("c")
    with pytest.raises(DatasetError, match=r"panoptic.json:\d+:\d+: not valid JSON"):
        register_panoptic_dataset("d", **tiny.paths)


def custom(tiny, **changes):
    cfg = get_cfg()
    entry = {key.upper(): os.path.relpath(value, tiny.root) for key, value in tiny.paths.items()}
    cfg.DATASETS.CUSTOM = [{"NAME": "mine", **entry, **changes}]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("mine",)
    return cfg


def test_custom_datasets_start_at_the_datasets_root(tiny, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny.root))
    cfg = custom(tiny)
    assert register_custom_datasets(cfg) == register_custom_datasets(cfg) == ["mine"]
    assert len(DatasetCatalog.get("mine")) == 3
    check_dataset_names(cfg)
    with pytest.raises(ConfigError, match="NUM_CLASSES is 54, but dataset 'mine' has 3 classes"):
        check_num_classes(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    check_num_classes(cfg)


def test_faults_of_custom_entries(tiny):
    with pytest.raises(
        ConfigError, match=r"DATASETS.CUSTOM\[0\] has the unknown key 'IMAGE_ROT'. Did you mean 'IMAGE_ROOT'"
    ):
        register_custom_datasets(custom(tiny, IMAGE_ROT="x"))
    with pytest.raises(ConfigError, match="lacks PANOPTIC_JSON"):
        register_custom_datasets(custom(tiny, PANOPTIC_JSON=""))
    with pytest.raises(ConfigError, match="NAME is 3, expected a string"):
        register_custom_datasets(custom(tiny, NAME=3))


def test_unknown_dataset_name():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("cityscapes_fine_panoptic_trian",)
    with pytest.raises(ConfigError, match="DATASETS.TRAIN names .*Did you mean 'cityscapes_fine_panoptic_train'"):
        check_dataset_names(cfg)


@pytest.fixture
def builtin_root(tmp_path):
    register_builtin_datasets(str(tmp_path))
    yield tmp_path
    register_builtin_datasets()


@pytest.mark.parametrize(
    "name, message",
    [
        ("cityscapes_fine_panoptic_train", "leftImg8bit/train does not exist. Unpack leftImg8bit_trainvaltest.zip"),
        ("cityscapes_fine_sem_seg_val", "leftImg8bit/val/ does not exist. Unpack"),
        ("coco_2017_val_panoptic", "coco/val2017 does not exist; download"),
    ],
)
def test_missing_builtin_dataset(builtin_root, name, message):
    with pytest.raises(DatasetError, match=message) as caught:
        DatasetCatalog.get(name)
    assert "DETECTRON2_DATASETS" in str(caught.value) and "panoptic data synthesize" in str(caught.value)


def test_cityscapes_from_disk(builtin_root):
    folder = synthesize(builtin_root, SynthesisOptions(num_train=2, num_val=1, height=48, width=96))
    records = DatasetCatalog.get("cityscapes_fine_panoptic_train")
    assert [record["image_id"] for record in records] == ["arden_000000_000019", "birchfield_000001_000019"]
    assert all(os.path.isfile(record[key]) for record in records for key in ("file_name", "sem_seg_file_name"))
    assert {segment["category_id"] for record in records for segment in record["segments_info"]} <= set(range(19))
    semantic = DatasetCatalog.get("cityscapes_fine_sem_seg_train")
    assert semantic[0]["sem_seg_file_name"] == records[0]["sem_seg_file_name"]
    next((folder / "gtFine" / "train").glob("*/*labelTrainIds.png")).unlink()
    with pytest.raises(DatasetError, match="1 label files are missing.*panoptic data prepare cityscapes"):
        DatasetCatalog.get("cityscapes_fine_sem_seg_train")
    (folder / "gtFine" / "cityscapes_panoptic_val.json").unlink()
    with pytest.raises(DatasetError, match="panoptic data prepare cityscapes --root"):
        DatasetCatalog.get("cityscapes_fine_panoptic_val")


def test_coco_from_disk(builtin_root):
    synthesize(builtin_root, SynthesisOptions(layout="coco", num_train=2, num_val=1, height=48, width=96))
    records = DatasetCatalog.get("coco_2017_train_panoptic")
    assert [record["image_id"] for record in records] == [1, 2]
    instances = load_coco_json(MetadataCatalog.get("coco_2017_train_panoptic").json_file, "")
    assert len(instances) == 2 and all(record["annotations"] for record in instances)


def test_builtin_metadata_are_detectron2s():
    from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

    for name in ("coco_2017_train_panoptic", "coco_2017_val_panoptic"):
        metadata = MetadataCatalog.get(name).as_dict()
        for key, value in _get_builtin_metadata("coco_panoptic_standard").items():
            assert metadata[key] == value
        assert metadata["json_file"].endswith(f"instances_{name.split('_')[2]}2017.json")
    cityscapes = MetadataCatalog.get("cityscapes_fine_panoptic_val")
    assert cityscapes.thing_dataset_id_to_contiguous_id[24] == 11
    assert cityscapes.evaluator_type == "cityscapes_panoptic_seg"
    assert cityscapes.gt_dir.endswith("cityscapes/gtFine/val")


def test_real_photos(shared_data):
    folder = shared_data / "coco_sample"
    register_panoptic_dataset(
        "photos",
        image_root=folder / "input_images",
        panoptic_json=folder / "panoptic_examples.json",
        panoptic_root=folder / "panoptic_examples",
    )
    records = DatasetCatalog.get("photos")
    assert sum(len(record["segments_info"]) for record in records) == 50
    assert sum(segment["iscrowd"] for record in records for segment in record["segments_info"]) == 3
