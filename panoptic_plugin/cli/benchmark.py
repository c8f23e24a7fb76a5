"""Where the time of a config goes: ``tools/benchmark.py``, ``panoptic benchmark``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.config import load_config
from panoptic_plugin.data.catalog import check_dataset_names, check_num_classes, register_custom_datasets
from panoptic_plugin.data.datasets.builtin import register_builtin_datasets
from panoptic_plugin.data.synthesize import SynthesisOptions, synthesize
from panoptic_plugin.engine.model import check_device
from panoptic_plugin.engine.stages import format_stages, measure_inference, measure_training
from panoptic_plugin.errors import ConfigError, UserError

PARTS = ("inference", "training")
# Generated scenes have the classes of one of these; (train, val) as they are registered.
GENERATED = {
    19: ("cityscapes", "cityscapes_fine_panoptic_train", "cityscapes_fine_panoptic_val"),
    133: ("coco", "coco_2017_train_panoptic", "coco_2017_val_panoptic"),
}
NUM_SCENES = 4
EPILOG = """\
examples:
  the whole config on generated scenes, without a dataset or weights:
    %(prog)s --config-file F.yaml
  a trained model on its own data, the inference alone, figures as JSON:
    %(prog)s --config-file F.yaml --dataset my_val --weights model_final.pth --parts inference --json figures.json
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time each stage of a config: decode, augment, targets, collate, network, post-processing,\n"
        "evaluation, and the training step with its memory. Without --dataset on generated scenes,\n"
        "without --weights on random ones.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    parser.add_argument("--dataset", metavar="NAME", help="a registered dataset (default: generated scenes)")
    parser.add_argument("--weights", metavar="PATH", help="short for MODEL.WEIGHTS PATH (default: random weights)")
    parser.add_argument(
        "--device", metavar="NAME", help="short for MODEL.DEVICE NAME (default: cuda where there is one)"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to time (default: both)")
    parser.add_argument(
        "--num-images", type=int, default=8, metavar="N", help="images of inference (default: %(default)s)"
    )
    parser.add_argument(
        "--num-steps", type=int, default=3, metavar="N", help="steps of training (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"),
                        help="of generated scenes and network input (default: INPUT.{MIN,MAX}_SIZE_TEST)")  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of PyTorch (default: its own choice)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    return parser


def run(args: argparse.Namespace) -> int:
    """Time, print the tables, write the JSON."""
    if args.num_images < 1 or args.num_steps < 1:
        raise UserError("--num-images and --num-steps must be 1 or more")
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads is {args.threads}, expected 1 or more")
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise UserError(f"--json {args.json} cannot be written: its folder does not exist; make it first")
    logging.getLogger("panoptic_plugin").setLevel(logging.WARNING)
    if args.threads:
        torch.set_num_threads(args.threads)
    cfg = resolve_config(args)
    report: dict[str, Any] = {"config": args.config_file, "machine": machine(cfg.MODEL.DEVICE)}
    with tempfile.TemporaryDirectory() as folder, datasets(cfg, args, Path(folder)):
        cfg.OUTPUT_DIR = folder
        cfg.freeze()
        check_dataset_names(cfg)
        check_num_classes(cfg)
        if "inference" in args.parts:
            report["inference"] = measure_inference(cfg, num_images=args.num_images)
        if "training" in args.parts:
            report["training"] = measure_training(cfg, num_steps=args.num_steps)
    _say(describe(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def resolve_config(args: argparse.Namespace) -> Any:
    """The config of the command line, not frozen.

    Raises:
        ConfigError: a file, key, value or device that cannot be used.
    """
    cfg = load_config(args.config_file, ["MODEL.WEIGHTS", args.weights or "", *args.opts])
    if args.device:
        cfg.MODEL.DEVICE = args.device
    elif not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    check_device(cfg.MODEL.DEVICE)
    return cfg


@contextmanager
def datasets(cfg: Any, args: argparse.Namespace, folder: Path) -> Iterator[None]:
    """Let DATASETS name what is timed: ``--dataset``, or scenes that are generated in ``folder``.

    Raises:
        ConfigError: scenes cannot be generated for the classes of the config.
    """
    register_custom_datasets(cfg)
    if args.dataset:
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (args.dataset,)
        yield
        return
    number = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if number not in GENERATED:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {number}; scenes are generated for {' or '.join(map(str, GENERATED))} "
            "classes only. Name a dataset with --dataset"
        )
    layout, train, val = GENERATED[number]
    height, width = args.size or (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    # The network shall see them in this size.
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min(height, width), max(height, width)
    synthesize(folder, SynthesisOptions(layout, NUM_SCENES, NUM_SCENES, height, width, odd_sizes=False))
    register_builtin_datasets(str(folder))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (val,)
    try:
        yield
    finally:
        register_builtin_datasets()


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    found = {
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "platform": platform.platform(),
        "torch": torch.__version__,
    }
    return {name: value for name, value in found.items() if value is not None}


def describe(report: dict[str, Any]) -> str:
    """The report as text: a table a part, and what it was measured on."""
    about = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    parts = [f"{report['config']}\n{about}"]
    if inference := report.get("inference"):
        height, width = inference["size"]
        parts.append(
            f"inference, {height}x{width}, batch {inference['batch_size']}\n{_table(inference)}\n"
            f"all stages in turn: {inference['ms']:.1f} ms an image, {inference['images_per_second']:.2f} images/s; "
            f"peak memory {inference['peak_mib']:.0f} MiB"
        )
    if training := report.get("training"):
        height, width = training["crop"]
        parts.append(
            f"loading for training, crop {height}x{width}, one worker\n{_table(training['loading'])}\n"
            f"{training['loading']['ms']:.1f} ms an image, {training['loading']['images_per_second']:.2f} images/s a "
            f"worker\n\ntraining step, batch {training['batch_size']}: {training['step_ms']:.1f} ms, "
            f"{training['images_per_second']:.2f} images/s; peak memory {training['peak_mib']:.0f} MiB"
        )
    return "\n\n".join(parts)


def _table(summary: dict[str, Any]) -> str:
    headers = ("stage", "ms/image", "share", "images/s")
    alignment = ("left", "right", "right", "right")
    return tabulate(
        format_stages(summary["stages"]), headers=headers, tablefmt="github", colalign=alignment, disable_numparse=True
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
