"""``panoptic data COMMAND``: work on datasets. Each module of :data:`MODULES` adds its parsers with ``add_parser``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from panoptic_plugin.cli import data_convert, data_grids, data_prepare, data_show, data_validate
from panoptic_plugin.cli.chosen import add_choices
from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.data.synthesize import LAYOUTS, SynthesisOptions, synthesize

DEFAULTS = SynthesisOptions()
# Each offers add_parser(commands); what it adds sets ``handler``, called with the parsed arguments.
MODULES = (data_convert, data_grids, data_prepare, data_show, data_validate)


def build_parser() -> argparse.ArgumentParser:
    """Options of ``panoptic data``; each subcommand sets ``handler``, the function that runs it."""
    parser = argparse.ArgumentParser(prog="panoptic data", description="Work on datasets.")
    commands = add_choices(parser, "COMMAND")
    _add_synthesize(commands)
    for module in MODULES:
        module.add_parser(commands)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand; returns the exit code."""
    return args.handler(args)


def _add_synthesize(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "synthesize",
        help="draw street scenes with exact panoptic labels",
        description="Draw street scenes with exact panoptic labels, in the layout of Cityscapes or COCO. The same "
        "options give the same bytes.",
    )
    default = " (default: %(default)s)"
    parser.add_argument(
        "--layout", choices=list(LAYOUTS), default=DEFAULTS.layout, help=f"folders and formats{default}"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="serves as DETECTRON2_DATASETS afterwards")
    parser.add_argument(
        "--num-train", type=int, default=DEFAULTS.num_train, metavar="N", help=f"training scenes{default}"
    )
    parser.add_argument(
        "--num-val", type=int, default=DEFAULTS.num_val, metavar="N", help=f"validation scenes{default}"
    )
    parser.add_argument("--height", type=int, default=DEFAULTS.height, metavar="H", help=f"pixels{default}")
    parser.add_argument("--width", type=int, default=DEFAULTS.width, metavar="W", help=f"pixels{default}")
    parser.add_argument(
        "--seed", type=int, default=DEFAULTS.seed, metavar="S", help=f"another seed, other scenes{default}"
    )
    parser.add_argument("--same-size", action="store_true", help="no scene of an odd size among them")
    parser.add_argument(
        "--num-workers", type=int, metavar="N", help="threads; the result is the same (default: one a core, at most 8)"
    )
    parser.set_defaults(handler=_run_synthesize)


def _run_synthesize(args: argparse.Namespace) -> int:
    options = SynthesisOptions(
        layout=args.layout,
        num_train=args.num_train,
        num_val=args.num_val,
        height=args.height,
        width=args.width,
        seed=args.seed,
        odd_sizes=not args.same_size,
    )
    folder = synthesize(args.output, options, num_workers=args.num_workers)
    sys.stdout.write(
        f"{folder}: {options.num_train} train and {options.num_val} val scenes. "
        f"Use them with: export DETECTRON2_DATASETS={folder.parent}\n"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
