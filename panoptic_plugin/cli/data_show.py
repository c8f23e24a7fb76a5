"""``panoptic data show``: what is in a dataset, as pictures or one HTML page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from panoptic_plugin.config import load_config
from panoptic_plugin.data.catalog import register_custom_datasets
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.reports.dataset_page import html_page
from panoptic_plugin.reports.dataset_samples import (
    dataset_from_files,
    draw_sample,
    pick,
    registered_dataset,
    write_pictures,
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add ``show``."""
    parser = commands.add_parser(
        "show",
        help="draw samples of a panoptic set: masks, ids, class names",
        description="Draw samples of a panoptic set: masks, segment ids and class names over the images.",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a registered dataset; or give --json, --panoptic, --images"
    )
    parser.add_argument("--config-file", metavar="F", help="whose DATASETS.CUSTOM describes NAME")
    parser.add_argument("--json", metavar="F", help="panoptic JSON")
    parser.add_argument("--panoptic", metavar="DIR", help="folder of its PNGs")
    parser.add_argument("--images", metavar="DIR", help="folder of its images")
    parser.add_argument("--output", required=True, metavar="OUT", help="folder of PNGs; with --html, a file")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="samples (default: 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other samples (default: 0)")
    parser.add_argument("--html", action="store_true", help="one page that holds everything, instead of PNGs")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that are there")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Draw; returns the exit code."""
    title, (records, metadata) = _dataset(args)
    samples = [draw_sample(record, metadata) for record in pick(records, args.count, args.seed)]
    if args.html:
        target = Path(args.output)
        if target.is_dir() or not target.suffix:
            target = target / "index.html"
        with Staging(target.parent, overwrite=args.overwrite) as stage:
            stage.path(target.name).write_text(html_page(title, samples), encoding="utf-8")
        written = str(target)
    else:
        written = f"{len(write_pictures(samples, args.output, overwrite=args.overwrite))} PNGs in {args.output}"
    sys.stdout.write(f"{title}: {len(samples)} of {len(records)} images drawn: {written}\n")
    return 0


def _dataset(args: argparse.Namespace) -> tuple[str, tuple[list[dict[str, Any]], Any]]:
    files = (args.json, args.panoptic, args.images)
    if bool(args.name) == any(files) or (any(files) and not all(files)):
        raise DatasetError("give either NAME of a registered dataset, or all of --json F --panoptic DIR --images DIR")
    if not args.name:
        return Path(args.json).name, dataset_from_files(args.json, args.panoptic, args.images)
    if args.config_file:
        register_custom_datasets(load_config(args.config_file))
    return args.name, registered_dataset(args.name)
