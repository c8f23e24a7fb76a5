"""``panoptic data convert KIND``: between panoptic formats."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from panoptic_plugin.cli.chosen import add_choices
from panoptic_plugin.data.convert.cityscapes import SPLITS, convert_cityscapes, convert_train_ids
from panoptic_plugin.data.convert.coco_instances import InstanceOptions, convert_coco_instances
from panoptic_plugin.data.convert.cvat import convert_cvat
from panoptic_plugin.data.convert.drawings import DrawingOptions
from panoptic_plugin.data.convert.labelme import convert_labelme
from panoptic_plugin.data.convert.layers import DEFAULT_OVERLAP, OVERLAP_RULES
from panoptic_plugin.data.convert.report import Report
from panoptic_plugin.data.convert.to_instances import convert_to_instances
from panoptic_plugin.data.convert.to_semantic import VALUE_RULES, convert_to_semantic
from panoptic_plugin.data.convert.two_channel import (
    convert_from_two_channel,
    convert_to_two_channel,
    read_category_list,
)
from panoptic_plugin.errors import DatasetError

Parser = argparse.ArgumentParser
Convert = Callable[[argparse.Namespace], Report]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add ``convert`` and its kinds."""
    parser = commands.add_parser(
        "convert",
        help="turn annotations into a panoptic set, or a panoptic set into other formats",
        description="Convert between formats. Each kind says what it read, wrote and lost; no file is replaced unless "
        "--overwrite is given, and nothing is written unless all is well.",
    )
    kinds = add_choices(parser, "KIND")
    _add(kinds, "coco-instances", "COCO instance JSON -> panoptic set", _instance_options, _coco_instances)
    _add(kinds, "labelme", "LabelMe's JSON files -> panoptic set", _labelme_options, _labelme)
    _add(kinds, "cvat", "CVAT's JSON ('Datumaro 1.0') -> panoptic set", _cvat_options, _cvat)
    _add(kinds, "cityscapes", "Cityscapes gtFine -> panoptic set", _cityscapes_options, _cityscapes)
    _add(kinds, "cityscapes-train-ids", "labelIds -> labelTrainIds", _gt_fine_options, _train_ids)
    _add(kinds, "two-channel", "2-channel PNGs -> panoptic set", _two_channel_options, _from_two_channel)
    _add(kinds, "to-two-channel", "panoptic set -> 2-channel PNGs", _panoptic_options, _to_two_channel)
    _add(kinds, "to-instances", "panoptic set -> COCO instance JSON", _to_instances_options, _to_instances)
    _add(kinds, "to-semantic", "panoptic set -> semantic PNGs", _to_semantic_options, _to_semantic)


def _add(
    kinds: argparse._SubParsersAction, name: str, purpose: str, add_options: Callable[[Parser], None], convert: Convert
) -> None:
    parser = kinds.add_parser(name, help=purpose, description=purpose)
    add_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that are there")
    parser.add_argument("--num-workers", type=int, metavar="N", help="threads; the result is the same")
    parser.set_defaults(handler=_run, convert=convert)


def _run(args: argparse.Namespace) -> int:
    return say(args.convert(args))


def say(*reports: Report) -> int:
    """Write reports to stdout; returns the exit code 0."""
    for report in reports:
        sys.stdout.write("\n".join(report.lines()) + "\n")
    return 0


def _panoptic_options(parser: Parser) -> None:
    parser.add_argument("--json", required=True, metavar="F", help="panoptic JSON")
    parser.add_argument("--panoptic", required=True, metavar="DIR", help="folder of its PNGs")
    parser.add_argument("--output", required=True, metavar="OUT", help="where the result goes")


def _set_options(parser: Parser) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="gets NAME.json and the folder NAME of PNGs")
    parser.add_argument("--name", default="panoptic", help="NAME of the set (default: panoptic)")


def _overlap_option(parser: Parser) -> None:
    rules = "; ".join(f"{key}: {rule}" for key, rule in OVERLAP_RULES.items())
    parser.add_argument(
        "--overlap", choices=list(OVERLAP_RULES), default=DEFAULT_OVERLAP, help=f"{rules} (default: {DEFAULT_OVERLAP})"
    )


def _instance_options(parser: Parser) -> None:
    parser.add_argument("--json", required=True, metavar="F", help="COCO instance JSON: polygons or run-length codes")
    _set_options(parser)
    _overlap_option(parser)
    parser.add_argument("--background", metavar="NAME", help="stuff class for pixels of nothing; else they are void")
    parser.add_argument("--semantic", metavar="DIR", help="grey PNGs named like the images: stuff behind the instances")
    parser.add_argument(
        "--stuff-categories", metavar="F", help="JSON with the categories of those PNGs; their values are its ids"
    )


