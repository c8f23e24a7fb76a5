"""The trainer: Detectron2's DefaultTrainer for panoptic models, on CPUs and GPUs, in one process or many."""

from __future__ import annotations

import logging
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.engine.hooks import LRScheduler as Detectron2LRScheduler
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from panoptic_plugin.data.loader import build_test_loader, build_train_loader
from panoptic_plugin.engine.averaging import CHECKPOINT_KEY, build_averaged_weights
from panoptic_plugin.engine.best_checkpoint import BestCheckpointHook
from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.class_charts import build_class_charts
from panoptic_plugin.engine.exact_resume import data_state, restore_data, seed_iteration
from panoptic_plugin.engine.hooks import EvaluationHook, SummaryHook
from panoptic_plugin.engine.inference import for_inference
from panoptic_plugin.engine.label_maps import label_maps
from panoptic_plugin.engine.loss_log import file_names
from panoptic_plugin.engine.manifest import note_start
from panoptic_plugin.engine.memory import explain, explain_lost_worker
from panoptic_plugin.engine.model import build_model, prepare_for_training, share_buffers, unwrap, wrap_distributed
from panoptic_plugin.engine.non_finite import check_weights
from panoptic_plugin.engine.optim import build_lr_scheduler, build_optimizer
from panoptic_plugin.engine.plateau import PlateauHook, WarmupPlateau
from panoptic_plugin.engine.pretrained import load_pretrained_parts
from panoptic_plugin.engine.preview import build_preview_hooks
from panoptic_plugin.engine.step_hooks import CheckHook, LRScheduler
from panoptic_plugin.engine.termination import StopOnSignalHook
from panoptic_plugin.engine.train_step import build_train_step
from panoptic_plugin.engine.wandb_writer import check_wandb
from panoptic_plugin.engine.writers import make_writers
from panoptic_plugin.errors import CheckpointError, OutOfMemoryError, UserError
from panoptic_plugin.evaluation.build import build_evaluator

logger = logging.getLogger(__name__)


