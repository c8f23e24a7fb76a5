"""``panoptic data prepare``, ``subset`` and ``split``: datasets made ready, smaller, or divided."""

from __future__ import annotations

import argparse

from panoptic_plugin.cli.chosen import add_choices
from panoptic_plugin.cli.data_convert import say
from panoptic_plugin.data.prepare.cityscapes import prepare_cityscapes
from panoptic_plugin.data.prepare.coco import prepare_coco
from panoptic_plugin.data.prepare.split import split
from panoptic_plugin.data.prepare.subset import Choice, subset
from panoptic_plugin.errors import DatasetError

DATASETS = {
    "cityscapes": (prepare_cityscapes, "gtFine/cityscapes_panoptic_* and *_labelTrainIds.png"),
    "coco": (prepare_coco, "panoptic_stuff_*, the semantic PNGs of Panoptic FPN"),
}


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add ``prepare``, ``subset`` and ``split``."""
    _add_prepare(commands)
    _add_subset(commands)
    _add_split(commands)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    text = "write the files that Detectron2 expects of Cityscapes or COCO, after a check of the layout"
    parser = commands.add_parser("prepare", help=text, description=f"{text[0].upper()}{text[1:]}.")
    kinds = add_choices(parser, "DATASET")
    for name, (_, purpose) in DATASETS.items():
        kind = kinds.add_parser(name, help=purpose, description=f"Writes {purpose}.")
        kind.add_argument("--root", required=True, metavar="DIR", help=f"folder of {name}, or $DETECTRON2_DATASETS")
        _add_writing(kind)
        kind.set_defaults(handler=_run_prepare)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that are there")
    parser.add_argument("--num-workers", type=int, metavar="N", help="threads; the result is the same")


def _run_prepare(args: argparse.Namespace) -> int:
    prepare, _ = DATASETS[args.dataset]
    return say(*prepare(args.root, overwrite=args.overwrite, num_workers=args.num_workers))


def _add_subset(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "subset",
        help="take some images of a panoptic set, by count, class or city",
        description="Write a JSON of some images of a panoptic set. Images and PNGs stay where they are.",
    )
    parser.add_argument("--json", required=True, metavar="F", help="panoptic JSON")
    parser.add_argument("--output", required=True, metavar="F", help="the new JSON")
    parser.add_argument("--count", type=int, metavar="N", help="at most so many, drawn with --seed")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="with a segment of one of these")
    parser.add_argument("--cities", nargs="+", default=[], metavar="NAME", help="of one of these cities or folders")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, another draw (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the JSON if it is there")
    parser.set_defaults(handler=_run_subset)


def _run_subset(args: argparse.Namespace) -> int:
    if args.count is None and not args.classes and not args.cities:
        raise DatasetError("a subset by what? Give --count, --classes or --cities")
    choice = Choice(args.count, args.classes, args.cities, args.seed)
    return say(subset(args.json, args.output, choice, overwrite=args.overwrite))


def _add_split(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "split",
        help="divide a panoptic set into train, val and tuning sets",
        description="Divide a panoptic set. The same image content is never in two parts; a manifest says what is "
        "where. Images and PNGs stay where they are unless --copy is given.",
    )
    parser.add_argument("--json", required=True, metavar="F", help="panoptic JSON")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--output", required=True, metavar="DIR", help="gets train.json, val.json, ... and split.json")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["train=0.8", "val=0.2"],
        metavar="NAME=FRACTION",
        help="for example train=0.7 val=0.15 tuning=0.15 (default: train=0.8 val=0.2)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other parts (default: 0)")
    parser.add_argument("--copy", action="store_true", help="also copy images and PNGs (--panoptic) into each part")
    parser.add_argument("--panoptic", metavar="DIR", help="folder of the PNGs, for --copy")
    _add_writing(parser)
    parser.set_defaults(handler=_run_split)


def _run_split(args: argparse.Namespace) -> int:
    if args.copy and not args.panoptic:
        raise DatasetError("--copy needs --panoptic, the folder of the PNGs")
    return say(
        split(
            args.json,
            args.images,
            args.output,
            dict(_part(text) for text in args.parts),
            seed=args.seed,
            copy_from=args.panoptic if args.copy else None,
            overwrite=args.overwrite,
            num_workers=args.num_workers,
        )
    )


def _part(text: str) -> tuple[str, float]:
    name, _, fraction = text.partition("=")
    try:
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError
        return name, float(fraction)
    except ValueError:
        raise DatasetError(f"--parts has {text!r}, expected NAME=FRACTION, for example train=0.8") from None
