from __future__ import annotations

import pytest
from detectron2.data import DatasetCatalog

from panoptic_plugin.cli.data import main
from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.datasets.builtin import register_builtin_datasets
from panoptic_plugin.data.loader import build_test_loader, build_train_loader

NAMES = {
    "cityscapes": ("cityscapes_fine_panoptic_train", "cityscapes_fine_panoptic_val"),
    "coco": ("coco_2017_train_panoptic", "coco_2017_val_panoptic"),
}


@pytest.mark.parametrize("layout", list(NAMES))
def test_command_line_to_batches(tmp_path, capsys, layout):
    words = ["synthesize", "--layout", layout, "--output", str(tmp_path), "--num-train", "4", "--num-val", "2"]
    words += ["--height", "64", "--width", "128"]
    assert main(words) == 0
    assert f"export DETECTRON2_DATASETS={tmp_path}" in capsys.readouterr().out
    register_builtin_datasets(str(tmp_path))
    try:
        train, val = NAMES[layout]
        cfg = get_cfg()
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (val,)
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.ENABLED = (64,), True
        cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute", [64, 96]
        cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 2, 0
        batch = next(iter(build_train_loader(cfg)))
        assert [sample["image"].shape for sample in batch] == [(3, 64, 96)] * 2
        assert len(list(build_test_loader(cfg, val))) == len(DatasetCatalog.get(val)) == 2
    finally:
        register_builtin_datasets()


def test_user_mistake_is_one_line(tmp_path, capsys):
    (tmp_path / "cityscapes").mkdir()
    (tmp_path / "cityscapes" / "precious.txt").write_text("mine")
    assert main(["synthesize", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "other content" in error
    assert (tmp_path / "cityscapes" / "precious.txt").read_text() == "mine"
