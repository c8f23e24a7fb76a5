"""The benchmark table of the README, from JSON: ``python tests/benchmarks/table.py docs/benchmarks.json README.md``.

What stands between the two markers in the Markdown file is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
HEADERS = ("what", "on", "reference", "reference ms", "ours ms", "times faster", "goal", "equal")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, help="what run.py --output wrote")
    parser.add_argument("markdown", type=Path, help="the file with the markers")
    args = parser.parse_args(argv)
    content = json.loads(args.json.read_text(encoding="utf-8"))
    text = args.markdown.read_text(encoding="utf-8")
    args.markdown.write_text(replace_table(text, make_table(content)), encoding="utf-8")
    return 0


def make_table(content: Mapping[str, Any]) -> str:
    """Markdown: a row a record, and the machine below it."""
    lines = [_line(HEADERS), _line(["---", "---", "---", "---:", "---:", "---:", "---:", "---"])]
    lines += [_line(_cells(record)) for record in content["records"]]
    return "\n".join([*lines, "", _machine(content)])


def replace_table(text: str, table: str) -> str:
    """``text`` with ``table`` between the markers.

    Raises:
        ValueError: the markers are not there once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text needs {BEGIN} and after it {END}, once each")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def table_of(text: str) -> str | None:
    """What stands between the markers, None without markers."""
    found = re.search(f"{BEGIN}\n(.*)\n{END}", text, re.DOTALL)
    return found.group(1) if found else None


def _cells(record: Mapping[str, Any]) -> list[str]:
    equality = record.get("equality", "")
    asked, limit = record.get("asked"), record.get("asked_ms")
    goals = [f"{asked:g}x" if asked else "", f"{limit:g} ms" if limit else ""]
    return [
        record["row"],
        record["case"],
        record.get("reference", "Detectron2"),
        _number(record["reference_ms"]),
        _number(record["ours_ms"]),
        f"{_number(record['ratio'])}x",
        ", ".join(goal for goal in goals if goal),
        equality if record.get("equal", True) else f"**no** ({equality})",
    ]


def _number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine(content: Mapping[str, Any]) -> str:
    machine = content["machine"]
    loads = [record["load"] for record in content["records"] if "load" in record]
    load = f"; load while measuring {min(loads):g} to {max(loads):g}" if loads else ""
    return (
        f"CPU time of {machine['threads']} thread, both in turns in one process on the same input, medians. "
        f"{machine['cpu']}, {machine['cores']} cores{load}; {machine.get('date', '')}. "
        f"Python {machine['python']}, PyTorch {machine['torch']}, NumPy {machine['numpy']}, "
        f"OpenCV {machine['opencv']}, Detectron2 {machine['detectron2']}."
    )


if __name__ == "__main__":
    raise SystemExit(main())
