"""The main job on an embedded default: generate street scenes, train Panoptic-DeepLab, evaluate, draw.

Each stage is one of the usual commands, run as a user would run it and shown before it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from panoptic_plugin.cli.run import USER_ERROR
from panoptic_plugin.errors import ConfigError, UserError

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "quick" / "panoptic_deeplab_cityscapes.yaml"
NUM_COMPARED = 4


def build_parser() -> argparse.ArgumentParser:
    """Options of ``panoptic quickstart``."""
    parser = argparse.ArgumentParser(
        prog="panoptic quickstart",
        description="Generate street scenes in Cityscapes layout, train Panoptic-DeepLab on them (CPU, minutes), "
        "evaluate PQ, mIoU and AP, draw the results and write a report.",
    )
    add_scene_options(parser, output="quickstart", num_val=24)
    parser.add_argument(
        "--config-file", default=str(CONFIG), metavar="FILE",
        help=f"training config (default: {CONFIG.relative_to(REPOSITORY)} of this package)",
    )  # fmt: skip
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser


def add_scene_options(parser: argparse.ArgumentParser, *, output: str, num_val: int) -> None:
    """Options of a command that trains on scenes it generates; the values are their defaults."""
    number = {"type": int, "metavar": "N"}
    parser.add_argument(
        "--output", default=output, metavar="DIR", help="folder of everything it makes (default: %(default)s)"
    )
    parser.add_argument("--num-train", **number, default=160, help="training scenes (default: %(default)s)")
    parser.add_argument("--num-val", **number, default=num_val, help="validation scenes (default: %(default)s)")
    parser.add_argument("--seed", **number, default=0, help="of scenes and trainings (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Synthesize, train and evaluate, draw, report; prints the table and the paths of what it made."""
    if not Path(args.config_file).is_file():
        raise ConfigError(f"config file {args.config_file} does not exist; run from a clone, or name one")
    started = time.monotonic()
    output = Path(args.output)
    data, run_folder, pictures = output / "datasets", output / "run", output / "pictures"
    for words in _stages(args, data, run_folder, pictures):
        call(words, data)
    _say(f"\nResult on {args.num_val} generated validation scenes after {time.monotonic() - started:.0f} s:\n")
    _say(_table(run_folder / "inference" / "metrics.json"))
    comparison = output / "comparison.png"
    _compare(args, data, run_folder, comparison)
    _say(f"\nImage, ground truth and prediction: {comparison}")
    _say(f"Predictions over the images: {pictures}, {len(list(pictures.iterdir()))} pictures")
    _say(f"Report, to open in a browser: {output / 'report.html'}")
    _say(f"Model: {run_folder / 'model_final.pth'}   Log and TensorBoard curves: {run_folder}")
    return 0


def _stages(args: argparse.Namespace, data: Path, run_folder: Path, pictures: Path) -> list[list[str]]:
    images = data / "cityscapes" / "leftImg8bit" / "val"
    synthesize = [
        "data", "synthesize", "--layout", "cityscapes", "--output", str(data), "--seed", str(args.seed),
        "--num-train", str(args.num_train), "--num-val", str(args.num_val),
    ]  # fmt: skip
    train = [
        "train", "--config-file", args.config_file, "--num-gpus", "0",
        "OUTPUT_DIR", str(run_folder), "SEED", str(args.seed), *args.opts,
    ]  # fmt: skip
    demo = [
        "demo", "--config-file", args.config_file, "--input", str(images / "*" / "*.png"), "--output", str(pictures),
        "--device", "cpu", "--opts", "MODEL.WEIGHTS", str(run_folder / "model_final.pth"), *args.opts,
    ]  # fmt: skip
    report = ["report", str(run_folder), "--output", str(run_folder.parent / "report.html")]
    return [synthesize, train, demo, report]


def call(words: list[str], data: Path) -> None:
    """Show a ``panoptic`` command and run it, with generated data; raises UserError or SystemExit where it fails."""
    _say(f"\n$ DETECTRON2_DATASETS={shlex.quote(str(data))} panoptic {shlex.join(words)}")
    sys.stdout.flush()
    code = subprocess.call(
        [sys.executable, "-m", "panoptic_plugin.cli.main", *words],
        env={**os.environ, "DETECTRON2_DATASETS": str(data.resolve())},
    )
    if code == USER_ERROR:  # it has said why, in one line
        raise SystemExit(code)
    if code:
        raise UserError(f"'panoptic {words[0]}' ended with exit code {code}; its message stands above")


def _compare(args: argparse.Namespace, data: Path, run_folder: Path, picture: Path) -> None:
    """Draw image, ground truth and prediction of some validation scenes below each other."""
    import cv2
    import numpy as np
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from panoptic_plugin.config import load_config
    from panoptic_plugin.data.datasets.builtin import register_builtin_datasets
    from panoptic_plugin.data.reading import read_image, read_label
    from panoptic_plugin.engine.predictor import Predictor
    from panoptic_plugin.structures import rgb_to_ids
    from panoptic_plugin.visualization.draw import draw_comparison

    register_builtin_datasets(str(data))
    cfg = load_config(args.config_file, [*args.opts, "MODEL.WEIGHTS", str(run_folder / "model_final.pth")])
    predictor, metadata = Predictor(cfg), MetadataCatalog.get(cfg.DATASETS.TEST[0])
    rows = []
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])[:NUM_COMPARED]:
        image = read_image(record["file_name"], "RGB")
        truth = read_label(record["pan_seg_file_name"], "RGB", record["file_name"], image.shape[:2])
        output = predictor(image)
        rows.append(
            draw_comparison(
                image,
                rgb_to_ids(truth),
                output["panoptic_seg"][0].numpy(),
                metadata,
                true_segments=record["segments_info"],
                predicted_segments=output["segments_info"],
            )
        )
    width = max(row.shape[1] for row in rows)  # scenes of an odd size make narrower rows
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    cv2.imwrite(str(picture), np.concatenate(rows)[..., ::-1])


def _table(metrics_file: Path) -> str:
    from tabulate import tabulate

    from panoptic_plugin.reports.run_tables import HEADLINE

    metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
    groups = metrics.get("results", metrics)
    row = [groups.get(group, {}).get(key) for _, group, key in HEADLINE]
    return tabulate([row], headers=[name for name, _, _ in HEADLINE], floatfmt=".1f", tablefmt="github")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    from panoptic_plugin.cli.run import run_cli

    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
