"""A trial that is a training: the config with other weights, on the tuning split, in a folder of its own."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, JSONWriter

from panoptic_plugin.engine.setup import LOGGERS
from panoptic_plugin.engine.termination import StopOnSignalHook
from panoptic_plugin.engine.trainer import PanopticTrainer
from panoptic_plugin.evaluation.build import panoptic_evaluator, predicts_instances
from panoptic_plugin.evaluation.evaluator import Evaluated, ImageEvaluator
from panoptic_plugin.evaluation.panoptic_labels import PanopticLabels
from panoptic_plugin.files import replace_file
from panoptic_plugin.tuning.image_scores import ImageRecords, read_images, write_images
from panoptic_plugin.tuning.objective import figures_of, score_of
from panoptic_plugin.tuning.space import Space
from panoptic_plugin.tuning.split import open_split
from panoptic_plugin.tuning.statistics import ImageScores
from panoptic_plugin.tuning.trial import Report, Request

IMAGES_FILE = "images.json"


@dataclass(frozen=True)
class TrainingObjective:
    """Trains with the values of a request and reports the score of the tuning split.

    Attributes:
        cfg: of the baseline; it is cloned for each trial.
        space: turns values into keys.
        folder: of the study; each trial writes below ``trials/KEY``.
    """

    cfg: CfgNode
    space: Space
    folder: Path

    def run(self, request: Request, report: Report) -> None:
        """See :class:`~panoptic_plugin.tuning.trial.Objective`."""
        split = open_split(self.cfg, self.folder / "split")
        cfg = self.config(request, split.train, split.tuning)
        folder = Path(cfg.OUTPUT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "config.yaml", cfg.dump(), sync=False)
        with logging_to(folder / "log.txt"):
            seed_all_rng(request.seed)
            trainer = TrialTrainer(cfg, report, self.cfg.TUNE.OBJECTIVE, keep=request.keep)
            try:
                trainer.resume_or_load(resume=False)
                trainer.train()
                if request.keep and trainer.images is not None:
                    write_images(folder / IMAGES_FILE, trainer.images)
            finally:
                del trainer
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def images(self, request: Request) -> ImageScores:
        """See :class:`~panoptic_plugin.tuning.trial.Objective`."""
        split = open_split(self.cfg, self.folder / "split")
        labels = PanopticLabels.of(MetadataCatalog.get(split.tuning))
        return read_images(self.trial_folder(request) / IMAGES_FILE, labels, self.cfg.TUNE.OBJECTIVE)

    def trial_folder(self, request: Request) -> Path:
        return self.folder / "trials" / request.key

    def config(self, request: Request, train: str, tuning: str) -> CfgNode:
        """The baseline's config with the request's values; nothing else of the training differs.

        The schedule has its full length: a trial that is stopped early is a training that was left, not a short one.
        """
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.merge_from_list(self.space.overrides(self.cfg, request.values))
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (tuning,)
        cfg.OUTPUT_DIR = str(self.trial_folder(request))
        cfg.SEED = request.seed
        cfg.TEST.EVAL_PERIOD = evaluation_period(cfg)
        cfg.TEST.EXPECTED_RESULTS, cfg.TEST.BEST_METRICS = [], []
        cfg.TEST.SAVE_PREDICTIONS = False
        cfg.SOLVER.CHECKPOINT_PERIOD = cfg.SOLVER.MAX_ITER + 1  # the last weights only, and of finalists only
        cfg.SOLVER.PLATEAU.EARLY_STOP = 0
        cfg.VIS_PERIOD = 0
        cfg.WANDB.ENABLED = False
        if not cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES and cfg.TUNE.OBJECTIVE == "PQ_AP":
            cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES = True
        cfg.freeze()
        return cfg


def evaluation_period(cfg: CfgNode) -> int:
    """Iterations between two evaluations of a trial."""
    return max(1, -(-cfg.SOLVER.MAX_ITER // cfg.TUNE.EVALUATIONS))


class TrialTrainer(PanopticTrainer):
    """Trains, evaluates on the tuning split and reports; saves nothing but the weights of trials that are kept.

    Attributes:
        images: the last evaluation's records by image.
    """

    def __init__(self, cfg: CfgNode, report: Report, objective: str, *, keep: bool) -> None:
        self._report, self._objective, self._keep = report, objective, keep
        self.images: ImageRecords | None = None
        super().__init__(cfg)

    def build_hooks(self) -> list[Any]:
        unwanted = (StopOnSignalHook,) if self._keep else (StopOnSignalHook, PeriodicCheckpointer)
        return [hook for hook in super().build_hooks() if not isinstance(hook, unwanted)]

    def build_writers(self) -> list[Any]:
        return [CommonMetricPrinter(self.max_iter), JSONWriter(str(Path(self.cfg.OUTPUT_DIR, "metrics.json")))]

    def _evaluate(self) -> dict[str, Any] | None:
        results = self.test(self.cfg, self._inference_model(), [self._tuning_evaluator()])
        self._last_eval_results = results
        done = min(self.iter + 1, self.max_iter)
        self._report(done, score_of(self._objective, results), figures_of(results))
        return results

    def _tuning_evaluator(self) -> ImageEvaluator:
        name = self.cfg.DATASETS.TEST[0]
        labels = PanopticLabels.of(MetadataCatalog.get(name))
        evaluator = panoptic_evaluator(
            labels,
            dataset_name=name,
            folder=None,
            with_instances=bool(labels.thing_ids) and predicts_instances(self.cfg),
        )
        evaluator.on_results = self._keep_images
        return evaluator

    def _keep_images(self, evaluated: Evaluated) -> None:
        self.images = ImageRecords.of(evaluated)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Let what trainings log go to a file, in the place of where it went; the study's own log stays where it is."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s] %(levelname)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    for one in loggers:
        one.handlers, one.propagate = [handler], False
        one.setLevel(logging.INFO)
    try:
        yield
    finally:
        for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
        handler.close()
