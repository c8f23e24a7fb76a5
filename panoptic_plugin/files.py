"""Files that are read with an explanation and written in one step; names that stay inside their folder."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from panoptic_plugin.errors import DatasetError


def read_json(path: str | Path, *, allow_list: bool = False, what: str = "panoptic JSON") -> Any:
    """The whole file, which must hold one JSON object; with ``allow_list`` a list will do.

    Raises:
        DatasetError: missing or unusable, with the place in the file and the remedy.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise DatasetError(f"{what} {path} does not exist; check the path") from None
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg}); was the file copied completely?"
        ) from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:  # such as an integer of thousands of digits
        raise DatasetError(f"{path}: not usable JSON ({error})") from None
    except RecursionError:
        raise DatasetError(f"{path}: not a dataset, its JSON is nested too deeply to be read") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(content, dict) and not (allow_list and isinstance(content, list)):
        raise DatasetError(f"{path}: holds a JSON {type(content).__name__}, expected the object of a panoptic dataset")
    return content


def outside(name: str) -> bool:
    """Whether a path of a JSON is absolute, leads upwards or is no path at all."""
    return not name or "\0" in name or os.path.isabs(name) or ".." in Path(name).parts


def replace_file(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write a whole file or leave the old one as it is.

    Args:
        path: the file; its folder exists.
        content: text is written as UTF-8.
        sync: wait until it is on the disk, so that it outlives a power cut.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes the file private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
