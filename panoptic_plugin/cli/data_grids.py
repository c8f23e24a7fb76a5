"""``panoptic data grids``: how SOLOv2's grids and scale ranges fit a dataset."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from panoptic_plugin.config import get_cfg, load_config
from panoptic_plugin.data.catalog import check_dataset_names, register_custom_datasets
from panoptic_plugin.data.grid_objects import GridObjects, read_objects
from panoptic_plugin.data.grid_report import Choice, GridCount, GridRule, best_choice, compare_choices
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.solo_grid import center_cells, levels_of
from panoptic_plugin.reports.dataset_samples import registered_dataset
from panoptic_plugin.systems.efficientps.solov2_targets import object_geometry

DESCRIPTION = """\
Show how the grids and scale ranges of a SOLOv2 head (MODEL.SOLOV2) fit the objects of a dataset: how many are learned
at each level, in how many cells, how many share a cell with others, and which are not learned at all because they are
outside of every range or later objects have all of their cells. The labels are resized as test images are, and the
cells are found by the rule that the training uses. Nothing is trained and nothing is changed.
"""
EPILOG = """\
examples:
  DATASETS.TRAIN of a config, with its grids:   %(prog)s --config-file configs/EfficientPS/F.yaml
  a registered dataset, other values:           %(prog)s cityscapes_fine_panoptic_train --size 512 1024 \\
                                                  --grids 80 72 48 32 24 --ranges 1,56 28,112 56,224 112,448 224,896
  a quick look at 200 images:                   %(prog)s NAME --max-images 200
