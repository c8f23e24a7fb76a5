"""A panoptic training that takes seconds: generated scenes, a network of 0.1 M parameters, and its config file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from panoptic_plugin.data.datasets.builtin import register_builtin_datasets
from panoptic_plugin.data.synthesize import SynthesisOptions, synthesize

HEIGHT, WIDTH = 64, 128


def make_scenes(folder: Path, layout: str, num_train: int = 4, num_val: int = 3) -> Path:
    """Generated scenes of 64x128 in ``folder``, which can serve as ``$DETECTRON2_DATASETS``."""
    options = SynthesisOptions(layout, num_train, num_val, HEIGHT, WIDTH, odd_sizes=False)
    synthesize(folder, options, num_workers=1)
    return folder


@contextmanager
def job_environment(folder: Path) -> Iterator[None]:
    """Let ``$DETECTRON2_DATASETS`` be ``folder`` and PyTorch use one thread, here and in child processes.

    On busy cores so small a network is many times slower with several threads, which wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.dict(os.environ, DETECTRON2_DATASETS=str(folder), OMP_NUM_THREADS="1"):
            register_builtin_datasets()  # they are registered already, at the folder of the import
            yield
    finally:
        register_builtin_datasets()
        torch.set_num_threads(threads)


def write_config(folder: Path, **changes) -> Path:
    """Write ``tiny.yaml`` for generated Cityscapes scenes; ``changes`` are KEY_WITH__FOR_DOTS=value."""
    content = {
        "_BASE_": [
            str(_configs() / "_base_/systems/panoptic_deeplab.yaml"),
            str(_configs() / "_base_/systems/panoptic_deeplab_four_levels.yaml"),
            str(_configs() / "_base_/systems/panoptic_deeplab_dsconv.yaml"),
            str(_configs() / "_base_/backbones/hrnet_48.yaml"),
            str(_configs() / "_base_/datasets/cityscapes_panoptic.yaml"),
            str(_configs() / "_base_/schedules/adam_poly.yaml"),
        ],
        "VERSION": 2,
        "SEED": 1,
        "MODEL": {
            "WEIGHTS": "",
            "DEVICE": "cpu",
            "RESNETS": {"DEPTH": 4},
            "HRNET": {"MODULES": [1, 1, 1], "BLOCKS": 1},
            "SEM_SEG_HEAD": {**_narrow(), "HEAD_CHANNELS": 8, "LOSS_TYPE": "cross_entropy"},
            "INS_EMBED_HEAD": {**_narrow(), "HEAD_CHANNELS": 8},
            "PANOPTIC_DEEPLAB": {"STUFF_AREA": 8},
        },
        "INPUT": {
            "MIN_SIZE_TRAIN": [HEIGHT],
            "MAX_SIZE_TRAIN": WIDTH,
            "MIN_SIZE_TEST": HEIGHT,
            "MAX_SIZE_TEST": WIDTH,
            "CROP": {"SIZE": [HEIGHT, WIDTH]},
        },
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 6, "CHECKPOINT_PERIOD": 2, "WARMUP_ITERS": 2},
        "DATALOADER": {"NUM_WORKERS": 0},
        "TEST": {"CLASS_CHARTS": False},  # a third of a second an evaluation
    }
    for name, value in changes.items():
        *parents, last = name.split("__")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _configs() -> Path:
    return Path(__file__).resolve().parent.parent / "configs"


def _narrow() -> dict:
    return {"ASPP_CHANNELS": 8, "CONVS_DIM": 8, "PROJECT_CHANNELS": [4, 4, 4]}


def spoil(trainer: Any, fault: str, when: Callable[[int], bool]) -> None:
    """Let the model's losses, their gradient or a buffer be infinite or NaN in the iterations that ``when`` picks.

    Args:
        trainer: a PanopticTrainer.
        fault: "nan loss", "inf loss", "nan gradient" (of a loss that is finite) or "nan buffer".
        when: of the number of the iteration.
    """

    def change(model, arguments, losses):
        if not when(trainer.iter):
            return losses
        name = next(iter(losses))
        if fault == "nan buffer":
            next(value for key, value in model.named_buffers() if key.endswith("running_var")).data.fill_(math.nan)
            return losses
        spoilt = {
            "nan loss": losses[name] * math.nan,
            "inf loss": losses[name] + math.inf,
            "nan gradient": losses[name] + (losses[name] * 0).sqrt(),
        }
        return {**losses, name: spoilt[fault]}

    trainer.model.register_forward_hook(change)
