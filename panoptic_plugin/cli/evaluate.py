"""``panoptic evaluate``: score predictions that are on disk, or predict and score."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from panoptic_plugin.cli import train
from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.config import get_cfg, load_config
from panoptic_plugin.data.catalog import check_dataset_names, register_custom_datasets
from panoptic_plugin.data.panoptic_json import metadata_from_categories, read_categories
from panoptic_plugin.engine.setup import make_output_folder
from panoptic_plugin.errors import ConfigError, DatasetError
from panoptic_plugin.evaluation import saved
from panoptic_plugin.evaluation.build import panoptic_evaluator
from panoptic_plugin.evaluation.fingerprint import dataset_fingerprint
from panoptic_plugin.evaluation.panoptic_labels import PANOPTIC_TYPES, PanopticLabels, use_cache
from panoptic_plugin.evaluation.result_files import Report
from panoptic_plugin.evaluation.saved import SavedPredictions, score_saved
from panoptic_plugin.registry import suggestion

DESCRIPTION = """\
Score panoptic predictions: PQ, SQ, RQ, mIoU, and AP where segments have scores.

With --predictions nothing is predicted: a folder that an evaluation has written is scored again, or a JSON with PNGs
in COCO's panoptic format that any other program has written. Without it the model of --config-file predicts first.
"""
EPILOG = """\
examples:
  score saved predictions again, with the dataset of the config:
    %(prog)s --predictions output/inference/predictions --config-file output/config.yaml
  score predictions of another program:
    %(prog)s --predictions results.json --json panoptic_val2017.json --panoptic panoptic_val2017 --output scores
  predict and score:
    %(prog)s --config-file F.yaml --weights output/model_final.pth

