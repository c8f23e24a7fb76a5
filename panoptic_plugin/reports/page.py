"""HTML pages that hold everything they show: from a template of ``templates/`` to one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        value: a number to sort by; such a cell is aligned right.
        note: small print behind it.
        strong: the best of its column.
        header: it names its row.
        color: RGB of a sample in front of it.
    """

    text: str
    value: float | None = None
    note: str = ""
    strong: bool = False
    header: bool = False
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        caption: one line above it.
        columns: headers; those of ``numbers`` are aligned right.
        rows: cells of each row.
        numbers: places of the columns that hold numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = frozenset()


def number_cell(value: float | None, form: str = "{:.1f}", *, note: str = "", strong: bool = False) -> Cell:
    """A number, or a dash where there is none."""
    if value is None:
        return Cell("–")
    return Cell(form.format(value), value, note, strong)


def render(template: str, **content: Any) -> str:
    """A page from ``templates/TEMPLATE``; text is escaped, see the template for what it needs."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
