"""``panoptic joint-chain``: the experiments of the joint network on generated scenes, each from the one before.

Every step is one of the usual commands, run as a user would run it and shown before it runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_plugin.cli.quickstart import REPOSITORY, add_scene_options, call
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.files import replace_file

PRETRAINED = "MODEL.PANOPTIC_DEEPLAB.SEMANTIC.PRETRAINED"
WEIGHTS = "MODEL.WEIGHTS"
# What the table shows: title, group and key in metrics.json.
COLUMNS = (
    ("mIoU", "sem_seg", "mIoU"),
    ("AP", "segm", "AP"),
    ("AP50", "segm", "AP50"),
    ("AR", "segm", "AR100"),
    ("PQ", "panoptic_seg", "PQ"),
    ("PQ things", "panoptic_seg", "PQ_th"),
    ("PQ stuff", "panoptic_seg", "PQ_st"),
)


@dataclass(frozen=True)
class Step:
    """One experiment.

    Attributes:
        name: of its folder, and in the table.
        config: of configs/quick.
        start: the experiment whose last model it starts from, "" for random weights.
        key: which config key that model is given to.
    """

    name: str
    config: str
    start: str = ""
    key: str = WEIGHTS


STEPS = (
    Step("exp1", "joint_exp1_semantic"),
    Step("exp2", "joint_exp2_instance", "exp1", PRETRAINED),
    Step("exp3", "joint_exp3", "exp2"),
    Step("exp3_ce", "joint_exp3_instance_ce", "exp2"),
    Step("exp4", "joint_exp4_semantic_ft", "exp3"),
    Step("exp5", "joint_exp5_instance_ft", "exp4"),
)


def build_parser() -> argparse.ArgumentParser:
    """Options of ``panoptic joint-chain``."""
    parser = argparse.ArgumentParser(
        prog="panoptic joint-chain",
        description="Generate street scenes and train the joint network's experiments on them (CPU, minutes): exp1 -> "
        "exp2 -> exp3 -> exp3 with instance weights -> exp4 -> exp5. Prints mIoU, AP, AR and PQ of each.",
    )
    add_scene_options(parser, output="joint_chain", num_val=32)
    parser.add_argument(
        "--configs", default=str(REPOSITORY / "configs" / "quick"), metavar="DIR",
        help="folder of joint_exp1_semantic.yaml and so on (default: configs/quick of this package)",
    )  # fmt: skip
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of all configs")
    return parser


def run(args: argparse.Namespace) -> int:
    """Synthesize, train the chain, print the table and write it as ``table.json`` and ``table.md``."""
    output, configs = Path(args.output), Path(args.configs)
    missing = [step.config for step in STEPS if not (configs / f"{step.config}.yaml").is_file()]
    if missing:
        raise ConfigError(f"{configs} has no {missing[0]}.yaml; run from a clone, or name its configs/quick")
    data = output / "datasets"
    call(
        ["data", "synthesize", "--layout", "cityscapes", "--output", str(data), "--seed", str(args.seed),
         "--height", "64", "--width", "128", "--num-train", str(args.num_train), "--num-val", str(args.num_val)],
        data,
    )  # fmt: skip
    rows = []
    for step in STEPS:
        started = time.monotonic()
        call(train_words(step, configs, output, args), data)
        rows.append(row_of(step, output, time.monotonic() - started))
        write_table(output, rows)
    sys.stdout.write(f"\n{as_table(rows)}\n\nThe same as {output / 'table.md'} and {output / 'table.json'}\n")
    return 0


def train_words(step: Step, configs: Path, output: Path, args: argparse.Namespace) -> list[str]:
    """The command of one experiment, without "panoptic"."""
    start = [step.key, str(output / step.start / "model_final.pth")] if step.start else []
    return [
        "train", "--config-file", str(configs / f"{step.config}.yaml"), "--num-gpus", "0",
        "OUTPUT_DIR", str(output / step.name), "SEED", str(args.seed), "TEST.INSTANCE_METRIC", "coco", *start,
        *args.opts,
    ]  # fmt: skip


def row_of(step: Step, output: Path, seconds: float) -> dict[str, Any]:
    """An experiment's line of the table, by column; None where a figure cannot be computed."""
    file = output / step.name / "inference" / "metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8"))
    groups = metrics.get("results", metrics)
    scores = {title: groups.get(group, {}).get(key) for title, group, key in COLUMNS}
    return {"experiment": step.name, "from": step.start or "random", **scores, "seconds": round(seconds, 1)}


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    from tabulate import tabulate

    return tabulate(rows, headers="keys", floatfmt=".1f", tablefmt="github", missingval="-")


def write_table(output: Path, rows: Sequence[dict[str, Any]]) -> None:
    """``table.json`` and ``table.md`` of the experiments that are done."""
    replace_file(output / "table.json", json.dumps(rows, indent=1) + "\n")
    replace_file(output / "table.md", as_table(rows) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    from panoptic_plugin.cli.run import run_cli

    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
