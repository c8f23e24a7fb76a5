"""Third-party backbone checkpoints: recognise them, rename their keys, and say how well they match.

The known layouts are those of ``weight_layouts.py``. A layout is recognised by one key that only it has; what stands
before that key ("module.", "encoder.", ...) is a prefix of all keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from panoptic_plugin.backbones.weight_layouts import LAYOUTS, Weights, first_match, without_counters
from panoptic_plugin.errors import CheckpointError

# Official files match by 100 %; a renamed or cut-down file that still reaches this is worth training from.
PLAUSIBLE_SHARE = 0.95


@dataclass
class ConversionReport:
    """How a checkpoint matches the backbone it was recognised as.

    Attributes:
        layout: name of the layout, a key of :data:`LAYOUTS`.
        matched: keys kept under their own name.
        renamed: old key -> new key.
        dropped: keys that are no part of the backbone, such as the classifier of ImageNet.
        missing: keys of the backbone that the file lacks.
        mismatched: (key, shape in the file, expected shape).
        advice: config values the weights need.
    """

    layout: str
    matched: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    advice: str = ""

    @property
    def share(self) -> float:
        """Part of the backbone's tensors, counters aside, that the file fills: 0 to 1."""
        found = without_counters([*self.matched, *self.renamed.values()])
        lacking = without_counters([*self.missing, *(key for key, _, _ in self.mismatched)])
        return len(found) / max(1, len(found) + len(lacking))


def convert_state_dict(weights: Weights, layout: str | None = None) -> tuple[dict[str, torch.Tensor], ConversionReport]:
    """Weights under Detectron2's names, and the report.

    Args:
        weights: name -> tensor, as read from the file.
        layout: a key of :data:`LAYOUTS`; by default it is recognised.

    Returns:
        The tensors that fit, by Detectron2's name without a ``backbone.`` prefix (whole models have one), and
        the report. Pass it to :func:`check_plausible` before using the weights.

    Raises:
        CheckpointError: no layout is recognised.
    """
    name, prefix = recognise(weights, layout)
    kind = LAYOUTS[name]
    report = ConversionReport(name)
    candidates: dict[str, str] = {}
    for key in weights:
        new_key = kind.rename(key[len(prefix) :]) if key.startswith(prefix) else None
        if new_key is None:
            report.dropped.append(key)
        else:
            candidates[new_key] = key
    backbone = {new_key: weights[key] for new_key, key in candidates.items()}
    report.advice = kind.advice(backbone)
    expected = kind.expected(backbone) if kind.expected else {key: tuple(t.shape) for key, t in backbone.items()}
    report.missing = [key for key in expected if key not in candidates]
    converted = {}
    for new_key, key in candidates.items():
        shape = tuple(weights[key].shape)
        if new_key not in expected:
            report.dropped.append(key)
        elif shape != expected[new_key]:
            report.mismatched.append((new_key, shape, expected[new_key]))
        else:
            converted[new_key] = weights[key]
            if new_key == key:
                report.matched.append(key)
            else:
                report.renamed[key] = new_key
    return converted, report


def check_plausible(report: ConversionReport, source: str) -> None:
    """Stop where training would silently start from mostly random weights.

    Raises:
        CheckpointError: less than :data:`PLAUSIBLE_SHARE` of the backbone is filled.
    """
    if report.share >= PLAUSIBLE_SHARE:
        return
    examples = [f"{key} is missing" for key in without_counters(report.missing)[:3]]
    examples += [f"{key} has shape {found}, expected {wanted}" for key, found, wanted in report.mismatched[:3]]
    raise CheckpointError(
        f"{source} fills {report.share:.1%} of {LAYOUTS[report.layout].title}, expected at least "
        f"{PLAUSIBLE_SHARE:.0%} ({'; '.join(examples)}). It belongs to another network, or is incomplete."
    )


def recognise(weights: Iterable[str], layout: str | None = None) -> tuple[str, str]:
    """The layout of a checkpoint and the prefix of its backbone's keys.

    Args:
        weights: the keys.
        layout: take this one; only the prefix is looked for.

    Raises:
        CheckpointError: no key, or an unknown ``layout``.
    """
    if layout is not None and layout not in LAYOUTS:
        raise CheckpointError(f"the architecture {layout!r} is unknown, expected one of {', '.join(LAYOUTS)}")
    keys = list(weights)
    for name in [layout] if layout else LAYOUTS:
        match = first_match(rf"^(|.*?\.){LAYOUTS[name].signature}$", keys)
        if match:
            return name, match[1]
    if layout:
        return layout, ""
    titles = "; ".join(kind.title for kind in LAYOUTS.values())
    raise CheckpointError(
        f"the keys belong to no known checkpoint (the first are {', '.join(keys[:4]) or 'none'}). Known are: {titles}"
    )
