"""``panoptic tune``: loss weights and post-processing, tuned on a split of the training set."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.config import load_config
from panoptic_plugin.data.catalog import check_dataset_names, check_num_classes, register_custom_datasets
from panoptic_plugin.engine.model import check_device
from panoptic_plugin.engine.setup import make_output_folder
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.reports.tuning_page import write_page
from panoptic_plugin.tuning.engine import ENGINES
from panoptic_plugin.tuning.objective import OBJECTIVES, check_objective
from panoptic_plugin.tuning.postprocessing import tune_postprocessing
from panoptic_plugin.tuning.run import RunOptions, tune_training

EPILOG = """\
examples:
  is there an effect at all, and are other loss weights better than those of the config:
    panoptic tune --cfg configs/F.yaml --output tuned SOLVER.MAX_ITER 6000
  go on after an interruption (finished trainings are not made again):
    panoptic tune --cfg configs/F.yaml --output tuned --resume SOLVER.MAX_ITER 6000
  on a Ray cluster, one GPU a training:
    panoptic tune --cfg configs/F.yaml --output tuned --address auto
  post-processing, which needs no training; with weights that have not seen the tuning split:
    panoptic tune --cfg configs/F.yaml --output tuned --postprocessing --weights tuned/trials/.../model_final.pth

The images to tune on are cut from the training set; val and test are refused. --output receives report.html,
tuning.json, tuned.yaml (the keys to use), split/ and trials/. What is done and why: docs/tuning.md
"""
# Options that are short for a key: (option, key, type, help).
SHORT = (
    ("--trials", "TUNE.TRIALS", int, "trainings of the search, the baseline included"),
    ("--seeds", "TUNE.SEEDS", int, "seeds of the check and of each finalist, 3 or more"),
    ("--finalists", "TUNE.FINALISTS", int, "the best of the search that are trained again"),
    ("--evaluations", "TUNE.EVALUATIONS", int, "evaluations of a training"),
    ("--grace", "TUNE.GRACE", float, "share of a training before it may be stopped, 0.3 or more"),
    ("--seed", "TUNE.SEED", int, "of everything random"),
)


def build_parser() -> argparse.ArgumentParser:
    """Options of ``panoptic tune``."""
    parser = argparse.ArgumentParser(
        prog="panoptic tune",
        description="Tune loss weights, and say whether they matter at all; or tune the post-processing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cfg", "--config-file", required=True, metavar="FILE", help="config of the baseline")
    parser.add_argument("--output", metavar="DIR", help="short for OUTPUT_DIR DIR")
    parser.add_argument("--resume", action="store_true", help="go on with the study in --output")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="default: ray where it is installed")
    parser.add_argument("--address", metavar="A", help="of a Ray cluster: auto, or HOST:PORT")
    parser.add_argument("--cpus-per-trial", type=float, default=1, metavar="N", help="for Ray (default: 1)")
    parser.add_argument("--gpus-per-trial", type=float, metavar="N", help="for Ray (default: 1 unless on CPUs)")
    parser.add_argument(
        "--parameters", nargs="+", metavar="NAME", help="short for TUNE.PARAMETERS: center, offset, ..."
    )
    parser.add_argument("--space", metavar="FILE", help="YAML list of {NAME, KEY, LOW, HIGH, SCALE, RELATION}")
    parser.add_argument("--objective", metavar="NAME", help=f"short for TUNE.OBJECTIVE: {', '.join(OBJECTIVES)}")
    parser.add_argument("--tuning-cities", nargs="+", metavar="NAME", help="short for TUNE.SPLIT.CITIES")
    for option, key, kind, text in SHORT:
        parser.add_argument(option, type=kind, metavar="N", help=f"short for {key}: {text}")
    parser.add_argument("--search-anyway", action="store_true", help="also where the check finds no effect")
    parser.add_argument("--postprocessing", action="store_true", help="tune the post-processing of --weights instead")
    parser.add_argument("--weights", metavar="PATH", help="short for MODEL.WEIGHTS PATH")
    parser.add_argument("--device", metavar="NAME", help="short for MODEL.DEVICE NAME: cuda or cpu")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, after all options")
    return parser


def run(args: argparse.Namespace) -> int:
    """Tune, write the files, and say the verdict on standard output."""
    cfg = resolve_config(args)
    folder = Path(cfg.OUTPUT_DIR)
    make_output_folder(str(folder))
    set_up_log(folder)
    if args.postprocessing:
        study = tune_postprocessing(cfg, folder, command=sys.argv)
    else:
        gpus = args.gpus_per_trial
        options = RunOptions(
            engine=args.engine,
            address=args.address,
            cpus_per_trial=args.cpus_per_trial,
            gpus_per_trial=float(cfg.MODEL.DEVICE != "cpu") if gpus is None else gpus,
            resume=args.resume,
            search_anyway=args.search_anyway,
            space=read_entries(args.space) if args.space else (),
            command=sys.argv,
        )
        study = tune_training(cfg, folder, options)
    name = "postprocessing" if args.postprocessing else "tuning"
    page = write_page(study, folder / ("postprocessing.html" if args.postprocessing else "report.html"))
    sys.stdout.write(f"{study['verdict']}: {study['reason']}\n")
    sys.stdout.write(f"{page}: the report; {folder / f'{name}.json'}: all numbers; {study['override']}: keys to use\n")
    return 0


def resolve_config(args: argparse.Namespace) -> Any:
    """The frozen config of the command line.

    Raises:
        ConfigError: a file, key or value that cannot be used.
    """
    overrides = list(args.opts)
    misplaced = [word for word in overrides[::2] if str(word).startswith("--")]
    if misplaced:
        raise ConfigError(f"{misplaced[0]} stands after a KEY VALUE pair; put all options before them")
    for option, key, _, _ in SHORT:
        value = getattr(args, option.lstrip("-").replace("-", "_"))
        overrides += [key, value] if value is not None else []
    for key, value in (("OUTPUT_DIR", args.output), ("MODEL.WEIGHTS", args.weights), ("MODEL.DEVICE", args.device),
                       ("TUNE.OBJECTIVE", args.objective), ("TUNE.PARAMETERS", args.parameters),
                       ("TUNE.SPLIT.CITIES", args.tuning_cities)):  # fmt: skip
        overrides += [key, value] if value is not None else []
    cfg = load_config(args.cfg, overrides)
    check_objective(cfg.TUNE.OBJECTIVE)
    check_device(cfg.MODEL.DEVICE)
    register_custom_datasets(cfg)
    check_dataset_names(cfg)
    check_num_classes(cfg)
    cfg.freeze()
    return cfg


def read_entries(path: str) -> list[Any]:
    """The list of a ``--space`` file.

    Raises:
        ConfigError: it is missing, no YAML, or no list.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"--space {path} cannot be read: {error}") from None
    if not isinstance(content, list) or not content:
        raise ConfigError(f"--space {path} holds a {type(content).__name__}, expected a list of parameters")
    return content


def set_up_log(folder: Path) -> None:
    """The study's own log, to ``folder/log.txt`` and standard error; trials log into their folders."""
    own = logging.getLogger("panoptic_plugin.tuning")
    own.setLevel(logging.INFO)
    own.propagate = False
    for handler in own.handlers:
        handler.close()
    own.handlers = [logging.FileHandler(folder / "log.txt", encoding="utf-8"), logging.StreamHandler(sys.stderr)]
    for handler in own.handlers:
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", datefmt="%H:%M:%S"))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 2 after a mistake of the user, printed as one line."""
    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