"""
PERCENTILES = (1, 25, 50, 75, 99)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add ``grids`` to the commands of ``panoptic data``."""
    parser = commands.add_parser(
        "grids",
        help="show how SOLOv2's grids and scale ranges fit the objects of a dataset",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered datasets (default: DATASETS.TRAIN)")
    parser.add_argument("--config-file", metavar="F", help="whose MODEL.SOLOV2, INPUT and DATASETS are used")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("SHORT", "LONG"),
        help="shorter edge, and the most of the longer one; 0 0 resizes nothing (default: INPUT.MIN_SIZE_TEST and "
        "MAX_SIZE_TEST)",
    )
    parser.add_argument("--grids", nargs="+", type=int, metavar="S", help="cells in each direction, a level")
    parser.add_argument("--ranges", nargs="+", metavar="LOW,HIGH", help="scales in pixels of the input, a level")
    parser.add_argument("--sigma", type=float, metavar="X", help="share of a box in which its cells lie")
    parser.add_argument("--pad-to", type=int, default=32, metavar="N", help="inputs are padded to multiples (32)")
    parser.add_argument("--max-images", type=int, metavar="N", help="look at N images, evenly spread over the set")
    parser.add_argument("--workers", type=int, metavar="N", help="threads; one a core by default, at most 8")
    parser.add_argument("--json", metavar="FILE", help="write all numbers as JSON; - for standard output alone")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Count and report; returns the exit code."""
    cfg = load_config(args.config_file) if args.config_file else get_cfg()
    register_custom_datasets(cfg)
    values = _values(args, cfg)
    names = args.names or _names_of(args, cfg)
    reports = []
    for name in names:
        records, metadata = registered_dataset(name)
        objects = read_objects(
            _spread(records, args.max_images),
            metadata.thing_dataset_id_to_contiguous_id.values(),
            edges=values["edges"],
            pad_to=args.pad_to,
            geometry=object_geometry,
            max_pixels=cfg.INPUT.MAX_IMAGE_PIXELS,
            num_workers=args.workers,
        )
        arguments = {key: values[key] for key in ("num_grids", "scale_ranges", "sigma")}
        choices = compare_choices(objects, GridRule(levels_of, center_cells), **arguments)
        reports.append(_as_dict(name, objects, values, choices))
        if args.json != "-":
            sys.stdout.write(format_grids(name, objects, values, choices) + "\n\n")
    if args.json:
        text = json.dumps(reports, indent=1) + "\n"
        if args.json == "-":
            sys.stdout.write(text)
        else:
            Path(args.json).write_text(text, encoding="utf-8")
    return 0


def _names_of(args: argparse.Namespace, cfg: Any) -> list[str]:
    if not args.config_file:
        raise ConfigError("no dataset: give the NAME of a registered one, or --config-file with DATASETS.TRAIN")
    check_dataset_names(cfg)
    return list(cfg.DATASETS.TRAIN)


def _values(args: argparse.Namespace, cfg: Any) -> dict[str, Any]:
    """Grids, ranges, sigma and edges of the command line, or else of the config."""
    solo = cfg.MODEL.SOLOV2
    ranges = [_range(text) for text in args.ranges] if args.ranges else [tuple(one) for one in solo.SCALE_RANGES]
    grids = args.grids or list(solo.NUM_GRIDS)
    sigma = solo.SIGMA if args.sigma is None else args.sigma
    if len(ranges) != len(grids):
        raise ConfigError(f"there are {len(grids)} grids {grids} and {len(ranges)} scale ranges; give as many of both")
    if min(grids) < 1 or not 0 <= sigma <= 1:
        raise ConfigError(f"the grids are {grids} and sigma is {sigma}, expected grids of 1 or more, sigma 0 to 1")
    edges = tuple(args.size) if args.size else (int(cfg.INPUT.MIN_SIZE_TEST), int(cfg.INPUT.MAX_SIZE_TEST))
    if min(edges) < 0 or (edges[0] and edges[1] < edges[0]):
        raise ConfigError(f"the size is {edges[0]} {edges[1]}, expected the shorter edge and then the longer one")
    for option, number in (("--pad-to", args.pad_to), ("--max-images", args.max_images), ("--workers", args.workers)):
        if number is not None and number < 1:
            raise ConfigError(f"{option} is {number}, expected 1 or more")
    return {"num_grids": grids, "scale_ranges": ranges, "sigma": sigma, "edges": edges, "most": solo.MAX_PER_IMG}


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--ranges has {text!r}, expected LOW,HIGH for each level, for example 1,56") from None
    if not 0 <= low <= high:
        raise ConfigError(f"--ranges has {text!r}, expected a low scale and then a higher one")
    return low, high


def _spread(records: Sequence[Any], count: int | None) -> Sequence[Any]:
    if count is None or count >= len(records):
        return records
    return [records[index * len(records) // count] for index in range(count)]


def _as_dict(name: str, objects: GridObjects, values: dict[str, Any], choices: Sequence[Choice]) -> dict[str, Any]:
    best = best_choice(choices)
    return {
        "dataset": name,
        "images": objects.num_images,
        "edges": list(values["edges"]),
        "sigma": values["sigma"],
        "vanished": objects.num_vanished,
        "instances_an_image": {"median": _median(objects), "max": int(objects.an_image.max(initial=0))},
        "scale_percentiles": {str(share): round(scale, 2) for share, scale in _scales(objects).items()},
        **_choice(choices[0]),
        "others": [_choice(choice) for choice in choices[1:]],
        "suggestion": None if best is choices[0] else _choice(best),
    }


def _choice(choice: Choice) -> dict[str, Any]:
    grids = {"num_grids": list(choice.num_grids), "scale_ranges": [list(one) for one in choice.scale_ranges]}
    return {**grids, "cells_an_image": choice.num_cells, **choice.count.as_dict()}


def format_grids(name: str, objects: GridObjects, values: dict[str, Any], choices: Sequence[Choice]) -> str:
    """Tables for people: levels, what is lost, other grids and ranges, and advice."""
    count = choices[0].count
    short, long = values["edges"]
    resized = f"resized to {short}x{long} (shorter edge, longer edge at most)" if short else "not resized"
    head = [
        f"{name}: {objects.num_images} images, {resized}; {count.instances} instances, {_median(objects):g} an image "
        f"(median) and at most {int(objects.an_image.max(initial=0))}"
    ]
    if objects.num_vanished:
        head.append(f"{objects.num_vanished} instances more have no pixel at this size")
    if not count.instances:
        return "\n".join([*head, "There is nothing to learn: the dataset has no instances of things"])
    scales = ", ".join(f"{share} % {scale:.1f}" for share, scale in _scales(objects).items())
    head.append(f"scales (square root of a box's height times width, in pixels): {scales}")
    blocks = ["\n".join(head), _levels_table(count, objects), _losses(count), _others_table(choices)]
    return "\n\n".join([*blocks, "\n".join(_advice(objects, values, choices))])


def _median(objects: GridObjects) -> float:
    return float(np.median(objects.an_image)) if objects.num_images else 0.0


def _scales(objects: GridObjects) -> dict[int, float]:
    scales = objects.scales
    return {share: float(np.percentile(scales, share)) for share in PERCENTILES} if len(scales) else {}


def _levels_table(count: GridCount, objects: GridObjects) -> str:
    height, width = objects.padded.mean(axis=0)
    rows = [
        (
            f"{number}",
            f"{level.num_grid}x{level.num_grid}",
            f"{height / level.num_grid:.1f}x{width / level.num_grid:.1f}",
            f"{level.scale_range[0]:g} to {level.scale_range[1]:g}",
            level.instances,
            _percent(count.share(level.instances)),
            f"{level.cells / level.instances:.2f}" if level.instances else "-",
            _percent(level.shared_cells / level.used_cells) if level.used_cells else "-",
            _percent(level.covered / level.instances) if level.instances else "-",
        )
        for number, level in enumerate(count.levels)
    ]
    headers = ("level", "grid", "cell", "scales", "instances", "of all", "cells each", "cells shared", "covered")
    return tabulate(rows, headers=headers, colalign=("left",) * 4 + ("right",) * 5, disable_numparse=True)


def _losses(count: GridCount) -> str:
    levels = ", ".join(f"{n}: {_percent(count.share(m))}" for n, m in enumerate(count.by_levels) if m)
    cells = ", ".join(f"{n}: {_percent(count.share(m))}" for n, m in enumerate(count.by_cells) if m)
    return "\n".join(
        [
            f"levels an instance is learned at (instances): {levels}",
            f"cells an instance has, all levels together (instances): {cells}",
            f"outside of every range: {count.outside} ({_percent(count.share(count.outside))}), of which "
            f"{count.smaller} smaller, {count.between} between ranges, {count.larger} larger",
            f"covered, later instances have all their cells: {count.covered} ({_percent(count.share(count.covered))})",
            f"not learned, both together: {count.lost} ({_percent(count.share(count.lost))})",
        ]
    )


def _others_table(choices: Sequence[Choice]) -> str:
    rows = [
        (
            " ".join(map(str, choice.num_grids)),
            _ranges(choice),
            choice.num_cells,
            _percent(choice.count.share(choice.count.outside)),
            _percent(choice.count.share(choice.count.covered)),
            _percent(choice.count.share(choice.count.lost)),
        )
        for choice in choices
    ]
    headers = ("NUM_GRIDS", "SCALE_RANGES", "cells", "outside", "covered", "not learned")
    table = tabulate(rows, headers=headers, colalign=("left", "left") + ("right",) * 4, disable_numparse=True)
    return f"these values, and others:\n{table}"


def _advice(objects: GridObjects, values: dict[str, Any], choices: Sequence[Choice]) -> list[str]:
    given, best, most = choices[0], best_choice(choices), int(objects.an_image.max())
    lines = []
    if best is given:
        lines.append("suggestion: keep these values; no other ones that were tried are clearly better")
    else:
        lost = f"{_percent(given.count.share(given.count.lost))} to {_percent(best.count.share(best.count.lost))}"
        lines.append(f"suggestion, instances that are not learned go from {lost}:")
        if best.num_grids != given.num_grids:
            lines.append(f'  MODEL.SOLOV2.NUM_GRIDS "{list(best.num_grids)}"')
        if best.scale_ranges != given.scale_ranges:
            lines.append(f'  MODEL.SOLOV2.SCALE_RANGES "[{_ranges(best, "[{:g}, {:g}]", ", ")}]"')
        if best.num_cells > given.num_cells:
            times = best.num_cells / given.num_cells
            lines.append(f"  the towers then cost {times:.1f} times as much; CHANNELS 256, NUM_CONVS 2 pay for it")
    if unused := [str(number) for number, level in enumerate(given.count.levels) if not level.instances]:
        lines.append(f"levels without an instance, so that they learn background only: {', '.join(unused)}")
    if most > values["most"]:
        full = int((objects.an_image > values["most"]).sum())
        lines.append(
            f"images with more instances than a result holds, MODEL.SOLOV2.MAX_PER_IMG {values['most']}: {full}; "
            f"set it to {most} or more"
        )
    return lines


def _ranges(choice: Choice, form: str = "{:g}-{:g}", separator: str = " ") -> str:
    return separator.join(form.format(*one) for one in choice.scale_ranges)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
