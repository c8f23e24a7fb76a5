"""What each of two processes does in tests/e2e/test_detr.py: some steps, images without segments in one of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from panoptic_plugin.config import load_config
from panoptic_plugin.engine.model import build_model, wrap_distributed
from panoptic_plugin.engine.train_step import TrainStep

SIZE, STEPS = 64, 3


def sample(num_segments: int, seed: int) -> dict:
    """An image with that many segments, stripes of 16 rows."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.zeros(SIZE, SIZE, dtype=torch.int16)
    for number in range(num_segments):
        index[16 * number : 16 * number + 16] = number + 1
    rows = [(0.5, (16 * number + 8) / SIZE, 1.0, 16 / SIZE) for number in range(num_segments)]
    return {
        "image": torch.randint(0, 255, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8),
        "labels": torch.arange(num_segments) + 7,
        "boxes": torch.tensor(rows, dtype=torch.float32).reshape(-1, 4),
        "segment_index": index,
        "file_name": f"{seed}.png",
    }


def train_beside_empty_images(folder: str, config: str) -> None:
    """The second process has images without segments; in the last step the first one does, too.

    Notes the losses of each step, and a digest of the weights.
    """
    cfg = load_config(config, ["MODEL.TIMM.NORM", "FrozenBN"])
    rank = comm.get_rank()
    torch.manual_seed(0)
    model = wrap_distributed(build_model(cfg).train())
    optimizer = torch.optim.AdamW((one for one in model.parameters() if one.requires_grad), lr=1e-4)
    counts = [3 if rank == 0 and step + 1 < STEPS else 0 for step in range(STEPS)]
    data = [[sample(count, seed=2 * step + rank)] for step, count in enumerate(counts)]
    losses: list[dict[str, float]] = []

    def note(module, arguments, found):
        losses.append({name: value.item() for name, value in found.items()})

    model.register_forward_hook(note)
    step = TrainStep(model, data, optimizer, read_when=lambda iteration: True)
    with EventStorage(0):
        for step.iter in range(STEPS):
            step.run_step()
    digest = hashlib.sha1()
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    torch.save({"losses": losses, "digest": digest.hexdigest()}, Path(folder, f"notes.{rank}.pth"))
