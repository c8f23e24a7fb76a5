"""Tuning of the post-processing: an exhaustive grid on outputs that the network computed once.

The best of hundreds of settings is better on its images by luck too. So the gain that is believed in is the held-out
one: each image is scored with the setting that is best on the other folds' images.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from panoptic_plugin.engine.inference import load_for_inference
from panoptic_plugin.errors import CheckpointError
from panoptic_plugin.evaluation.fingerprint import checkpoint_entry, config_sha256, now, software
from panoptic_plugin.evaluation.panoptic import PanopticQuality
from panoptic_plugin.evaluation.panoptic_labels import PanopticLabels
from panoptic_plugin.files import replace_file
from panoptic_plugin.tuning.grid import apply_setting, current_setting, read_grid, settings_of
from panoptic_plugin.tuning.outputs import Output, SavedOutputs
from panoptic_plugin.tuning.run import SCHEMA_VERSION, write_override
from panoptic_plugin.tuning.split import make_split
from panoptic_plugin.tuning.statistics import Noise, PanopticScores, compare
from panoptic_plugin.tuning.study import BEATEN, KEPT

logger = logging.getLogger(__name__)

FOLDS = 5
# Settings of the report's table.
SHOWN = 20


def tune_postprocessing(cfg: CfgNode, folder: Path, *, command: Sequence[str] = ()) -> dict[str, Any]:
    """Try every setting of the grid and write ``postprocessing.json`` and ``postprocessing.yaml``.

    Args:
        cfg: with MODEL.WEIGHTS, and the datasets registered.
        folder: receives everything; outputs of the same network that lie there are used again.
        command: the words of the command line, for the report.

    Returns:
        The content of ``postprocessing.json``.

    Raises:
        CheckpointError: no weights.
        ConfigError, DatasetError: a grid or a training set that cannot be used.
    """
    if not cfg.MODEL.WEIGHTS:
        raise CheckpointError("post-processing is tuned on the outputs of a trained network: name it with --weights")
    folder = folder.resolve()
    split = make_split(cfg, folder / "split")
    model = load_for_inference(cfg)
    grid = read_grid(cfg, model)
    identity = {"checkpoint": checkpoint_entry(getattr(model, "weights_file", "") or cfg.MODEL.WEIGHTS),
                "config": config_sha256(cfg), "images": split.manifest["fingerprints"]}  # fmt: skip
    outputs = SavedOutputs(folder / "outputs", identity)
    if not outputs.is_complete():
        outputs.fill(cfg, model, split.tuning)
    labels = PanopticLabels.of(MetadataCatalog.get(split.tuning))
    settings = settings_of(grid)
    baseline = {key: value for key, value in current_setting(model).items() if key in grid}
    logger.info("%d settings on %d images", len(settings), len(labels.truth.image_ids))
    counts = count_settings(model.cpu(), outputs, labels, settings)
    found = choose_setting(counts, settings, baseline, seed=cfg.TUNE.SEED)
    override = folder / "postprocessing.yaml"
    study = {
        "schema_version": SCHEMA_VERSION, "kind": "postprocessing", **found, "grid": grid, "baseline": baseline,
        "objective": "PQ", "keys": found["values"], "network": identity, "split": dict(split.manifest),
        "command": list(command), "versions": software(), "created": now(), "override": str(override),
    }  # fmt: skip
    replace_file(folder / "postprocessing.json", json.dumps(study, indent=1) + "\n")
    write_override(override, study["keys"], f"{found['verdict']}: {found['reason']}")
    logger.info("%s: %s", found["verdict"], found["reason"])
    return study


@torch.no_grad()
def count_settings(
    model: Any, outputs: Iterable[Output], labels: PanopticLabels, settings: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """What each image contributes to PQ with each setting.

    Args:
        model: whose post-processing is set again and again; left at the last one.
        outputs: of the network.
        labels: of the dataset.
        settings: to try.

    Returns:
        float (settings, images, categories, 4), see :class:`~panoptic_plugin.tuning.statistics.PanopticScores`.
    """
    num_classes = len(labels.class_names)
    quality = PanopticQuality(
        class_names=labels.class_names,
        thing_ids=labels.thing_ids,
        categories=sorted(labels.contiguous_ids.values()),
        label_divisor=labels.metadata.get("label_divisor", 1000),
    )
    model.return_logits = model.predict_instances = False
    tables = []
    for output in outputs:
        truth = labels.truth.load(str(output.sample["image_id"]))
        table = np.zeros((len(settings), num_classes, 4))
        for number, setting in enumerate(settings):
            apply_setting(model, setting)
            result = model.postprocess(output.logits, output.heatmap, output.offsets, output.image_size, output.sample)
            for category, one in quality.count(truth, result).counts:
                table[number, category] = (sum(one.ious), len(one.ious), one.fp, one.fn)
        tables.append(table)
    return np.stack(tables, axis=1)


def choose_setting(
    counts: np.ndarray, settings: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any], *, seed: int = 0
) -> dict[str, Any]:
    """The best setting where its held-out gain is above chance, else the baseline.

    Args:
        counts: of :func:`count_settings`.
        settings: in the same order; the baseline is one of them.
        baseline: the setting to beat.
        seed: of folds and resampling.

    Returns:
        ``verdict``, ``reason``, ``values``, ``comparison`` (held-out against baseline), ``scores`` of the best
        settings, ``by_value``: key -> [(value, best score with it)].
    """
    num_images = counts.shape[1]
    place = settings.index(baseline)
    whole = np.array([PanopticScores(one).score(np.ones((1, num_images)))[0] for one in counts])
    best = int(np.argmax(whole)) if whole.max() > whole[place] else place
    held_out = _held_out(counts, seed)
    images = np.arange(num_images)
    comparison = compare(
        [PanopticScores(counts[held_out, images])], [PanopticScores(counts[place])], noise=Noise(0.0, 1), seed=seed
    )
    beaten = comparison.better and best != place
    chosen = settings[best] if beaten else settings[place]
    told = f"{comparison.difference:+.2f} ({comparison.low:.2f} to {comparison.high:.2f})"
    reason = (
        f"on images that it was not chosen on, the best setting changes PQ by {told}"
        if beaten
        else f"chosen on other images, the best setting changes PQ by {told}, which is no more than chance explains"
    )
    order = np.argsort(-whole, kind="stable")[:SHOWN].tolist()
    return {
        "verdict": BEATEN if beaten else KEPT,
        "reason": reason,
        "values": dict(chosen),
        "comparison": asdict(comparison),
        "baseline_score": float(whole[place]),
        "best_score": float(whole[best]),
        "num_settings": len(settings),
        "scores": [{"setting": dict(settings[at]), "score": float(whole[at])} for at in order],
        "by_value": _by_value(settings, whole),
    }


def _held_out(counts: np.ndarray, seed: int) -> np.ndarray:
    """int (images,): the setting that is best on the images of the other folds."""
    num_images = counts.shape[1]
    fold = np.random.default_rng(seed).permutation(num_images) % min(FOLDS, num_images)
    chosen = np.zeros(num_images, np.intp)
    for number in range(int(fold.max()) + 1):
        others = (fold != number).astype(np.float64)[None] if fold.max() else np.ones((1, num_images))
        scores = [PanopticScores(one).score(others)[0] for one in counts]
        chosen[fold == number] = int(np.argmax(scores))
    return chosen


def _by_value(settings: Sequence[Mapping[str, Any]], scores: np.ndarray) -> dict[str, list[tuple[Any, float]]]:
    """Of each value of each key the best score with it."""
    found: dict[str, list[tuple[Any, float]]] = {}
    for key in settings[0]:
        values = sorted({setting[key] for setting in settings})
        found[key] = [
            (value, float(max(score for setting, score in zip(settings, scores, strict=True) if setting[key] == value)))
            for value in values
        ]
    return found
