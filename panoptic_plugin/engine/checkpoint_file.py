"""Weights on disk: reading without running code, and writing so that a kill leaves the old file or the new one.

What a file holds is decided by its first bytes, not by its name: PyTorch's zip or older format, safetensors, pickle.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes

from panoptic_plugin.engine import safe_pickle
from panoptic_plugin.errors import CheckpointError
from panoptic_plugin.files import file_sha256

ZIP_MAGIC = b"PK\x03\x04"
# torch.save before PyTorch 1.6 begins with a pickled number of its own.
LEGACY_TORCH_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19."
PICKLE_MAGIC = (b"\x80", b"(", b"}", b"c")
# Where files keep the weights among other things: Detectron2 and fvcore, most trainers, pycls.
WRAPPERS = ("model", "state_dict", "model_state")
MAX_WRAPPERS = 8
# torch.save does not compress, so that an archive's parts are together about as long as the file.
MAX_EXPANSION = 8
SMALL_ARCHIVE = 1 << 24  # bytes
REMEDY = "Download or copy it again, or set MODEL.WEIGHTS to another file."


def load_checkpoint_file(path: str | Path) -> Any:
    """All that a file holds, on the CPU, without running code from it.

    Args:
        path: a local file: ``torch.save`` of any version, safetensors, or a pickle of arrays and containers.

    Returns:
        The object as it was saved. A safetensors file becomes ``{"model": tensors, **metadata}``.

    Raises:
        CheckpointError: the file is missing, empty, truncated, of no known kind, or holds more than data. The message
            names the file, its size, the cause and the remedy.
    """
    path = Path(path)
    check_file(path)
    with path.open("rb") as stream:
        head = stream.read(64)
    reader = _reader(head)
    if reader is None:
        raise _error(
            path,
            f"is of no known kind ({_describe(head)})",
            "Expected a file of torch.save (.pth, .pt), safetensors or a pickle (.pkl). " + REMEDY,
        )
    try:
        return reader(path)
    except MemoryError as cause:  # of a file that is too large, or of a length in it that is damaged
        raise _error(path, f"asks for more memory than there is ({_one_line(cause)})", REMEDY) from cause
    except Exception as cause:  # a damaged file can lead to almost any error in a reader
        raise _error(path, *_unreadable(cause)) from cause


def load_state_dict_file(path: str | Path) -> dict[str, torch.Tensor]:
    """The weights in a file, as tensors on the CPU by name; wrappers such as ``{"model": ...}`` are taken off.

    Raises:
        CheckpointError: as :func:`load_checkpoint_file`, or there are no tensors in it.
    """
    weights = unwrap(load_checkpoint_file(path))
    if weights is None:
        raise _error(Path(path), "holds no weights", "Expected a mapping from names to tensors or arrays. " + REMEDY)
    return {name: torch.as_tensor(value) for name, value in weights.items() if is_array(value)}


def unwrap(content: Any) -> dict[str, Any] | None:
    """The mapping with the weights within what a file holds, or None where there is none."""
    for _ in range(MAX_WRAPPERS):  # a mapping may hold itself
        if not isinstance(content, Mapping):
            return None
        within = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not within:
            has_arrays = any(is_array(value) for value in content.values())
            return {str(name): value for name, value in content.items()} if has_arrays else None
        content = within[0]
    return None


def is_array(value: Any) -> bool:
    """Whether ``value`` is a tensor or array of real numbers, neither sparse nor quantized nor without values."""
    if isinstance(value, torch.Tensor):
        ordinary = value.layout is torch.strided and not (value.is_quantized or value.is_meta)
        return ordinary and not value.is_complex()
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader finds the old content or the whole new one, even after a kill or power cut.

    Args:
        path: the file; its folder must exist.
        write: writes the content to the binary stream it is given.

    Raises:
        CheckpointError: the folder is missing or not writable, or the disk is full. The old content is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")  # the same folder, so that the replacement is one step
    try:
        temporary.unlink(missing_ok=True)  # never written through: another job, or a link, may have put it there
        with temporary.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as cause:  # torch.save turns a full disk into a RuntimeError
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path}: {_one_line(cause)}{_free_space(path.parent)}. Expected a writable folder with free "
            "space; what the file held before is untouched."
        ) from cause


def _free_space(folder: Path) -> str:
    try:
        return f" ({shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free there)"
    except OSError:
        return ""


def write_checkpoint_file(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` in the format that the suffix of ``path`` names, atomically.

    Args:
        path: ``.pth`` or ``.pt`` (torch.save), ``.pkl`` (NumPy arrays, Detectron2's model-zoo format) or
            ``.safetensors`` (tensors, everything else as text in its metadata).
        content: ``{"model": {name: tensor}, ...}``.

    Raises:
        CheckpointError: another suffix, or the file cannot be written.
    """
    suffix = Path(path).suffix
    if suffix not in WRITERS:
        raise CheckpointError(f"{path} ends in {suffix!r}, expected one of {', '.join(WRITERS)}; rename the output")
    write_atomically(path, lambda stream: WRITERS[suffix](content, stream))