class PanopticTrainer(DefaultTrainer):
    """Trains, saves, evaluates and logs as DefaultTrainer does, and is extended in the same way.

    ``build_model``, ``build_optimizer``, ``build_lr_scheduler``, ``build_train_loader``, ``build_test_loader``,
    ``build_evaluator`` and ``test`` are class methods; ``build_hooks`` and ``build_writers`` methods. What differs:
    it runs on CPUs and with gloo too, mixed precision can be bfloat16, the optimizer's state is in the checkpoint
    with every Detectron2 version, and a number that is not finite ends all processes before it reaches a weight.

    Attributes:
        scheduler: the learning-rate schedule.
        averaged: moving averages of the weights, None without ``MODEL.EMA``.
        class_charts: pictures of the classes' scores after each evaluation.
        checkpointer: saves and loads model and trainer state in ``cfg.OUTPUT_DIR``.
        cfg: the config, scaled to the number of processes where ``SOLVER.REFERENCE_WORLD_SIZE`` asks for it.
    """

    def __init__(self, cfg) -> None:
        # DefaultTrainer's own initialisation is left out: in Detectron2 0.6 it needs CUDA for AMP and for processes.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        model = prepare_for_training(cfg, model)
        self.averaged = build_averaged_weights(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = wrap_distributed(model)
        self._trainer = build_train_step(cfg, model, data_loader, optimizer, self.averaged)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        saved_along = {} if self.averaged is None else {CHECKPOINT_KEY: self.averaged}
        self.checkpointer = PluginCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **saved_along)
        self._seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._last_eval_results: dict[str, Any] | None = None
        self.class_charts = build_class_charts(cfg, is_main=comm.is_main_process())
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer: torch.optim.Optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name)

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks with :class:`EvaluationHook` in the place of EvalHook, and ours.

        Ours are the best model, SIGTERM, previews and, on the main process, a summary at the end; a schedule that waits
        where a step was skipped, or goes by the evaluations; and a check of the weights before they are saved or
        evaluated.
        """
        check_wandb(self.cfg)
        period = self.cfg.TEST.EVAL_PERIOD
        stop = StopOnSignalHook(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD)
        evaluate = EvaluationHook(period, self._evaluate, self.class_charts.draw)
        evaluation: list[HookBase] = [stop, evaluate]
        if self.cfg.TEST.BEST_METRICS:
            evaluation.append(BestCheckpointHook(self.checkpointer, self.cfg.TEST.BEST_METRICS, period))
        if isinstance(self.scheduler, WarmupPlateau):
            evaluation.append(PlateauHook(self.scheduler, evaluate, period))
        evaluation += build_preview_hooks(self.cfg, self._inference_model)
        defaults = [LRScheduler(lambda: self._trainer.stepped) if isinstance(hook, Detectron2LRScheduler) else hook
                    for hook in super().build_hooks() if hook]  # fmt: skip
        first = next(n for n, hook in enumerate(defaults) if isinstance(hook, (PeriodicCheckpointer, EvalHook)))
        defaults.insert(first, CheckHook(self.check_losses, (self.cfg.SOLVER.CHECKPOINT_PERIOD, period)))
        groups = [evaluation if isinstance(hook, EvalHook) else [hook] for hook in defaults]
        summary = [SummaryHook(self.cfg.OUTPUT_DIR)] if comm.is_main_process() else []
        return [hook for group in groups for hook in group] + summary

    def build_writers(self):
        return make_writers(self.cfg, lambda: self.start_iter, self.class_charts.tables)

    def _inference_model(self) -> nn.Module:
        averages = None if self.averaged is None else self.averaged.state_dict()
        return for_inference(self.cfg, unwrap(self.model), averages)

    def _evaluate(self) -> dict[str, Any] | None:
        share_buffers(self.model)
        self._last_eval_results = self.test(self.cfg, self._inference_model())
        return self._last_eval_results

    @classmethod
    def test(cls, cfg, model: nn.Module, evaluators=None) -> dict[str, Any]:
        """Detectron2's ``test``; the model makes label maps in the place of logits where our evaluators read them."""
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        elif isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        with label_maps(model, evaluators):
            return super().test(cfg, model, evaluators)

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint of ``OUTPUT_DIR``, or start from the weights of ``MODEL.WEIGHTS``.

        Args:
            resume: look for a checkpoint. Where there is none, training starts, with a warning.

        Raises:
            CheckpointError: the weights are missing, damaged or do not fit.
        """
        if resume and not self.checkpointer.has_checkpoint():
            logger.warning("There is no checkpoint in %s to resume from; training starts", self.cfg.OUTPUT_DIR)
        frozen_weights = self.cfg.MODEL.DETR.FROZEN_WEIGHTS
        if frozen_weights and not (resume and self.checkpointer.has_checkpoint()):
            self.checkpointer.load(frozen_weights, checkpointables=[])
        if not (resume and self.checkpointer.has_checkpoint()):
            load_pretrained_parts(self.cfg, unwrap(self.model))
        super().resume_or_load(resume)

    def train(self) -> dict[str, Any] | None:
        """Train from ``start_iter`` to ``SOLVER.MAX_ITER``, or until a hook makes :attr:`max_iter` a smaller one.

        Returns:
            The last evaluation's results on the main process, None where nothing was evaluated.

        Raises:
            UserError: a file of the dataset cannot be used, or the device has too little memory.
            FloatingPointError: a loss or gradient is not finite.
        """
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            try:
                self._loop()
            except UserError:
                raise  # it explains itself; the command line prints it
            except torch.OutOfMemoryError as error:
                raise OutOfMemoryError(explain(error, self.cfg, self.iter, self._trainer.batch)) from error
            except Exception as error:
                if lost := explain_lost_worker(error, self.cfg, self.iter):
                    raise OutOfMemoryError(lost) from error
                images = ", ".join(file_names(self._trainer.batch)) or "none yet"
                logger.exception("Exception in iteration %d, images %s:", self.iter, images)
                raise
            finally:
                self.after_train()
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def _loop(self) -> None:
        loader = self._trainer.data_loader
        if hasattr(loader, "start_at"):
            loader.start_at(self.start_iter)
        self._seed = getattr(loader, "seed", self._seed)
        note_start(self.cfg, command=sys.argv, start_iter=self.start_iter, data=data_state(loader, self.cfg))
        planned = self.max_iter
        self.before_train()
        # From here on the hooks heed signals.
        logger.info("Starting training from iteration %d", self.start_iter)
        for iteration in range(self.start_iter, self.max_iter):
            self.iter = iteration
            seed_iteration(self._seed, iteration)
            self.before_step()
            self.run_step()
            self.after_step()
            if iteration + 1 >= self.max_iter:  # a hook may have ended the training
                break
        if self.start_iter == self.max_iter or self.max_iter < planned:
            self._save_final()
        self.iter = self.max_iter  # tells the hooks that training has come to its end

    def _save_final(self) -> None:
        """Write the last model where it is not that of the last iteration, or is damaged.

        A kill can come between it and the checkpoint before; and a training that ends early has not written it yet.
        """
        name = "model_final"
        self.iter = self.max_iter - 1  # as it is noted where the last iteration writes it
        try:
            content = load_checkpoint_file(Path(self.cfg.OUTPUT_DIR, f"{name}.pth"))
        except CheckpointError:
            content = None
        if not isinstance(content, dict) or content.get("iteration") != self.iter:
            self.checkpointer.save(name, iteration=self.iter)

    def check_losses(self) -> None:
        """Look at the losses that were not read yet, and at the weights, before these are saved; all processes call it.

        Raises:
            FloatingPointError: one of them, a gradient or a running statistic is not finite.
        """
        self._trainer.loss_log.read()
        check_weights(self._trainer.model, self.iter)

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks (with the schedule), optimizer and scaler, in the layout of Detectron2's main."""
        state = TrainerBase.state_dict(self)
        state["_trainer"] = self._trainer.state_dict()
        state["data"] = data_state(self._trainer.data_loader, self.cfg)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        iteration = state_dict["iteration"]
        if not isinstance(iteration, int) or iteration < 0:
            raise ValueError(f"its iteration is {iteration!r}")
        TrainerBase.load_state_dict(self, state_dict)
        restore_data(self._trainer.data_loader, state_dict.get("data", {}), self.cfg)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logger.warning("The checkpoint has no optimizer state (Detectron2 0.6 saves none): it starts anew")
