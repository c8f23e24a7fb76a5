"""The manifest of a run: one entry a start, with what the training was made of."""

from __future__ import annotations

import json

from detectron2.data import MetadataCatalog

from panoptic_plugin import get_cfg
from panoptic_plugin.engine.manifest import note_start


def test_every_start_is_noted_with_what_it_was_made_of(tmp_path, caplog):
    (tmp_path / "train.json").write_text("{}")
    MetadataCatalog.get("manifest_train").panoptic_json = str(tmp_path / "train.json")
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("manifest_train",), ("manifest_unknown",)
    try:
        note_start(cfg, command=["train", "--x"], start_iter=0, data={"seed": 7})
        (tmp_path / "train.json").write_text("{ }")
        note_start(cfg, command=["train", "--resume"], start_iter=5, data={"seed": 7})
    finally:
        MetadataCatalog.remove("manifest_train")
    first, second = json.loads((tmp_path / "manifest.json").read_text())["starts"]
    assert (first["seed"], first["world_size"], first["start_iteration"], second["start_iteration"]) == (7, 1, 0, 5)
    assert first["command"] == ["train", "--x"] and len(first["hosts"]) == 1
    assert {"torch", "numpy", "detectron2", "panoptic_plugin"} <= first["versions"].keys()
    assert first["config_sha256"] == second["config_sha256"]
    digests = [start["datasets"]["manifest_train"]["sha256"] for start in (first, second)]
    assert digests[0] != digests[1] and first["datasets"]["manifest_unknown"] == {"json": None, "sha256": None}
    assert set(first["code"]) == {"commit", "changed"}


def test_a_damaged_manifest_is_begun_anew(tmp_path, caplog):
    (tmp_path / "manifest.json").write_text('{"starts": [')
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    note_start(cfg, command=[], start_iter=0, data={})
    assert len(json.loads((tmp_path / "manifest.json").read_text())["starts"]) == 1
    assert "begun anew" in caplog.text
