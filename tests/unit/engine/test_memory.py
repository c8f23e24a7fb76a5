"""Too little memory is one sentence that says for what, and the checkpoints stay as they are."""

from __future__ import annotations

import hashlib

import pytest
import torch
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin import load_config
from panoptic_plugin.engine.trainer import PanopticTrainer
from panoptic_plugin.errors import OutOfMemoryError


def test_out_of_memory_names_the_batch_and_the_remedies(tmp_path, monkeypatch):
    with job_environment(make_scenes(tmp_path / "scenes", "cityscapes", num_train=2, num_val=1)):
        path = write_config(tmp_path, OUTPUT_DIR=str(tmp_path / "out"), DATASETS__TEST=[])
        (tmp_path / "out").mkdir()
        trainer = PanopticTrainer(load_config(path))
        trainer.checkpointer.save("model_0000001", iteration=1)
        before = hashlib.sha1((tmp_path / "out" / "model_0000001.pth").read_bytes()).digest()

        def fail(batch):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a lot of advice")

        monkeypatch.setattr(trainer._trainer.model, "forward", fail)
        with pytest.raises(OutOfMemoryError) as error:
            trainer.train()
    text = str(error.value)
    for part in (
        "iteration 0: CUDA out of memory.",
        "2 images",
        "64x128, 64x128",
        "leftImg8bit.png",
        "IMS_PER_BATCH (2)",
    ):
        assert part in text
    assert hashlib.sha1((tmp_path / "out" / "model_0000001.pth").read_bytes()).digest() == before
    assert [file.name for file in (tmp_path / "out").glob("*.pth")] == ["model_0000001.pth"]
