"""``panoptic data validate``: find the faults of a dataset, and write a corrected JSON."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace

from panoptic_plugin.config import get_cfg, load_config
from panoptic_plugin.data.catalog import check_dataset_names, register_custom_datasets
from panoptic_plugin.data.validate.plot import save_plot
from panoptic_plugin.data.validate.repair import Repair, changes_path, repair
from panoptic_plugin.data.validate.report import MAX_ROWS, format_report, write_json
from panoptic_plugin.data.validate.run import Report, validate_together
from panoptic_plugin.data.validate.source import FAST, FULL, Settings, Source, settings_of, source_of
from panoptic_plugin.errors import ConfigError

DESCRIPTION = """\
Find the faults of a dataset: missing, damaged or mismatched files, ids, areas and boxes that do not agree, unknown
categories, the same picture in two splits, and more. Nothing is changed. The exit code is 1 where there are errors,
0 where there are none (warnings alone are 0), 2 where the command itself is wrong.
"""
EPILOG = """\
examples:
  a registered dataset:                     %(prog)s cityscapes_fine_panoptic_val
  DATASETS.TRAIN and TEST of a config:      %(prog)s --config-file F.yaml
  files that are not registered:            %(prog)s --json panoptic.json --images images --panoptic labels
  write a corrected JSON beside:            %(prog)s NAME --repair fixed.json
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add ``validate`` to the commands of ``panoptic data``."""
    parser = commands.add_parser(
        "validate",
        help="find the faults of a dataset before they cost a training",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered datasets, or of DATASETS.CUSTOM")
    parser.add_argument("--config-file", metavar="F", help="config with DATASETS.CUSTOM, the pixel budget, the model")
    parser.add_argument("--json", metavar="F", help="panoptic JSON of a dataset that is not registered")
    parser.add_argument("--images", metavar="DIR", help="its images")
    parser.add_argument("--panoptic", metavar="DIR", help="its panoptic PNGs")
    parser.add_argument("--semantic", metavar="DIR", help="its semantic PNGs, if there are any")
    parser.add_argument(
        "--against",
        nargs=3,
        action="append",
        default=[],
        metavar=("JSON", "IMAGES", "PANOPTIC"),
        help="another split, which must not hold the same pictures; may be given again",
    )
    parser.add_argument("--fast", action="store_true", help="headers and JSON only, no pixel is decoded")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="pixel budget of a file")
    parser.add_argument("--workers", type=int, metavar="N", help="threads; one a core by default, at most 8")
    parser.add_argument("--max-rows", type=int, default=MAX_ROWS, metavar="N", help=f"rows printed ({MAX_ROWS})")
    parser.add_argument("--json-report", metavar="FILE", help="write all findings as JSON")
    parser.add_argument("--plot", metavar="FILE", help="write a PNG with classes and sizes of segments")
    parser.add_argument("--repair", metavar="OUT", help="write a corrected JSON; never over an existing file")
    parser.add_argument(
        "--void-labels", metavar="DIR", help="with --repair: write labels too, in which unlisted pixels are void"
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Validate and report; returns the exit code."""
    cfg = load_config(args.config_file) if args.config_file else None
    sources, settings = _sources(args, cfg), _settings(args, cfg)
    _check_outputs(args, sources)
    others = [Source(f"{json} (--against)", json, images, panoptic) for json, images, panoptic in args.against]
    reports = validate_together(sources, settings, others=others)
    for report in reports:
        sys.stdout.write(format_report(report, args.max_rows) + "\n\n")
    if args.json_report:
        write_json(args.json_report, reports)
    if args.plot:
        for report in reports:
            save_plot(_plot_path(args.plot, report, len(reports)), report)
    if args.repair:
        _say_repair(repair(reports[0], args.repair, args.void_labels), reports[0], args)
    return int(any(report.num_errors for report in reports))


def _sources(args: argparse.Namespace, cfg) -> list[Source]:
    names = list(args.names)
    given = {"--json": args.json, "--images": args.images, "--panoptic": args.panoptic}
    if any(given.values()):
        missing = [option for option, value in given.items() if not value]
        if missing or names:
            what = f"{missing[0]} is missing" if missing else f"the name {names[0]!r} and --json stand together"
            raise ConfigError(f"{what}; give either names, or all of {', '.join(given)}")
        return [Source(args.json, args.json, args.images, args.panoptic, args.semantic)]
    if cfg is not None:
        register_custom_datasets(cfg)
        if not names:
            check_dataset_names(cfg)
            names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    if not names:
        raise ConfigError("nothing to validate: give a name, --config-file, or --json, --images and --panoptic")
    found = {name: source_of(name) for name in names}
    for name, source in found.items():
        if source is None and name in args.names:
            raise ConfigError(f"dataset {name!r} has no panoptic labels, which are what is validated")
    sources = [source for source in found.values() if source is not None]
    if not sources:
        raise ConfigError(f"none of the datasets {', '.join(names)} has panoptic labels, which are what is validated")
    return sources


def _settings(args: argparse.Namespace, cfg) -> Settings:
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}, expected 1 or more")
    depth = FAST if args.fast else FULL
    if cfg is None:
        # Without a config nothing is known of a model.
        settings = replace(settings_of(get_cfg(), depth, args.workers), max_segments=None)
    else:
        settings = settings_of(cfg, depth, args.workers)
    return settings if args.max_pixels is None else replace(settings, max_pixels=args.max_pixels)


def _check_outputs(args: argparse.Namespace, sources: list[Source]) -> None:
    """Mistakes that would show only after the whole pass."""
    if args.void_labels and not args.repair:
        raise ConfigError("--void-labels goes with --repair OUT")
    if not args.repair:
        return
    if len(sources) > 1:
        raise ConfigError(f"--repair writes one JSON, but there are {len(sources)} datasets; name one of them")
    if args.fast:
        raise ConfigError("--repair needs every pixel; leave out --fast")
    for path in (args.repair, changes_path(args.repair), args.void_labels):
        if path and os.path.lexists(path):
            raise ConfigError(f"{path} exists; a repair never overwrites: remove it or choose another name")


def _plot_path(path: str, report: Report, num_reports: int) -> str:
    stem, suffix = os.path.splitext(path)
    return path if num_reports == 1 else f"{stem}_{report.source.name}{suffix or '.png'}"


def _say_repair(done: Repair, report: Report, args: argparse.Namespace) -> None:
    lines = [
        f"{args.repair}: {done.kept} records, {len(done.changed)} of them changed, {len(done.dropped)} dropped; "
        f"all changes are listed in {changes_path(args.repair)}"
    ]
    lines += [f"  dropped {entry['file_name']}: {', '.join(entry['reasons'])}" for entry in done.dropped[:10]]
    lines += [f"  {note}" for note in done.notes[:10]]
    labels = args.void_labels or report.source.panoptic_root
    lines.append(f"Use it with the images in {report.source.image_root} and the labels in {labels}")
    sys.stdout.write("\n".join(lines) + "\n")
