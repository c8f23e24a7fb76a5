"""``panoptic report``: one page about one or several runs."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.catalog import register_custom_datasets
from panoptic_plugin.data.datasets.builtin import register_builtin_datasets
from panoptic_plugin.errors import ConfigError, UserError
from panoptic_plugin.reports.run_files import Run, flatten, read_runs
from panoptic_plugin.reports.run_report import ReportOptions, write_report

EPILOG = """\
examples:
  panoptic report output                          writes output/report.html and output/report_plots/*.png
  panoptic report output1 output2 --output a.html compares two runs; differences are to the first
  panoptic report output --no-images              no pictures: a page of less than a megabyte

Images, confusion and sizes need predictions (evaluate with TEST.SAVE_PREDICTIONS True) and the dataset, which is
searched below $DETECTRON2_DATASETS as in training. What is missing is said on the page.
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of ``panoptic report``."""
    parser = argparse.ArgumentParser(
        prog="panoptic report",
        description="One HTML page about runs that opens from disk and needs no other file: scores, learning curves, "
        "classes, confusion, object sizes, best and worst images, time, environment and settings.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a training or evaluation")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in the first RUN)")
    parser.add_argument(
        "--max-images", type=int, default=6, metavar="N", help="images of each group: worst, best, ... (default: 6)"
    )
    parser.add_argument("--no-images", action="store_true", help="leave the pictures out; scores stay")
    parser.add_argument(
        "--dataset", metavar="NAME", help="which one, where a run evaluated several (default: its first)"
    )
    parser.add_argument("--datasets", metavar="DIR", help="folder of the datasets (default: $DETECTRON2_DATASETS)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the report; returns the exit code."""
    if args.max_images < 0:
        raise ConfigError(f"--max-images is {args.max_images}, expected 0 or more")
    started = time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    runs = read_runs(args.runs, args.dataset)
    output = _output(args.output, runs[0])
    _register_datasets(runs, args.datasets)
    options = ReportOptions(
        max_images=0 if args.no_images else args.max_images,
        defaults=flatten(get_cfg()),
    )
    folder = write_report(runs, output, options)
    size, seconds = output.stat().st_size / 1e6, time.monotonic() - started
    sys.stdout.write(f"{output}: {size:.1f} MB after {seconds:.0f} s; plots as PNG in {folder}\n")
    for one in runs:
        for problem in one.problems:
            sys.stdout.write(f"note, {one.name}: {problem}\n")
    return 0


def _output(given: str | None, first: Run) -> Path:
    if given is None:
        return first.folder / "report.html"
    path = Path(given)
    return path / "report.html" if path.is_dir() else path


def _register_datasets(runs: Sequence[Run], root: str | None) -> None:
    """Make the datasets of the runs known; one that cannot be read is a sentence on the page, not the end."""
    if root is not None:
        if not Path(root).is_dir():
            raise ConfigError(f"--datasets {root} is no folder; name the one that holds cityscapes/, coco/, ...")
        register_builtin_datasets(root)
    for one in runs:
        custom: Any = one.config.get("DATASETS.CUSTOM") or []
        cfg = get_cfg()
        cfg.DATASETS.CUSTOM = custom
        try:
            register_custom_datasets(cfg)
        except UserError as error:
            one.problems.append(f"DATASETS.CUSTOM of its config cannot be used: {error}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
