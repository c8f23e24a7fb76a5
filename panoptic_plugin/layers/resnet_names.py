"""Names of a ResNet's weights: torchvision's, and Detectron2's."""

from __future__ import annotations

import re

_TO_DETECTRON2 = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
)
# The norms first: what is left of their names are convolutions.
_TO_TORCHVISION = (
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
)


def to_detectron2(name: str) -> str:
    """``layer1.0.bn2.bias`` -> ``res2.0.conv2.norm.bias``."""
    name = re.sub(r"^layer(\d)\.", lambda stage: f"res{int(stage[1]) + 1}.", name)
    return _replaced(name, _TO_DETECTRON2)


def to_torchvision(name: str) -> str:
    """``res2.0.conv2.norm.bias`` -> ``layer1.0.bn2.bias``."""
    name = re.sub(r"^res(\d)\.", lambda stage: f"layer{int(stage[1]) - 1}.", name)
    return _replaced(name, _TO_TORCHVISION)


def _replaced(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
