"""Started in two processes by test_joint.py: trains a joint network with a frozen branch, notes what became of it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from detectron2.utils import comm

from panoptic_plugin.cli import train
from panoptic_plugin.engine.model import unwrap
from panoptic_plugin.engine.trainer import PanopticTrainer


def digest(trainer: PanopticTrainer, prefix: str) -> str:
    found = hashlib.sha1()
    for name, value in unwrap(trainer.model).state_dict().items():
        if name.startswith(prefix):
            found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def train_and_note(trainer: PanopticTrainer):
    before = digest(trainer, "semantic_branch.")
    trainer.model.eval()
    trainer.model.train()
    results = original_train(trainer)
    lines = [before, digest(trainer, "semantic_branch."), digest(trainer, "ins_embed_head.")]
    Path(trainer.cfg.OUTPUT_DIR, f"notes.{comm.get_rank()}").write_text("\n".join(lines))
    return results


original_train = PanopticTrainer.train
PanopticTrainer.train = train_and_note
if __name__ == "__main__":
    sys.exit(train.main(sys.argv[1:]))