def _write_torch(content: Mapping[str, Any], stream: BinaryIO) -> None:
    torch.save(dict(content), stream)


def _write_pickle(content: Mapping[str, Any], stream: BinaryIO) -> None:
    arrays = {name: _to_numpy(value) for name, value in content["model"].items()}
    pickle.dump({**content, "model": arrays}, stream, protocol=4)


def _write_safetensors(content: Mapping[str, Any], stream: BinaryIO) -> None:
    # Copies, as safetensors refuses tensors that share memory.
    tensors = {name: torch.as_tensor(value).detach().clone().contiguous() for name, value in content["model"].items()}
    metadata = {name: json.dumps(value) for name, value in content.items() if name != "model"}
    stream.write(safetensors_bytes(tensors, metadata))


WRITERS: dict[str, Callable[[Mapping[str, Any], BinaryIO], None]] = {
    ".pkl": _write_pickle,
    ".pth": _write_torch,
    ".pt": _write_torch,
    ".safetensors": _write_safetensors,
}


def _to_numpy(value: Any) -> np.ndarray:
    tensor = torch.as_tensor(value).detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16


def _reader(head: bytes) -> Callable[[Path], Any] | None:
    if head.startswith(ZIP_MAGIC) or LEGACY_TORCH_MAGIC in head[:20]:
        return _read_torch
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return _read_safetensors
    if head.startswith(PICKLE_MAGIC):
        return _read_pickle
    return None


def _read_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        _compare_checksums(path)
    with torch.serialization.safe_globals(safe_pickle.torch_safe_globals()):
        return torch.load(path, map_location="cpu", weights_only=True)


def _compare_checksums(path: Path) -> None:
    # torch.save notes the CRC-32 of each tensor, and torch.load does not look at it: a flipped bit would be a weight.
    with zipfile.ZipFile(path) as archive:
        length = sum(part.file_size for part in archive.infolist())
        if length > max(SMALL_ARCHIVE, MAX_EXPANSION * path.stat().st_size):
            raise ValueError(f"its parts are {length:,} bytes long when unpacked, which no weights are")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of its part {damaged} does not match")


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as stream:
        return safe_pickle.load(stream)


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = {name: _from_json(text) for name, text in (file.metadata() or {}).items()}
        return {**metadata, "model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def check_file(path: str | Path) -> None:
    """Stop early where no weights can be read.

    Raises:
        CheckpointError: the file is missing, a folder, a device or the like, empty, or may not be read.
    """
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a folder, expected a weights file; set MODEL.WEIGHTS to a file in it")
    if not os.path.isfile(path):
        if os.path.lexists(path):
            raise CheckpointError(f"{path} is no regular file, nor a link to one; set MODEL.WEIGHTS to a weights file")
        raise CheckpointError(
            f"{path} does not exist, expected a weights file; correct it, or set MODEL.WEIGHTS to "
            '"" to start from random weights'
        )
    if os.path.getsize(path) == 0:
        raise _error(Path(path), "is empty", "A download or a copy has failed. " + REMEDY)
    try:
        with open(path, "rb") as stream:
            stream.read(1)
    except OSError as cause:
        raise _error(Path(path), f"cannot be read: {_one_line(cause)}", REMEDY) from cause


def compare_sha256(path: str | Path, expected: str) -> None:
    """Compare a file with a published checksum.

    Args:
        path: the file.
        expected: SHA-256 in hexadecimal digits, or its first eight or more, as in the names of published files.

    Raises:
        CheckpointError: they differ, or ``expected`` is too short to say anything.
    """
    found = file_sha256(path)
    if len(expected) < 8 or not found.startswith(expected.lower()):
        raise _error(Path(path), f"has the SHA-256 {found}, expected {expected!r}", REMEDY)


def _describe(head: bytes) -> str:
    if head.lstrip()[:1] == b"<":
        return "it begins like a web page: the download got a page in place of the file"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run 'git lfs pull'"
    return f"its first bytes are {head[:8]!r}"


def _error(path: Path, fault: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"{path} ({path.stat().st_size:,} bytes) {fault}. {remedy}")


def _unreadable(cause: Exception) -> tuple[str, str]:
    forbidden = re.search(r"(?:refers to|Unsupported (?:global|class|operand).*?|GLOBAL) ([\w.]+\.\w+)", str(cause))
    if forbidden:
        return (
            f"holds more than data: it refers to {forbidden[1]}, and nothing in it was executed",
            "Expected arrays, tensors and plain containers. Use weights from a source you trust, or save only "
            "the model's state dict.",
        )
    return f"cannot be read: {_one_line(cause)}", "It is truncated, damaged, or no weights file. " + REMEDY


def _one_line(cause: BaseException) -> str:
    text = " ".join(str(cause).split())
    # PyTorch goes on with advice on its internals, and on switching safety off.
    text = text.partition("WeightsUnpickler error: ")[2] or text
    text = text.partition(" Check the documentation of torch.load")[0]
    first_sentence = re.split(r"(?<=[a-z)])\. ", text)[0].rstrip(".")
    return f"{type(cause).__name__}: {first_sentence[:300]}" if first_sentence else type(cause).__name__


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
