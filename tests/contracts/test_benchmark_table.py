"""The README's benchmark table is what the committed figures give, and the figures say what they must."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "benchmarks.json"
spec = importlib.util.spec_from_file_location("benchmark_table", ROOT / "tests" / "benchmarks" / "table.py")
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)

MACHINE = {
    "cpu": "A CPU", "cores": 2, "threads": 1, "python": "3.12", "torch": "2.6", "numpy": "2.0", "opencv": "4.10",
    "detectron2": "0.6", "date": "2026-01-01",
}  # fmt: skip
RECORDS = [
    {"row": "a", "case": "1x1", "reference": "R", "reference_ms": 1234.5, "ours_ms": 2.345, "ratio": 526.4,
     "asked": 250, "asked_ms": 30, "equal": True, "equality": "ids", "load": 0.5},
    {"row": "b", "case": "2x2", "reference": "R", "reference_ms": 12.0, "ours_ms": 10.0, "ratio": 1.2, "asked": None,
     "equal": False, "equality": "1e-4", "load": 2.0},
]  # fmt: skip


@pytest.fixture
def content():
    return {"machine": MACHINE, "records": RECORDS}


def test_a_record_becomes_a_row(content):
    lines = table.make_table(content).splitlines()
    assert lines[2] == "| a | 1x1 | R | 1,234 | 2.35 | 526x | 250x, 30 ms | ids |"
    assert lines[3] == "| b | 2x2 | R | 12 | 10 | 1.2x |  | **no** (1e-4) |"
    assert "A CPU, 2 cores; load while measuring 0.5 to 2;" in lines[-1]


def test_only_what_stands_between_the_markers_is_replaced(content):
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    new = table.replace_table(text, table.make_table(content))
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert table.table_of(new) == table.make_table(content)
    assert table.replace_table(new, table.make_table(content)) == new
    with pytest.raises(ValueError, match="once each"):
        table.replace_table("no markers", "")


def test_the_readme_shows_the_committed_figures():
    found = table.table_of((ROOT / "README.md").read_text(encoding="utf-8"))
    if found is None:
        pytest.skip("the README has no benchmark markers")
    assert found == table.make_table(json.loads(FIGURES.read_text(encoding="utf-8")))


def test_every_committed_record_is_equal_and_complete():
    if not FIGURES.is_file():
        pytest.skip("no figures are committed")
    for record in json.loads(FIGURES.read_text(encoding="utf-8"))["records"]:
        missing = {"row", "case", "ours_ms", "reference_ms", "ratio", "reference", "equal", "equality"} - record.keys()
        assert not missing, f"{record['row']}, {record['case']}"
        assert record["equal"], f"{record['row']}, {record['case']}: not {record['equality']}"
