"""The one place where a current NumPy, Pillow, PyTorch and Python meet a Detectron2 that is older than they are.

Each repair looks first whether anything is missing and touches nothing that is there, so on a Detectron2 that
needs no repair :func:`apply` changes nothing. Detectron2 0.6 without its compiled operators needs all of them.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path

_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "object": object, "str": str}


def apply() -> list[str]:
    """Repair what is missing, before the first import of Detectron2.

    Returns:
        The names of the repairs that were needed, for the environment report.
    """
    repairs: list[Callable[[], bool]] = [
        _pillow_linear,
        _numpy_aliases,
        _numpy_in1d,
        _compiled_operators,
        _pkg_resources,
        _fallback_sampling,
    ]
    return [repair.__name__.lstrip("_") for repair in repairs if repair()]


def _pillow_linear() -> bool:
    """``PIL.Image.LINEAR``, removed in Pillow 10, is read when ``detectron2.data.transforms`` is imported."""
    from PIL import Image

    if hasattr(Image, "LINEAR"):
        return False
    setattr(Image, "LINEAR", Image.Resampling.BILINEAR)  # noqa: B010  (not a declared attribute any more)
    return True


def _numpy_aliases() -> bool:
    """``np.bool/int/float/object/str``, removed in NumPy 1.24 (``np.bool`` is back in 2.0 with another meaning)."""
    import numpy as np

    missing = [name for name in _NUMPY_ALIASES if name not in np.__dict__]
    for name in missing:
        setattr(np, name, _NUMPY_ALIASES[name])
    return bool(missing)


def _numpy_in1d() -> bool:
    """``np.in1d``, removed in NumPy 2.4, is called by cityscapesscripts' instance evaluation."""
    import numpy as np

    if "in1d" in np.__dict__:
        return False

    def in1d(ar1, ar2, assume_unique=False, invert=False):
        return np.isin(np.ravel(ar1), ar2, assume_unique=assume_unique, invert=invert)

    setattr(np, "in1d", in1d)  # noqa: B010
    return True


def _compiled_operators() -> bool:
    """``detectron2._C`` is imported at the top of ``layers/deform_conv.py``; a build without it cannot be imported."""
    if "detectron2._C" in sys.modules or importlib.util.find_spec("detectron2") is None:
        return False
    try:
        if importlib.util.find_spec("detectron2._C") is not None:
            return False
    except ImportError:
        pass
    if not _reads_compiled_operators_at_import():
        return False
    stub = types.ModuleType("detectron2._C", "Stands in for Detectron2's compiled operators, which are not built.")

    def missing_operator(name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"detectron2._C.{name} is a compiled operator and this Detectron2 was installed without them; "
            "no model of panoptic_plugin needs it. Build Detectron2 from source to use it."
        )

    stub.__getattr__ = missing_operator  # type: ignore[method-assign]
    sys.modules["detectron2._C"] = stub
    import detectron2

    detectron2._C = stub
    return True


def _reads_compiled_operators_at_import() -> bool:
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        return False
    source = Path(next(iter(spec.submodule_search_locations))) / "layers" / "deform_conv.py"
    return source.is_file() and any(
        line.startswith("from detectron2 import _C") for line in source.read_text(encoding="utf-8").splitlines()
    )


def _pkg_resources() -> bool:
    """``pkg_resources.resource_filename``, gone from setuptools, is what ``detectron2.model_zoo`` 0.6 asks for."""
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return False
    stub = types.ModuleType("pkg_resources", "Only resource_filename, for detectron2.model_zoo 0.6.")

    def resource_filename(package: str, resource: str) -> str:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"No package named {package!r}")
        return str(Path(next(iter(spec.submodule_search_locations))) / resource)

    stub.resource_filename = resource_filename  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stub
    return True


class _SequenceSampling(random.Random):
    """``random.Random`` whose ``sample`` takes a set, as before Python 3.11."""

    def sample(self, population, k, **kwargs):
        return super().sample(
            sorted(population) if isinstance(population, (set, frozenset)) else population, k, **kwargs
        )


def _fallback_sampling() -> bool:
    """``MapDataset`` 0.6 draws a replacement sample from a set, which Python 3.11 refuses."""
    if sys.version_info < (3, 11):
        return False
    try:
        import detectron2.data.common as common
    except ImportError:
        return False
    import inspect

    if "sample(self._fallback_candidates" not in inspect.getsource(common.MapDataset):
        return False
    if common.random is not random:
        return False
    patched = types.ModuleType("random", random.__doc__)
    patched.__dict__.update(random.__dict__)
    patched.Random = _SequenceSampling  # type: ignore[misc]
    common.random = patched
    return True
