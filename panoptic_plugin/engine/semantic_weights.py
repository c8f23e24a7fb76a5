"""Weights for the semantic branch alone: any known format, nothing missing or left over without being said.

A file fills *parts* of a branch: ImageNet weights its backbone, HRNet-OCR's also its head, NVIDIA's and our own all.
What a file does not hold as a whole starts at random; within the parts that it does hold, every tensor must be there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from panoptic_plugin.backbones.weight_layouts import COUNTER, LAYOUTS
from panoptic_plugin.backbones.weights import convert_state_dict
from panoptic_plugin.engine.checkpoint_file import load_state_dict_file
from panoptic_plugin.errors import CheckpointError

logger = logging.getLogger(__name__)

SHOWN = 6
Weights = dict[str, torch.Tensor]


@dataclass
class SemanticLoadReport:
    """What became of a file's tensors and of a branch's.

    Attributes:
        path: the file.
        layout: "own", or a key of :data:`~panoptic_plugin.backbones.weights.LAYOUTS`.
        loaded: names in the branch.
        ignored: tensors with one row a class that IGNORE_HEAD left out.
        carried: classes whose rows were carried over by their names.
        new_classes: classes of the branch that the file lacks; their rows start at random.
        random_parts: parts of the branch that the file holds nothing of.
        dropped: keys of the file that belong to no part of a semantic branch, such as ImageNet's classifier.
        missing: tensors of the branch, within the parts of the file, that the file lacks.
        unexpected: tensors of the file that the branch lacks.
        mismatched: (name, shape in the file, shape in the branch).
    """

    path: str
    layout: str
    loaded: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    new_classes: list[str] = field(default_factory=list)
    random_parts: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Why the file does not fit, one line each; nothing where it does."""
        shapes = [f"{name} has shape {found}, expected {wanted}" for name, found, wanted in self.mismatched]
        return [
            *(["missing: " + _listed(self.missing)] if self.missing else []),
            *(["unexpected: " + _listed(self.unexpected)] if self.unexpected else []),
            *(["other shapes: " + _listed(shapes)] if shapes else []),
        ]

    def __str__(self) -> str:
        layout = LAYOUTS[self.layout].title if self.layout in LAYOUTS else "a semantic branch of ours"
        lines = [f"{self.path} ({layout}): {len(self.loaded)} tensors of the semantic branch loaded"]
        for title, names in (
            ("left out (IGNORE_HEAD)", self.ignored),
            ("rows carried over by class name", self.carried),
            ("classes that start at random", self.new_classes),
            ("parts that start at random", self.random_parts),
            ("no part of a semantic branch", self.dropped),
        ):
            lines += [f"{title}: {_listed(names)}"] if names else []
        return "; ".join([*lines, *self.faults])


def load_semantic_weights(
    branch: nn.Module,
    path: str | Path,
    ignore_head: bool = False,
    *,
    strict: bool = True,
    source_classes: Sequence[str] = (),
    target_classes: Sequence[str] = (),
) -> SemanticLoadReport:
    """Fill a semantic branch from a file, and say in the log what was filled.

    Args:
        branch: with ``head_name`` and ``class_tensors``; see ``systems/joint/semantic_branch.py``.
        path: own, Detectron2's, HRNet's, HRNet-OCR's or NVIDIA's checkpoint; read as data, no code in it runs.
        ignore_head: leave out exactly the tensors with one row a class.
        strict: whether a tensor that is missing, unexpected or of another shape is an error; else it is a warning.
        source_classes: names of the file's classes in its order. With them, rows of the tensors with one row a class
            are taken over by name, and those of other classes stay as they are in the branch.
        target_classes: names of the branch's classes.

    Returns:
        The report, which also names everything that was not loaded.

    Raises:
        CheckpointError: the file is missing, damaged, of no known format, or does not fit.
    """
    weights, report = _named_for(branch, load_state_dict_file(path), str(path))
    if ignore_head:
        report.ignored = [name for name in branch.class_tensors if weights.pop(name, None) is not None]
    elif source_classes:
        _carry_rows(branch, weights, report, list(source_classes), list(target_classes))
    fitting = _compare(branch, weights, report)
    if not report.loaded:
        raise CheckpointError(f"{path} holds nothing for the semantic branch; {_remedy(report)}")
    if report.faults and strict:
        raise CheckpointError(f"{path} does not fit the semantic branch: {'; '.join(report.faults)}. {_remedy(report)}")
    branch.load_state_dict(fitting, strict=False)
    _warn_of_resizing(branch, report.layout)
    logger.log(logging.WARNING if report.faults else logging.INFO, "%s", report)
    return report


def _warn_of_resizing(branch: nn.Module, layout: str) -> None:
    """Published weights give what they were trained to give only where maps are resized as they were in training."""
    wanted = {"nvidia_ocr": (False, 1), "hrnet_ocr": (True, None), "hrnet": (True, None)}.get(layout)
    multi_scale = getattr(branch, "multi_scale", None)
    if wanted is None:
        return
    if branch.align_corners != wanted[0]:
        logger.warning("%s was trained with SEMANTIC.ALIGN_CORNERS %s", LAYOUTS[layout].title, wanted[0])
    if wanted[1] and multi_scale is not None and multi_scale.fusion_stride != wanted[1]:
        logger.warning("%s was trained with SEMANTIC.FUSION_STRIDE %d", LAYOUTS[layout].title, wanted[1])


