"""One file or command line merged into a config; a key or value that does not fit explains itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

MAX_SHOWN = 100  # characters of a value in a message


def merge_file(cfg: CfgNode, path: Path, content: dict[str, Any]) -> None:
    """Merge the content of one YAML file, without what its ``_BASE_`` names.

    Raises:
        ConfigError: names the file, the key, and what was expected.
    """
    version = content.get("VERSION", cfg.VERSION)
    if version != cfg.VERSION:
        raise ConfigError(
            f"{path}: VERSION is {version}, expected {cfg.VERSION}; rewrite its keys in the current names"
        )
    fitting = _fitting_section(cfg, content, str(path), "")
    try:
        cfg.merge_from_other_cfg(CfgNode(fitting))
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"{path}: {_reason(error)}") from None


def merge_overrides(cfg: CfgNode, overrides: Sequence[Any]) -> None:
    """Merge KEY, VALUE, KEY, VALUE, ... as they stand on a command line.

    Raises:
        ConfigError: names the key and what was expected.
    """
    check_pairs(overrides)
    for key, word in zip(overrides[::2], overrides[1::2], strict=True):
        current = find_key(cfg, str(key), "command line")
        value = _fitting(current, _read(current, word), f"command line: {key}")
        try:
            # A text is quoted, so that it is not read once more.
            cfg.merge_from_list([key, repr(value) if isinstance(value, str) else value])
        except (KeyError, ValueError, AssertionError) as error:
            raise ConfigError(f"command line: {key} {word}: {_reason(error)}") from None


def _read(current: Any, word: Any) -> Any:
    """A word of the command line as a value; a folder may be named 2026."""
    value = CfgNode._decode_cfg_value(word)
    return word if isinstance(current, str) and isinstance(value, (int, float)) else value


def check_pairs(overrides: Sequence[Any]) -> None:
    """Raise ConfigError where a value is missing, in words that show which."""
    assigned = next((str(word) for word in overrides[::2] if "=" in str(word)), None)
    if assigned is not None:
        key, _, value = assigned.partition("=")
        raise ConfigError(f"command line: {assigned}: write KEY VALUE with a space: {key} {value}".rstrip())
    if len(overrides) % 2:
        raise ConfigError(
            f"command line: {overrides[-1]} stands alone; config keys are given as KEY VALUE pairs, and "
            f"{' '.join(map(str, overrides))} is an odd number of words"
        )


def find_key(cfg: CfgNode, dotted: str, source: str) -> Any:
    """The value or section at a key; ConfigError names the closest one where there is none."""
    node: Any = cfg
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, CfgNode) or part not in node:
            parent = ".".join(parts[:depth])
            known = [f"{parent}.{name}" if parent else name for name in node] if isinstance(node, CfgNode) else []
            raise ConfigError(f"{source}: there is no config key {dotted}. {_closest_key(cfg, dotted, known)}")
        node = node[part]
    return node


def _fitting_section(cfg: CfgNode, content: dict[str, Any], source: str, prefix: str) -> dict[str, Any]:
    """The content of a file with each value as its key wants it."""
    fitting = {}
    for name, value in content.items():
        dotted = f"{prefix}{name}"
        current = find_key(cfg, dotted, source)
        if isinstance(current, CfgNode) and isinstance(value, dict):
            fitting[name] = _fitting_section(cfg, value, source, f"{dotted}.")
        else:
            fitting[name] = _fitting(current, value, f"{source}: {dotted}")
    return fitting


def _fitting(current: Any, value: Any, where: str) -> Any:
    """``value`` in the type of ``current``: a whole number will do for a float; the rest of it is for yacs.

    Raises:
        ConfigError: another type.
    """
    if isinstance(current, CfgNode):
        keys = ", ".join(list(current)[:8])
        raise ConfigError(f"{where} is {_shown(value)}, but it is a section, with the keys {keys}, ...")
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = current is None or value is None or isinstance(value, type(current))
    if fits or {type(current), type(value)} == {list, tuple}:
        return value
    raise ConfigError(
        f"{where} is {_shown(value)}, expected {_kind(current)}{_for_example(current, value)}; at present it is "
        f"{_shown(current)}"
    )


def _kind(value: Any) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return names.get(type(value), "a list")


def _for_example(current: Any, value: Any) -> str:
    """What a single value is to be written like where a list is wanted."""
    if not isinstance(current, (list, tuple)) or isinstance(value, dict):
        return ""
    return f", such as {[value]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 4]} ..."


def _closest_key(cfg: CfgNode, dotted: str, siblings: list[str]) -> str:
    last = dotted.rsplit(".", 1)[-1]
    keys = list(_all_keys(cfg))
    same = [key for key in keys if key.upper() == dotted.upper()]
    same_name = [key for key in keys if key.rsplit(".", 1)[-1] == last]
    return suggestion(dotted.upper() if same else dotted, same or same_name or siblings)


def _all_keys(cfg: CfgNode, prefix: str = "") -> Iterable[str]:
    for name, value in cfg.items():
        yield f"{prefix}{name}"
        if isinstance(value, CfgNode):
            yield from _all_keys(value, f"{prefix}{name}.")


def _reason(error: Exception) -> str:
    return str(error.args[0] if error.args else error).replace("\n", " ")
