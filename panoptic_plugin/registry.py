"""Our own registries, and a lookup whose error explains itself.

Detectron2's registries (backbones, meta-architectures, heads) are used as they are; what Detectron2 has no registry
for is registered here.
"""

from __future__ import annotations

import difflib

from fvcore.common.registry import Registry

from panoptic_plugin.errors import ConfigError

TARGET_GENERATOR_REGISTRY = Registry("TARGET_GENERATOR")
TARGET_GENERATOR_REGISTRY.__doc__ = """
Training targets by name: ``callable(cfg, metadata) -> generator`` where
``generator(panoptic_ids, segments_info) -> dict[str, Tensor]``; panoptic_ids is an int (H, W) array of the ids in
the dataset's PNG, segments_info the list of its segments with contiguous category ids.
"""

SEMANTIC_BRANCH_REGISTRY = Registry("SEMANTIC_BRANCH")
SEMANTIC_BRANCH_REGISTRY.__doc__ = """
Semantic branches of the joint network by name: ``callable(cfg, input_shape) -> module`` with ``num_classes``,
``feature_channels`` (or None), ``activation`` ("softmax" or "sigmoid"), ``uses_shared_features``,
``forward(images, shared_features=None) -> SemanticOutput`` and
``losses(output, targets, weights) -> dict[str, Tensor]``.
"""

SEMANTIC_EMBEDDER_REGISTRY = Registry("SEMANTIC_EMBEDDER")
SEMANTIC_EMBEDDER_REGISTRY.__doc__ = """
What the joint network's instance branch is told of the semantic branch, by the name in
``MODEL.PANOPTIC_DEEPLAB.INSTANCE.SEMANTIC_INPUT``: ``callable(options) -> module`` with ``forward(output, size,
foreground) -> float (N, E, ceil(H / 4), ceil(W / 4))``; see ``systems/joint/embedder.py``.
"""

TTA_REGISTRY = Registry("TTA")
TTA_REGISTRY.__doc__ = """
Test-time augmentation of a meta-architecture, by its name and "WithTTA": ``callable(model, cfg.TEST.AUG) -> module``
that takes and gives what the model does.
"""


def lookup(registry: Registry, name: str, key: str):
    """``registry.get(name)`` with an error that names the config key, the closest match and all that there is.

    Args:
        registry: an fvcore registry, ours or Detectron2's.
        name: the name read from the config.
        key: the config key it was read from, for example ``MODEL.BACKBONE.NAME``.

    Raises:
        ConfigError: nothing of that name is registered.
    """
    known = sorted(registered for registered, _ in registry)
    if name in known:
        return registry.get(name)
    raise ConfigError(
        f"{key} is {name!r}, which is not registered in {registry._name}. {suggestion(name, known)} "
        "A class of your own must be imported before the config is used."
    )


def suggestion(name: str, known: list[str], limit: int = 24) -> str:
    """'Did you mean X? There is: A, B, C.' for an unknown name; at most ``limit`` names are listed."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(known[:limit]) or "nothing"
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return f"{hint}There is: {listed}{more}."
