"""How plots look, on paper and in a page that may be light or dark.

A figure is drawn once, with the colours below. Saved as PNG it is ready; for a page its SVG is written with CSS
variables in their place, so that the page's light or dark theme colours it.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# The page holds a lighter twin of each for dark backgrounds.
from panoptic_plugin.visualization.colors import SERIES

DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (8, 2, 2, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 2)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "|||")
TEXT, LINE = "#1c1c21", "#c9c9d1"
VARIABLES = {TEXT: "var(--text)", LINE: "var(--line)", **{color: f"var(--c{n})" for n, color in enumerate(SERIES)}}

RC: Any = {  # matplotlib types its keys one by one
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.7,
    "hatch.linewidth": 0.7,
}


@dataclass(frozen=True)
class Plot:
    """One drawn plot.

    Attributes:
        name: stem of its PNG file.
        title: one line, shown above it.
        alt: what it shows, in words and numbers, for who does not see it.
        svg: inline SVG, coloured by the page's CSS variables ``--text``, ``--line``, ``--c0``, ...
        png: bytes of the file.
        width: natural width in CSS pixels.
    """

    name: str
    title: str
    alt: str
    svg: str
    png: bytes
    width: int


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of that many inches, laid out by itself; draw into it inside the block."""
    with matplotlib.rc_context(RC):
        yield Figure(figsize=(width, height), layout="constrained")


def finish(figure: Figure, *, name: str, title: str, alt: str) -> Plot:
    """Write a figure as SVG for the page and as PNG; call it inside :func:`new_figure`'s block."""
    svg, png = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # the same numbers give the same bytes
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    figure.axes[0].set_title(title, weight="bold")  # the page has it as a heading
    figure.savefig(png, format="png", dpi=150, facecolor="white")
    width = round(figure.get_figwidth() * 96)
    return Plot(name, title, alt, inline_svg(svg.getvalue(), name, alt), png.getvalue(), width)


def inline_svg(text: str, name: str, alt: str) -> str:
    """An SVG file's text as an element of an HTML page.

    Its ids become unique in the page, its font and colours the page's, and what only a file of its own needs goes.
    """
    body = text[text.index("<svg") :]
    size = re.search(r'viewBox="([^"]+)"', body)
    body = body[body.index(">") + 1 :].rstrip()
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = _local_ids(body, "p" + hashlib.sha256(name.encode()).hexdigest()[:8])
    body = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]+", _font, body)
    for color, variable in VARIABLES.items():
        body = body.replace(color, variable)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    view_box, body = size[1] if size else "", re.sub(r"\s*\n\s*", " ", body)
    return f'<svg role="img" aria-label="{label}" viewBox="{view_box}">{body}'


def _font(found: re.Match[str]) -> str:
    weight = f"; font-weight: {found[1]}" if found[1] else ""
    return f"font-size: {found[2]}px{weight}"


def _local_ids(body: str, prefix: str) -> str:
    used = set(re.findall(r"url\(#([^)]+)\)", body)) | set(re.findall(r'href="#([^"]+)"', body))
    body = re.sub(r' id="([^"]+)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", body)


def write_pngs(plots: list[Plot], folder: Path) -> None:
    """Every plot as ``folder/NAME.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        (folder / f"{plot.name}.png").write_bytes(plot.png)
