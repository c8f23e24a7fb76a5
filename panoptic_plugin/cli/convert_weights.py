"""``convert-pretrain-model-to-d2.py IN OUT``: third-party backbone weights to a file that MODEL.WEIGHTS takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from panoptic_plugin.backbones.weight_layouts import LAYOUTS
from panoptic_plugin.backbones.weights import ConversionReport, check_plausible, convert_state_dict
from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.engine.checkpoint_file import WRITERS, load_state_dict_file, write_checkpoint_file
from panoptic_plugin.errors import CheckpointError
from panoptic_plugin.systems.detr.weights import is_detr, to_native, to_official

SHOWN_KEYS = 5
EPILOG = """\
examples:
  an ImageNet backbone, for MODEL.WEIGHTS of a training:
    %(prog)s hrnetv2_w48_imagenet_pretrained.pth h48.pkl
  a DETR of this package under the official names:
    %(prog)s --to-official output/model_final.pth detr.pth

The last line it prints names the config keys that go with the weights.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of the converter."""
    parser = argparse.ArgumentParser(
        description="Convert ImageNet weights (SegmenTron's Xception-65, HRNet, torchvision's ResNets), semantic\n"
        "models (HRNet-OCR, NVIDIA's multi-scale attention), DETR in any layout, or Detectron2 weights for\n"
        "MODEL.WEIGHTS. The input is read as data: no code in it can run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", help="weights: a file of torch.save, safetensors or a pickle")
    parser.add_argument("output", metavar="OUT", help=f"the file to write; it ends in {', '.join(WRITERS)}")
    parser.add_argument("--to-official", action="store_true", help="write a DETR under the official names")
    parser.add_argument("--arch", choices=sorted(LAYOUTS), help="what the weights are; by default it is recognised")
    parser.add_argument("--verbose", action="store_true", help=f"list all keys, not only {SHOWN_KEYS} of each kind")
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert as the arguments say and print the table.

    Raises:
        CheckpointError: the input cannot be read, is not recognised or does not match, or the output not be written.
    """
    _check_output(Path(args.input), Path(args.output))
    loaded = load_state_dict_file(args.input)
    if args.to_official or (args.arch is None and is_detr(list(loaded))):
        _convert_detr(args, loaded)
        return
    weights, report = convert_state_dict(loaded, args.arch)
    _say(f"{args.input}: {LAYOUTS[report.layout].title}")
    _say(format_report(report, verbose=args.verbose))
    check_plausible(report, args.input)
    # Detectron2 then matches by the ends of the names: "conv1.weight" goes to "backbone.conv1.weight".
    write_checkpoint_file(
        args.output, {"model": weights, "__author__": LAYOUTS[report.layout].title, "matching_heuristics": True}
    )
    _say(f"Wrote {len(weights)} tensors to {args.output}\nUse it with MODEL.WEIGHTS {args.output} and: {report.advice}")


def _convert_detr(args: argparse.Namespace, loaded: dict[str, torch.Tensor]) -> None:
    """A DETR of any layout under our names, or with ``--to-official`` under those of the official code."""
    native = to_native(loaded)
    weights = to_official(native) if args.to_official else native
    write_checkpoint_file(args.output, {"model": weights, "__author__": "panoptic_plugin"})
    kind = "with a mask head" if any(key.startswith("mask_head.") for key in native) else "for boxes"
    _say(f"{args.input}: a DETR {kind}, {native['detr.class_embed.bias'].shape[0] - 1} classes and no object")
    _say(f"Wrote {len(weights)} tensors to {args.output}; {len(loaded) - len(native)} were no part of the network")


def format_report(report: ConversionReport, *, verbose: bool = False) -> str:
    """The report as a table: kind, number of keys, and the keys, a few of them or all."""
    kinds = {
        "matched": report.matched,
        "renamed": [f"{old} -> {new}" for old, new in report.renamed.items()],
        "dropped": report.dropped,
        "missing": report.missing,
        "other shape": [f"{key} {found} instead of {wanted}" for key, found, wanted in report.mismatched],
    }
    rows = [(kind, len(keys), _lines(keys, verbose)) for kind, keys in kinds.items()]
    return tabulate(rows, headers=("", "keys", ""), tablefmt="simple", colalign=("left", "right", "left"))


def _lines(keys: Sequence[str], verbose: bool) -> str:
    shown = list(keys) if verbose else list(keys[:SHOWN_KEYS])
    if len(keys) > len(shown):
        shown.append(f"... and {len(keys) - len(shown)} more (--verbose lists all)")
    return "\n".join(shown)


def _check_output(source: Path, target: Path) -> None:
    if target.suffix not in WRITERS:
        raise CheckpointError(f"OUT is {target}, expected a name that ends in {', '.join(WRITERS)}")
    if not target.parent.is_dir():
        raise CheckpointError(f"OUT is {target}, but the folder {target.parent} does not exist; make it first")
    if target.exists() and source.exists() and target.samefile(source):
        raise CheckpointError(f"IN and OUT are the same file, {target}; give OUT another name")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the converter; 0, or 2 after a user's mistake, which is printed as one line."""
    return run_cli(run, build_parser().parse_args(argv))
