"""Subcommands whose unknown names explain themselves."""

from __future__ import annotations

import argparse
from typing import Any

from panoptic_plugin.registry import suggestion


class _Choices(argparse._SubParsersAction):
    """Sub-parsers that answer a wrong name with the closest one."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        name = values[0]
        if name not in self._name_parser_map:
            parser.error(f"there is no {self.metavar} {name!r}. {suggestion(name, list(self._name_parser_map))}")
        super().__call__(parser, namespace, values, option)


def add_choices(parser: argparse.ArgumentParser, metavar: str) -> argparse._SubParsersAction:
    """Sub-parsers of a command, one of which must be named.

    Args:
        metavar: what they are, for the usage line and errors, for example ``COMMAND``.
    """
    choices = parser.add_subparsers(dest=metavar.lower(), metavar=metavar, required=True, action=_Choices)
    choices.choices = None  # argparse would refuse an unknown name itself, with a bare list
    return choices
