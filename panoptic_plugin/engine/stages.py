"""Where the time of a config goes: each stage of inference and of training by itself, on the device of the config.

Times are wall-clock, and a GPU is waited for before and after each stage. Stages are run one after the other in one
process, so that each is seen; in a training, loading runs in ``DATALOADER.NUM_WORKERS`` processes beside the GPU.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.data import get_detection_dataset_dicts
from detectron2.utils.events import EventStorage
from torch import nn

from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.data.reading import read_image, read_label
from panoptic_plugin.engine.averaging import build_averaged_weights
from panoptic_plugin.engine.inference import load_for_inference
from panoptic_plugin.engine.model import build_model, prepare_for_training
from panoptic_plugin.engine.optim import build_optimizer
from panoptic_plugin.engine.train_step import build_train_step
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.evaluation.build import build_evaluator

Sample = dict[str, Any]


class StageTimes:
    """Milliseconds an image of named stages."""

    def __init__(self, device: torch.device, stages: Sequence[str] = ()) -> None:
        """
        Args:
            device: whose work belongs to the times.
            stages: their order in a summary; others follow as they come.
        """
        self.device = device
        self._milliseconds: dict[str, list[float]] = defaultdict(list, {stage: [] for stage in stages})

    @contextmanager
    def measure(self, stage: str, num_images: int = 1) -> Iterator[None]:
        """Time the block, with the device's work in it."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.add(stage, (time.perf_counter() - start) * 1000 / num_images)

    def add(self, stage: str, milliseconds: float) -> None:
        """Note a time that was measured elsewhere."""
        self._milliseconds[stage].append(milliseconds)

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its calls timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measure(stage):
                return function(*args, **kwargs)

        return timed

    def total(self, stage: str) -> float:
        """Milliseconds of all calls of a stage so far."""
        return sum(self._milliseconds.get(stage, ()))

    def summary(self) -> dict[str, Any]:
        """Per stage median, mean and share of the sum of medians, then the images per second of all together.

        The first time of a stage pays for memory and kernel selection, and is left out where there are others.
        """
        settled = {stage: times[1:] or times for stage, times in self._milliseconds.items() if times}
        medians = {stage: statistics.median(times) for stage, times in settled.items()}
        total = sum(medians.values())
        stages = {
            stage: {
                "ms_median": round(median, 3),
                "ms_mean": round(statistics.fmean(settled[stage]), 3),
                "share": round(median / total, 4) if total else 0.0,
                "count": len(settled[stage]),
            }
            for stage, median in medians.items()
        }
        return {"stages": stages, "ms": round(total, 3), "images_per_second": round(1000 / total, 3) if total else 0.0}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@torch.no_grad()
def measure_inference(cfg: Any, *, num_images: int) -> dict[str, Any]:
    """Stages of evaluating ``DATASETS.TEST[0]``: decode, resize, collate, network, postprocessing, evaluation.

    Args:
        cfg: with MODEL.WEIGHTS empty the weights are random; TEST.BATCH_SIZE images run together.
        num_images: at most so many of the dataset.

    Returns:
        :meth:`StageTimes.summary` with ``size`` (height, width) of the last image as the network got it,
        ``batch_size`` and ``peak_mib``.
    """
    model = load_for_inference(cfg)
    times, timer = StageTimes(torch.device(cfg.MODEL.DEVICE)), model_timer(model)
    name = cfg.DATASETS.TEST[0]
    records = get_detection_dataset_dicts([name], filter_empty=False)[:num_images]
    evaluator = build_evaluator(cfg, name, cfg.OUTPUT_DIR)
    mapper = PanopticMapper(cfg, is_train=False)
    _reset_peak(times.device)
    for start in range(0, len(records), cfg.TEST.BATCH_SIZE):
        some = records[start : start + cfg.TEST.BATCH_SIZE]
        batch = [_mapped(times, mapper, record, "resize") for record in some]
        before = times.total("collate")
        with times.measure("collate", len(batch)):
            model.images(batch)
        timer.reset()
        outputs = model(batch)
        found = timer.summary()
        times.add("network", max(0.0, found["network_ms_median"] - (times.total("collate") - before)))
        times.add("postprocessing", found["postprocessing_ms_median"])
        with times.measure("evaluation", len(batch)):
            evaluator.process(batch, outputs)
    size = list(batch[-1]["image"].shape[1:])
    return {**times.summary(), "size": size, "batch_size": cfg.TEST.BATCH_SIZE, "peak_mib": _peak_mib(times.device)}