What --output holds afterwards (metrics.json, per_image.jsonl, confusion.json): docs/evaluation.md
"""
# Entries of predictions that say where they come from, and stay true when they are scored again.
ORIGIN = ("checkpoint", "iteration", "config_sha256")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="panoptic evaluate",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    on_disk = parser.add_argument_group("predictions that are on disk")
    on_disk.add_argument(
        "--predictions", metavar="PATH", help="a JSON in COCO's panoptic format, or the folder of it or of a run"
    )
    truth = parser.add_argument_group("ground truth, either a registered dataset of the config or files")
    truth.add_argument("--config-file", metavar="FILE", help="a config; its DATASETS.TEST is the ground truth")
    truth.add_argument("--dataset", metavar="NAME", help="which one, where DATASETS.TEST names several")
    truth.add_argument("--json", metavar="FILE", help="panoptic JSON of the ground truth")
    truth.add_argument("--panoptic", metavar="DIR", help="folder of its PNGs (default: of the JSON's name, beside it)")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="write metrics.json, per_image.jsonl and confusion.json there (without --predictions: into DIR/inference)",
    )
    parser.add_argument(
        "--boundary", action="store_true", help="also Boundary PQ and Boundary IoU (as TEST.BOUNDARY True)"
    )
    model = parser.add_argument_group("predicting first (without --predictions)")
    model.add_argument("--weights", metavar="PATH", help="short for MODEL.WEIGHTS PATH")
    model.add_argument("--resume", action="store_true", help="evaluate the last checkpoint of OUTPUT_DIR")
    model.add_argument("--device", metavar="NAME", help="short for MODEL.DEVICE NAME: cuda or cpu")
    model.add_argument("--num-gpus", metavar="N", type=int, help="processes, one a GPU; 0 is the CPU")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, after all options")
    return parser


def run(args: argparse.Namespace) -> int:
    """Score; the table goes to standard output."""
    if args.opts and not args.config_file:
        raise ConfigError(f"{args.opts[0]} is a key of a config; give --config-file too")
    if args.predictions is None:
        return _predict_and_score(args)
    foreign = [name for name in ("weights", "device", "num_gpus") if getattr(args, name) is not None]
    if foreign:
        option = f"--{foreign[0].replace('_', '-')}"
        raise ConfigError(f"{option} is for predicting, but with --predictions nothing is predicted; leave one out")
    _show_progress()
    if args.output:
        make_output_folder(args.output, "--output")  # before the scoring, which its failure would make vain
    predictions = SavedPredictions(args.predictions)
    name, metadata, cfg = _ground_truth(args, predictions)
    labels = PanopticLabels.of(metadata)
    use_cache(cfg, labels, name)
    boundary = cfg.TEST.BOUNDARY_DILATION if args.boundary or cfg.TEST.BOUNDARY else None
    sys.stdout.write(score(predictions, name, labels, args.output, boundary) + "\n")
    return 0


def score(
    predictions: SavedPredictions,
    dataset_name: str,
    labels: PanopticLabels,
    output: str | None = None,
    boundary: float | None = None,
) -> str:
    """Score saved predictions of one dataset.

    Args:
        predictions: what to score.
        dataset_name: for the report.
        labels: the ground truth.
        output: folder of the files to write, or None.
        boundary: see :func:`~panoptic_plugin.evaluation.build.panoptic_evaluator`.

    Returns:
        The tables.
    """
    evaluator = panoptic_evaluator(
        labels,
        dataset_name=dataset_name,
        folder=Path(output) if output else None,
        with_instances=bool(labels.thing_ids) and predictions.has_scores,
        boundary=boundary,
        about=partial(_origin, predictions),
        classes_from="semantic" if predictions.has_classes else "panoptic",
        predictions=predictions.path.parent,
    )
    _warn_of_another_truth(predictions, labels)
    score_saved(evaluator, predictions, labels.contiguous_ids, labels.thing_ids)
    report = evaluator.on_results
    return report.tables if isinstance(report, Report) else ""


def _show_progress() -> None:
    """Progress and warnings on standard error, so that standard output holds the tables alone."""
    progress = logging.getLogger(saved.__name__)
    progress.setLevel(logging.INFO)
    progress.handlers = [logging.StreamHandler()]
    progress.propagate = False


def _origin(predictions: SavedPredictions) -> dict[str, Any]:
    return {name: predictions.info.get(name) for name in ORIGIN}


def _warn_of_another_truth(predictions: SavedPredictions, labels: PanopticLabels) -> None:
    before = predictions.info.get("dataset_fingerprint")
    if before and before != dataset_fingerprint(*labels.truth.files):
        sys.stderr.write(
            "note: the ground truth is not the one that these predictions were made for (another JSON, or labels of "
            "other sizes)\n"
        )


def _ground_truth(args: argparse.Namespace, predictions: SavedPredictions) -> tuple[str, Any, CfgNode]:
    """Name and metadata of the dataset, and the config whose TEST says how it is evaluated."""
    if (args.config_file is None) == (args.json is None):
        raise ConfigError("name the ground truth: either --config-file, or --json with --panoptic")
    if args.json is not None:
        return Path(args.json).stem, _metadata_of_files(args.json, args.panoptic), get_cfg()
    if args.panoptic is not None:
        raise ConfigError("--panoptic goes with --json; with --config-file the dataset names its folder")
    cfg = load_config(args.config_file, args.opts)
    register_custom_datasets(cfg)
    check_dataset_names(cfg)
    name = _chosen(cfg.DATASETS.TEST, args.dataset, predictions.info.get("dataset"))
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type", None) not in PANOPTIC_TYPES:
        raise ConfigError(f"dataset {name} has no panoptic ground truth, which --predictions needs")
    return name, metadata, cfg


def _chosen(names: Sequence[str], wanted: str | None, predicted: Any) -> str:
    if wanted is not None:
        if wanted not in names:
            raise ConfigError(f"--dataset {wanted} is not in DATASETS.TEST. {suggestion(wanted, list(names))}")
        return wanted
    if len(names) == 1:
        return names[0]
    if predicted in names:
        return predicted
    if not names:
        raise ConfigError("DATASETS.TEST of the config is empty; name the dataset there, or use --json and --panoptic")
    raise ConfigError(f"DATASETS.TEST names several datasets; choose one with --dataset: {', '.join(names)}")


def _metadata_of_files(json_file: str, folder: str | None) -> Metadata:
    root = Path(folder) if folder else Path(json_file).with_suffix("")
    derived = metadata_from_categories(read_categories(json_file))
    if not root.is_dir():
        raise DatasetError(f"the folder {root} of the ground truth's PNGs does not exist; name it with --panoptic")
    return Metadata().set(
        **derived, panoptic_json=json_file, panoptic_root=str(root), evaluator_type="coco_panoptic_seg"
    )


def _predict_and_score(args: argparse.Namespace) -> int:
    if args.json is not None or args.panoptic is not None:
        raise ConfigError(
            "--json and --panoptic go with --predictions; the model of a config needs --config-file alone"
        )
    if not args.config_file:
        raise ConfigError("give --predictions PATH to score what is on disk, or --config-file FILE to predict first")
    words = ["--config-file", args.config_file, "--eval-only"]
    for name in ("weights", "device", "num_gpus"):
        value = getattr(args, name)
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    words += ["--resume"] if args.resume else []
    words += args.opts
    words += ["OUTPUT_DIR", args.output] if args.output else []
    words += ["TEST.BOUNDARY", "True"] if args.boundary else []
    words += ["DATASETS.TEST", f"('{args.dataset}',)"] if args.dataset else []
    return train.run(train.build_parser().parse_args(words))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 2 after a mistake of the user, printed as one line."""
    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
