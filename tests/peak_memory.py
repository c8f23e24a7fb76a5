"""How much memory a call needs at its highest."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib(function: Callable[[], Any]) -> float | None:
    """MiB of resident memory at its highest during a call, above that before the call; the result is included.

    The system itself notes the highest value, so nothing is missed between two looks. What earlier calls have freed is
    given back to the system first, because memory that is used again would not be seen. None where the system is no
    Linux with glibc.
    """
    name = ctypes.util.find_library("c")
    if not CLEAR.exists() or name is None or not hasattr(ctypes.CDLL(name), "malloc_trim"):
        return None
    gc.collect()
    ctypes.CDLL(name).malloc_trim(0)
    try:
        CLEAR.write_text("5")  # sets the highest value to the current one
    except OSError:
        return None
    before = _status_kib("VmRSS")
    kept = function()
    highest = _status_kib("VmHWM")
    del kept
    return round((highest - before) / 1024, 1)


def _status_kib(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
