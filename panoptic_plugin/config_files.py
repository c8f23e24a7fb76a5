"""The YAML files a config is made of: read as data, within limits, and only from where configs are expected."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

MAX_BASE_DEPTH = 8
MAX_FILES = 64
MAX_BYTES = 1 << 20
# Aliases let a few lines of YAML stand for millions of values.
MAX_VALUES = 100_000
MAX_BITS = 63
ROOTS_VARIABLE = "PANOPTIC_CONFIG_ROOTS"
_OWN_CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def base_chain(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(file, its own content) of everything that ``path`` builds on, in merging order, then ``path`` itself.

    Raises:
        ConfigError: a file is missing, malformed, too large or outside the allowed folders; or the ``_BASE_`` entries
            form a cycle, go more than 8 deep or name more than 64 files.
    """
    files = _walk(path, (), _roots(_resolved(path)))
    for number, item in enumerate(files):
        if number == MAX_FILES:
            raise ConfigError(f"{path}: _BASE_ leads to more than {MAX_FILES} files; flatten it")
        yield item


def _walk(path: Path, below: tuple[Path, ...], roots: list[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    resolved = _resolved(path)
    if resolved in below:
        chain = " -> ".join(str(file) for file in (*below, resolved))
        raise ConfigError(f"{path}: _BASE_ leads back to a file that is being read ({chain}); remove one link")
    if len(below) >= MAX_BASE_DEPTH:
        raise ConfigError(f"{below[0]}: _BASE_ is nested more than {MAX_BASE_DEPTH} deep; flatten it")
    if below and not any(resolved.is_relative_to(root) for root in roots):
        raise ConfigError(
            f"{below[-1]}: _BASE_ leads to {resolved}, outside the folders that configs are read from "
            f"({', '.join(map(str, roots))}); copy the file into one of them, or list its folder in ${ROOTS_VARIABLE}"
        )
    content = _read_yaml(path)
    bases = content.pop("_BASE_", [])
    for base in [bases] if isinstance(bases, str) else bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or re.match(r"\w+://", base):
            raise ConfigError(f"{path}: _BASE_ holds {base!r}; expected a local file or a list of local files")
        yield from _walk(resolved.parent / _expanded(Path(base)), (*below, resolved), roots)
    yield resolved, content


def _resolved(path: Path) -> Path:
    try:
        return _expanded(path).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL character, a loop of links
        raise ConfigError(f"config file {str(path)!r} cannot be found: {error}; correct its name") from None


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:  # nobody has that name
        raise ConfigError(f"config file {str(path)!r} cannot be found: {error}; correct its name") from None


def _roots(path: Path) -> list[Path]:
    """The folders that base files may lie in, for a config file at ``path``."""
    own = next((folder for folder in path.parents if folder.name == "configs"), path.parent)
    listed = [Path(folder).expanduser() for folder in os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep) if folder]
    return [folder.resolve() for folder in dict.fromkeys([own, Path.cwd(), _OWN_CONFIGS, *listed])]


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node, deep=False):
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not os.path.isfile(path):
        folder = path.parent
        there = sorted(file.name for file in folder.glob("*.yaml")) if os.path.isdir(folder) else []
        hint = suggestion(path.name, there) if there else f"The folder {folder} holds no YAML file."
        fault = "is no file" if os.path.lexists(path) else "does not exist"
        raise ConfigError(f"config file {path} {fault}. {hint}")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"config file {path} has {path.stat().st_size:,} bytes, expected {MAX_BYTES:,} at most")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
        too_many = _count(content, MAX_VALUES) > MAX_VALUES
        beyond = not too_many and _number_beyond(content)
    except RecursionError:
        raise ConfigError(f"config file {path} is nested too deep; expected sections of KEY: VALUE lines") from None
    # Of the last ones: odd dates, odd keys, sexagesimal numbers without end, a file that may not be read.
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, OverflowError, OSError) as error:
        reason = " ".join(str(error).split())
        if "tag:yaml.org,2002:merge" in reason:
            reason += "; merge keys (<<) are not supported: write the values out, or name a file in _BASE_"
        elif "could not determine a constructor for the tag" in reason:
            reason += "; a config file is data and runs no code: write the value out literally"
        raise ConfigError(f"config file {path} cannot be read: {reason}") from None
    if too_many:
        raise ConfigError(f"config file {path} stands for more than {MAX_VALUES:,} values; its aliases repeat too much")
    if beyond:
        raise ConfigError(f"config file {path} holds a whole number of more than {MAX_BITS} bits; make it smaller")
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} holds a {type(content).__name__}, expected KEY: VALUE lines")
    odd = next((key for key in content if not isinstance(key, str)), None)
    if odd is not None:
        raise ConfigError(f"config file {path} has the key {odd!r}, expected names of config keys")
    return content


def _count(value: Any, limit: int) -> int:
    """How many values ``value`` stands for when its aliases are written out; stops counting above ``limit``."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    total = 1
    for part in parts:
        total += _count(part, limit - total)
        if total > limit:
            break
    return total


def _number_beyond(value: Any) -> bool:
    """Whether there is a whole number that no key can mean, and that takes long to even print."""
    if isinstance(value, int):
        return value.bit_length() > MAX_BITS
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_number_beyond, parts))