def _named_for(branch: nn.Module, weights: Mapping[str, torch.Tensor], path: str) -> tuple[Weights, SemanticLoadReport]:
    """The file's tensors under the branch's names."""
    prefix = _own_prefix(branch, weights)
    if prefix is not None:
        own = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
        dropped = [key for key in weights if not key.startswith(prefix)]
        return own, SemanticLoadReport(path, "own", dropped=dropped)
    converted, conversion = convert_state_dict(weights)
    known = set(branch.state_dict())
    report = SemanticLoadReport(path, conversion.layout, dropped=list(conversion.dropped))
    named: Weights = {}
    renamed = {new: old for old, new in conversion.renamed.items()}
    for key, value in converted.items():
        name = _in_branch(branch.head_name, known, key)
        if name is None:
            report.dropped.append(renamed.get(key, key))
        else:
            named[name] = value
    # A shape that contradicts the file's own other shapes: damage, whatever the branch.
    for key, found, wanted in conversion.mismatched:
        report.mismatched.append((_in_branch(branch.head_name, known, key) or key, found, wanted))
    return named, report


def _own_prefix(branch: nn.Module, weights: Mapping[str, torch.Tensor]) -> str | None:
    """What stands before the branch's own names in the file ("semantic_branch." in a joint network); None: others."""
    known = set(branch.state_dict())
    marks = [name for name in branch.class_tensors if name in known]
    for key in weights:
        for mark in marks:
            if key == mark or key.endswith(f".{mark}"):
                return key[: -len(mark)]
    return None


def _in_branch(head_name: str, known: set[str], key: str) -> str | None:
    """The branch's name for a key of a model by itself, or of a backbone by itself; None for other parts."""
    start, _, rest = key.partition(".")
    outer = head_name.rpartition("sem_seg_head")[0]  # "model." where the branch holds a whole model
    if start == "sem_seg_head":
        return f"{head_name}.{rest}"
    if start in ("backbone", "multi_scale"):
        return outer + key if start == "backbone" else key
    own = f"{outer}backbone.{key}"
    return own if own in known else None


def _carry_rows(
    branch: nn.Module, weights: Weights, report: SemanticLoadReport, source: list[str], target: list[str]
) -> None:
    """Replace the class tensors in ``weights`` by the branch's own with the rows of the shared classes exchanged."""
    state = branch.state_dict()
    found = {name: weights[name] for name in branch.class_tensors if name in weights}
    wrong = [name for name, value in found.items() if len(value) != len(source)]
    if wrong or len(target) != branch.num_classes:
        raise CheckpointError(
            f"{report.path}: PRETRAINED_CLASSES names {len(source)} classes and the dataset {len(target)}, but the "
            f"file's head has {len(found[wrong[0]]) if wrong else len(source)} and the branch's {branch.num_classes}; "
            "list all classes of the file in their order"
        )
    pairs = [(target.index(name), source.index(name)) for name in target if name in source]
    if not pairs:
        raise CheckpointError(
            f"{report.path}: none of PRETRAINED_CLASSES ({_listed(source)}) is a class of the dataset "
            f"({_listed(target)}); correct the names, or set SEMANTIC.IGNORE_HEAD True"
        )
    rows, columns = (list(indices) for indices in zip(*pairs, strict=True))
    for name, value in found.items():
        if value.shape[1:] == state[name].shape[1:]:  # another shape is reported later
            mixed = state[name].detach().cpu().clone()
            mixed[rows] = value[columns].to(mixed.dtype)
            weights[name] = mixed
    report.carried = [name for name in target if name in source]
    report.new_classes = [name for name in target if name not in source]


def _compare(branch: nn.Module, weights: Weights, report: SemanticLoadReport) -> Weights:
    """What fits, with the report completed."""
    state = branch.state_dict()
    given = {name.partition(".")[0] for name in weights if name in state}
    parts = dict.fromkeys(name.partition(".")[0] for name in state)
    report.random_parts = [part for part in parts if part not in given]
    accounted = {*weights, *report.ignored, *(name for name, _, _ in report.mismatched)}
    report.missing = [
        name
        for name in state
        if name not in accounted and name.partition(".")[0] in given and not name.endswith(COUNTER)
    ]
    fitting: Weights = {}
    for name, value in weights.items():
        if name not in state:
            report.unexpected.append(name)
        elif value.shape != state[name].shape:
            report.mismatched.append((name, tuple(value.shape), tuple(state[name].shape)))
        else:
            fitting[name] = value
    report.loaded = list(fitting)
    return fitting


def _remedy(report: SemanticLoadReport) -> str:
    if any(name.partition(".")[0] == "multi_scale" for name in [*report.unexpected, *report.missing]):
        return (
            "One of the two has no attention between scales: compare SEMANTIC.TRAIN_SCALES and TEST_SCALES, or set "
            "SEMANTIC.STRICT_LOAD False"
        )
    return (
        "Compare SEMANTIC.NAME and SEMANTIC.BACKBONE with what the file was trained as. Where only the number of "
        "classes differs, name its classes in SEMANTIC.PRETRAINED_CLASSES or set SEMANTIC.IGNORE_HEAD True; "
        "SEMANTIC.STRICT_LOAD False loads what fits"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