def _coco_instances(args: argparse.Namespace) -> Report:
    if bool(args.semantic) != bool(args.stuff_categories):
        raise DatasetError("--semantic and --stuff-categories belong together: the PNGs, and what their values mean")
    stuff = read_category_list(args.stuff_categories) if args.stuff_categories else []
    options = InstanceOptions(
        overlap=args.overlap,
        background=args.background,
        semantic_root=args.semantic,
        stuff=[category for category in stuff if not category["isthing"]],
        name=args.name,
        overwrite=args.overwrite,
        num_workers=args.num_workers,
    )
    return convert_coco_instances(args.json, args.output, options)


def _drawing_options(parser: Parser) -> None:
    _set_options(parser)
    _overlap_option(parser)
    parser.add_argument("--stuff", nargs="+", default=[], metavar="NAME", help="classes that are stuff (default: none)")


def _labelme_options(parser: Parser) -> None:
    parser.add_argument("--input", required=True, metavar="DIR", help="folder of LabelMe's JSON files")
    _drawing_options(parser)


def _cvat_options(parser: Parser) -> None:
    parser.add_argument("--json", required=True, metavar="F", help="JSON of CVAT's export 'Datumaro 1.0'")
    _drawing_options(parser)


def _drawn(args: argparse.Namespace) -> DrawingOptions:
    return DrawingOptions(args.stuff, args.overlap, args.name, args.overwrite, args.num_workers)


def _labelme(args: argparse.Namespace) -> Report:
    return convert_labelme(args.input, args.output, _drawn(args))


def _cvat(args: argparse.Namespace) -> Report:
    return convert_cvat(args.json, args.output, _drawn(args))


def _gt_fine_options(parser: Parser) -> None:
    parser.add_argument("--gt-fine", required=True, metavar="DIR", help="the gtFine folder")
    parser.add_argument("--split", choices=SPLITS, required=True)


def _cityscapes_options(parser: Parser) -> None:
    _gt_fine_options(parser)
    parser.add_argument("--output", metavar="DIR", help="where the set goes (default: the gtFine folder)")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="image names as cityscapesscripts writes them, of files that do not exist, instead of the real ones",
    )


def _cityscapes(args: argparse.Namespace) -> Report:
    return convert_cityscapes(
        args.gt_fine,
        args.split,
        args.output,
        real_image_names=not args.exact,
        overwrite=args.overwrite,
        num_workers=args.num_workers,
    )


def _train_ids(args: argparse.Namespace) -> Report:
    return convert_train_ids(args.gt_fine, args.split, overwrite=args.overwrite, num_workers=args.num_workers)


def _two_channel_options(parser: Parser) -> None:
    parser.add_argument("--input", required=True, metavar="DIR", help="2-channel PNGs, named like the images")
    parser.add_argument("--images-json", required=True, metavar="F", help="JSON whose 'images' list the set")
    parser.add_argument("--categories", metavar="F", help="JSON with the categories (default: that of --images-json)")
    _set_options(parser)


def _from_two_channel(args: argparse.Namespace) -> Report:
    return convert_from_two_channel(
        args.input,
        args.images_json,
        args.output,
        categories_json=args.categories,
        name=args.name,
        overwrite=args.overwrite,
        num_workers=args.num_workers,
    )


def _common(args: argparse.Namespace) -> dict[str, object]:
    return {"overwrite": args.overwrite, "num_workers": args.num_workers}


def _to_two_channel(args: argparse.Namespace) -> Report:
    return convert_to_two_channel(args.json, args.panoptic, args.output, **_common(args))


def _to_instances_options(parser: Parser) -> None:
    _panoptic_options(parser)
    parser.add_argument("--with-stuff", action="store_true", help="stuff segments too, as in panopticapi's format")


def _to_instances(args: argparse.Namespace) -> Report:
    return convert_to_instances(args.json, args.panoptic, args.output, with_stuff=args.with_stuff, **_common(args))


def _to_semantic_options(parser: Parser) -> None:
    _panoptic_options(parser)
    rules = "; ".join(f"{key}: {rule}" for key, rule in VALUE_RULES.items())
    parser.add_argument(
        "--values", choices=list(VALUE_RULES), default="contiguous", help=f"{rules} (default: contiguous)"
    )


def _to_semantic(args: argparse.Namespace) -> Report:
    return convert_to_semantic(args.json, args.panoptic, args.output, values=args.values, **_common(args))
