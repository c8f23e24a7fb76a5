"""``ap_res.txt``: the instance scores of one evaluation as text, with what they are scores of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NOT_THERE = "n/a"
COLUMN = 10


def ap_text(
    values: Mapping[str, float],
    class_names: Sequence[str],
    thing_ids: frozenset[int],
    *,
    counts: Mapping[str, int],
    about: Mapping[str, Any],
) -> str:
    """The whole content.

    Args:
        values: "AP", "AR100", "AP-<class>", ... in percent; NaN or absent where undefined.
        class_names: by contiguous category id.
        thing_ids: contiguous ids of the things.
        counts: ``predicted`` and ``dropped`` instances, see ``CocoAP``.
        about: what to say at the top, a line each.
    """
    lines = ["# Instance segmentation: mask AP and AR in percent, a class without objects is n/a and in no average"]
    lines += [f"# {name}: {value}" for name, value in about.items()]
    lines.append(f"# instances: {counts['predicted']} predicted, {counts['dropped']} of them beyond the limit an image")
    single = {name: value for name, value in values.items() if "-" not in name}
    lines += ["", _row("all", single), _row("", {name: _shown(value) for name, value in single.items()}), ""]
    names = [name for name in ("AP", "AP50") if name in values]
    width = max((len(class_names[c]) for c in thing_ids), default=5) + 2
    lines.append("class".ljust(width) + "".join(name.rjust(COLUMN) for name in names))
    for category in sorted(thing_ids):
        cells = (_shown(values.get(f"{name}-{class_names[category]}")) for name in names)
        lines.append(class_names[category].ljust(width) + "".join(cell.rjust(COLUMN) for cell in cells))
    return "\n".join(lines) + "\n"


def _row(title: str, cells: Mapping[str, Any]) -> str:
    shown = cells if title else cells.values()
    return title.ljust(5) + "".join(str(cell).rjust(COLUMN) for cell in shown)


def _shown(value: float | None) -> str:
    return NOT_THERE if value is None or not math.isfinite(value) else f"{value:.3f}"
