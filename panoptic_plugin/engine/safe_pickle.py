"""Reading a pickle as data: arrays, tensors and plain containers, and nothing that could run.

A pickle names the callables that rebuild its objects, so the plain ``pickle.load`` of a downloaded file may run any
code. Here a name that is not in a short table stops the reading before anything is called.
"""

from __future__ import annotations

import argparse
import collections
import io
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch


def _table() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): collections.defaultdict,
        ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("torch", "Size"): torch.Size,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch.storage", "_load_from_bytes"): _load_storage,
    }
    for builtin in (set, frozenset, complex, bytearray, slice, int, float, bool, str, list, dict, tuple):
        names["builtins", builtin.__name__] = names["__builtin__", builtin.__name__] = builtin
    # Files written under NumPy 1 say numpy.core, those written under NumPy 2 numpy._core.
    for package in ("numpy.core", "numpy._core"):
        for module, name, function in _numpy_functions():
            names[f"{package}.{module}", name] = function
    for name in dir(getattr(np, "dtypes", None)):
        if name.endswith("DType") and name != "ObjectDType":
            names["numpy.dtypes", name] = getattr(np.dtypes, name)
    return names


def _numpy_functions() -> list[tuple[str, str, Callable]]:
    # Taken from what NumPy itself writes, as the modules have other names in NumPy 1 and 2.
    reconstruct = np.zeros(1).__reduce__()[0]
    scalar = np.float32(0).__reduce__()[0]
    from_buffer = np.zeros(1).__reduce_ex__(5)[0]
    return [
        ("multiarray", "_reconstruct", reconstruct),
        ("multiarray", "scalar", scalar),
        ("numeric", "_frombuffer", from_buffer),
    ]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # Python 3 writes bytes this way at pickle protocol 2; other codecs have no business here.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _load_storage(content: bytes) -> Any:
    # A tensor in a plain pickle carries its storage as a torch file within the pickle.
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _DataUnpickler(pickle.Unpickler):
    table = _table()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.table[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it refers to {module}.{name}, but weights may hold only arrays, tensors and plain containers; "
                "nothing in the file was executed"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def load(stream: BinaryIO) -> Any:
    """The object in ``stream``. Byte strings of Python 2 become latin1 text, as Detectron2's model zoo needs.

    Raises:
        pickle.UnpicklingError: the pickle holds anything but arrays, tensors and plain containers.
        Exception: whatever a damaged pickle leads to (EOFError, ValueError, KeyError, ...).
    """
    return _DataUnpickler(stream, encoding="latin1").load()


def torch_safe_globals() -> list[Any]:
    """What ``torch.load(weights_only=True)`` may rebuild beside tensors: NumPy arrays and scalars, and plain options.

    Many trainings, DETR's official one among them, save their ``argparse.Namespace``, which is a bag of attributes.
    """
    allowed: list[Any] = [np.ndarray, np.dtype, argparse.Namespace]
    for package in ("numpy.core", "numpy._core"):
        allowed += [(function, f"{package}.{module}.{name}") for module, name, function in _numpy_functions()]
    allowed += [value for (module, _), value in _DataUnpickler.table.items() if module == "numpy.dtypes"]
    allowed.append((_encode, "_codecs.encode"))
    return allowed
