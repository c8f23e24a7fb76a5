"""Started under torchrun by test_distributed.py: runs the train script and notes the weights of each process."""

from __future__ import annotations

import hashlib
import runpy
import sys
from pathlib import Path

from detectron2.utils import comm

from panoptic_plugin.engine.trainer import PanopticTrainer


def train_and_note(trainer: PanopticTrainer):
    results = original_train(trainer)
    digest = hashlib.sha1()
    for parameter in trainer.model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    Path(trainer.cfg.OUTPUT_DIR, f"weights.{comm.get_rank()}.sha1").write_text(digest.hexdigest())
    return results


original_train = PanopticTrainer.train
PanopticTrainer.train = train_and_note
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