def measure_training(cfg: Any, *, num_steps: int) -> dict[str, Any]:
    """Stages of training on ``DATASETS.TRAIN``: decode, augment, targets, and the step on a batch.

    Args:
        cfg: SOLVER.IMS_PER_BATCH images a step, with its precision, optimizer and accumulation.
        num_steps: steps to time, after one that is not.

    Returns:
        ``loading``, a summary of the stages an image passes in a worker process; ``step_ms`` of a batch,
        ``images_per_second`` of the steps alone, ``batch_size``, ``crop`` and ``peak_mib``.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    loading, steps = StageTimes(device, ("decode", "augment", "targets")), StageTimes(device)
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    mapper = PanopticMapper(cfg, is_train=True)
    mapper.target_generator = loading.wrap("targets", mapper.target_generator)  # type: ignore[arg-type]
    number = cfg.SOLVER.IMS_PER_BATCH
    batch = [_mapped(loading, mapper, records[index % len(records)], "augment") for index in range(number)]
    model = prepare_for_training(cfg, build_model(cfg))
    optimizer = build_optimizer(cfg, model)
    batches = iter([batch] * (num_steps + 1))
    step = build_train_step(cfg, model, batches, optimizer, build_averaged_weights(cfg, model))
    _reset_peak(device)
    with EventStorage(0):
        for step.iter in range(num_steps + 1):
            with steps.measure("step"):
                step.run_step()
    step_ms = steps.summary()["ms"]
    return {
        "loading": loading.summary(),
        "step_ms": step_ms,
        "images_per_second": round(1000 * number / step_ms, 3),
        "batch_size": number,
        "crop": list(batch[0]["image"].shape[1:]),
        "peak_mib": _peak_mib(device),
    }


def model_timer(model: nn.Module) -> Any:
    """The model's own stage timer, switched on.

    Raises:
        ConfigError: it has none.
    """
    timer = getattr(model, "timer", None)
    if timer is None:
        raise ConfigError(
            f"{type(model).__name__} does not time its stages; set MODEL.META_ARCHITECTURE to one of this package"
        )
    timer.enabled = True
    return timer


def _mapped(times: StageTimes, mapper: PanopticMapper, record: Sample, rest: str) -> Sample:
    """The mapper's sample; what is neither decoding nor making targets counts as the stage ``rest``."""
    _decode(mapper, record)  # once before, so that the disk is not what is timed
    accounted = times.total("decode") + times.total("targets")
    with times.measure("decode"):
        _decode(mapper, record)
    start = time.perf_counter()
    sample = mapper(record)
    spent = (time.perf_counter() - start) * 1000
    accounted = times.total("decode") + times.total("targets") - accounted
    times.add(rest, max(0.0, spent - accounted))
    return sample


def _decode(mapper: PanopticMapper, record: Sample) -> None:
    """Read the files that the mapper reads."""
    image = read_image(record["file_name"], mapper.image_format, max_pixels=mapper.max_pixels)
    if mapper.is_train and "pan_seg_file_name" in record:
        read_label(record["pan_seg_file_name"], "RGB", image_path=record["file_name"], image_size=image.shape[:2])


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_mib(device: torch.device) -> float:
    """MiB at most: of the GPU's tensors since the last reset, or of this process since its start."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def format_stages(stages: dict[str, dict[str, float]]) -> list[Sequence[str]]:
    """Rows of a table: stage, milliseconds an image, share, images per second of this stage alone."""
    return [
        (
            stage,
            f"{figures['ms_median']:.2f}",
            f"{100 * figures['share']:.1f} %",
            f"{1000 / figures['ms_median']:.3g}" if figures["ms_median"] >= 0.005 else "",
        )
        for stage, figures in stages.items()
    ]
