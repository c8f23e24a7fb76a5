"""Train or evaluate a model: ``train_panoptic_deeplab.py``, ``tools/train_deeplab.py``, ``panoptic train``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from datetime import timedelta

from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.config import load_config
from panoptic_plugin.config_merge import check_pairs
from panoptic_plugin.config_values import check_values
from panoptic_plugin.data.catalog import check_dataset_names, check_num_classes, register_custom_datasets
from panoptic_plugin.data.validate.training import check_before_training
from panoptic_plugin.engine.benchmark import benchmark
from panoptic_plugin.engine.epochs import resolve_epochs
from panoptic_plugin.engine.inference import load_for_inference
from panoptic_plugin.engine.job_lock import only_training_in
from panoptic_plugin.engine.launch import choose_num_gpus, launch
from panoptic_plugin.engine.model import check_device, check_device_name
from panoptic_plugin.engine.plateau import check_plateau
from panoptic_plugin.engine.setup import make_output_folder, set_up_job
from panoptic_plugin.engine.trainer import PanopticTrainer
from panoptic_plugin.errors import CheckpointError, ConfigError, DatasetError, UserError
from panoptic_plugin.evaluation.build import build_evaluator

logger = logging.getLogger(__name__)

EPILOG = """\
examples:
  train on one GPU, or on the CPU:
    %(prog)s --config-file F.yaml
    %(prog)s --config-file F.yaml --num-gpus 0
  train on 8 GPUs; on 2 machines with 8 each:
    %(prog)s --config-file F.yaml --num-gpus 8
    %(prog)s --config-file F.yaml --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://IP:PORT
  the same under torchrun, which must start the file, not the console script:
    torchrun --nproc-per-node 8 train_panoptic_deeplab.py --config-file F.yaml
  evaluate:
    %(prog)s --config-file F.yaml --eval-only --weights output/model_final.pth
"""


# In the words of this package, for Detectron2's options.
HELP = {
    "config_file": "YAML file of the model, its data and its training",
    "resume": "go on from the newest whole checkpoint of OUTPUT_DIR; with --eval-only evaluate it",
    "eval_only": "evaluate on DATASETS.TEST and do not train",
    "num_gpus": "GPUs of this machine; 0 is the CPU (default: 1, or 0 where there is none)",
    "num_machines": "machines that train together (default: %(default)s)",
    "machine_rank": "number of this machine, from 0 (default: %(default)s)",
    "dist_url": "where machine 0 is met, tcp://HOST:PORT (default: a free port of this machine)",
    "opts": "values of config keys, as KEY VALUE pairs after all options, for example SOLVER.MAX_ITER 1000",
}


def build_parser() -> argparse.ArgumentParser:
    """Detectron2's options (``--config-file --resume --eval-only --num-gpus ...``, then KEY VALUE), and ours."""
    parser = default_argument_parser(EPILOG)
    parser.description = "Train a model from a config file, or evaluate it."
    for action in parser._actions:
        action.help = HELP.get(action.dest, action.help)
    # Not given is told from given: without a GPU the default falls back to the CPU, an explicit number does not.
    parser.set_defaults(num_gpus=None)
    parser.add_argument("--weights", metavar="PATH", help="short for MODEL.WEIGHTS PATH")
    parser.add_argument("--device", metavar="NAME", help="short for MODEL.DEVICE NAME: cuda or cpu")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and exit")
    return parser


def run(args: argparse.Namespace) -> int:
    """Check the config here, then train or evaluate in every process of the job."""
    cfg, num_gpus = resolve_config(args)
    if args.dry_run:
        sys.stdout.write(cfg.dump())
        return 0
    check_inputs(cfg, args)
    launch(
        work,
        num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(cfg, args),
        timeout=timedelta(seconds=cfg.DISTRIBUTED.TIMEOUT),
    )
    return 0


def resolve_config(args: argparse.Namespace):
    """The frozen config of the command line, and the number of GPUs to use.

    Raises:
        ConfigError: a file, key or value that cannot be used, or GPUs that are not there.
    """
    overrides = list(args.opts)
    misplaced = [word for word in overrides[::2] if str(word).startswith("--")]
    if misplaced:
        raise ConfigError(f"{misplaced[0]} stands after a KEY VALUE pair; put all options before them")
    if not args.config_file:
        raise ConfigError("no config: give --config-file with a YAML file, for example one of the folder configs")
    check_pairs(overrides)
    if args.weights is not None:
        overrides += ["MODEL.WEIGHTS", args.weights]
    if args.device is not None:
        check_device(args.device)  # an explicit device does not fall back to the CPU
        overrides += ["MODEL.DEVICE", args.device]
    if args.num_gpus == 0 and args.device is None:
        overrides += ["MODEL.DEVICE", "cpu"]
    cfg = load_config(args.config_file, overrides)
    check_device_name(cfg.MODEL.DEVICE)
    num_gpus = choose_num_gpus(args.num_gpus, cfg.MODEL.DEVICE)
    if num_gpus == 0:
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg, num_gpus


def check_inputs(cfg, args: argparse.Namespace) -> None:
    """Find mistakes before a process is started or a folder made: datasets, number of classes, weights, device.

    Raises:
        ConfigError, DatasetError, CheckpointError: what is wrong, and the remedy.
    """
    check_values(cfg)
    if not args.eval_only:
        check_plateau(cfg)
    register_custom_datasets(cfg)
    check_dataset_names(cfg)
    check_num_classes(cfg)
    check_device(cfg.MODEL.DEVICE)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        raise CheckpointError("--eval-only needs weights; name them with --weights PATH, or evaluate the last "
                              "checkpoint of OUTPUT_DIR with --resume")  # fmt: skip
    if args.eval_only and not cfg.DATASETS.TEST:
        raise ConfigError("--eval-only needs a dataset; name it in DATASETS.TEST")


def work(cfg, args: argparse.Namespace) -> None:
    """The job of one process."""
    register_custom_datasets(cfg)  # again where the process is a new one
    if args.eval_only:
        set_up_job(cfg, command=sys.argv, keep_config=True)
        evaluate(cfg, resume=args.resume)
        return
    cfg = resolve_epochs(cfg)
    make_output_folder(cfg.OUTPUT_DIR)
    with only_training_in(cfg.OUTPUT_DIR):
        set_up_job(cfg, command=sys.argv)
        check_datasets(cfg)
        trainer = PanopticTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()


def check_datasets(cfg) -> None:
    """Validate the datasets on the main process; what it finds ends all processes in the same way.

    Raises:
        DatasetError: a dataset has faults; see ``DATASETS.VALIDATE``.
    """
    error = ""
    if comm.is_main_process():
        try:
            check_before_training(cfg)
        except UserError as found:
            error = str(found)
    error = comm.all_gather(error)[0]
    if error:
        raise DatasetError(error)


def evaluate(cfg, *, resume: bool = False) -> dict:
    """Evaluate ``MODEL.WEIGHTS`` (with ``resume`` the last checkpoint) on ``DATASETS.TEST``, or time its inference.

    Raises:
        CheckpointError: the weights are missing, damaged or do not fit.
    """
    model = load_for_inference(cfg, resume=resume)
    if cfg.MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED:
        return benchmark(model, PanopticTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]), cfg.OUTPUT_DIR)
    checkpoint = getattr(model, "weights_file", "")
    evaluators = [build_evaluator(cfg, name, checkpoint=checkpoint) for name in cfg.DATASETS.TEST]
    results = PanopticTrainer.test(cfg, model, evaluators)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 2 after a mistake of the user, printed as one line."""
    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
