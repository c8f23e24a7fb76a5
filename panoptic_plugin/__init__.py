"""Panoptic segmentation on Detectron2.

``import panoptic_plugin`` is all that a Detectron2 script needs: it repairs what an older Detectron2 misses on
current packages (:mod:`~panoptic_plugin.compat`) and fills Detectron2's registries and dataset catalog
(:mod:`~panoptic_plugin.register`). It needs no GPU, no network and no compiled operator.

Reading order for the source:

1. ``config.py``: every key we add, and ``load_config``.
2. ``structures.py``: what a panoptic result is; ids to categories, ids to colours.
3. ``systems/panoptic_deeplab/``: a whole system, from its keys over its heads to its meta-architecture.
4. ``postprocessing/``: pure functions from network outputs to panoptic ids.
5. ``data/``: catalog, mapper, targets, synthetic scenes.
6. ``evaluation/``: pure counts (``pq.py``) and the thin evaluators above them.
7. ``engine/`` and ``cli/``: the trainer and the scripts.
"""

from typing import TYPE_CHECKING, Any

from panoptic_plugin import compat

compat.apply()

from panoptic_plugin import register  # noqa: E402, F401  (fills the registries, after compat has done its work)
from panoptic_plugin.config import get_cfg, load_config  # noqa: E402
from panoptic_plugin.version import __version__  # noqa: E402

if TYPE_CHECKING:
    from panoptic_plugin.engine.predictor import load_model

__all__ = ["__version__", "get_cfg", "load_config", "load_model"]


def __getattr__(name: str) -> Any:
    """``load_model`` is imported when it is used: training and configs need nothing of it."""
    if name == "load_model":
        from panoptic_plugin.engine.predictor import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
