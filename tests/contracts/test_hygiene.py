"""What every file of the repository keeps to, whoever writes it."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "panoptic_plugin"
SOURCES = sorted(file for folder in ("panoptic_plugin", "tests", "tools") for file in (ROOT / folder).rglob("*.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

# Written in pieces, so that this file does not hold them itself.
FORBIDDEN = [
    "/" + "work/",
    "/" + "root/",
    "/" + "home/",
    "index" + "-url",
    "trusted" + "-host",
    "python" + "hosted",
    "!!" + "python",
]
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".sh", ".cfg", ".json", ""}


def _repository_files() -> list[Path]:
    """What git tracks or would track; everything that is no build output where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        files = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        files = [*SOURCES, *(ROOT / "configs").rglob("*"), *(ROOT / "requirements").rglob("*"), *ROOT.glob("*.*")]
    return sorted(file for file in files if file.is_file() and file.suffix in TEXT_SUFFIXES)


def _relative(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


def test_no_file_names_a_machine_or_a_registry_host():
    found = []
    for file in _repository_files():
        text = file.read_text(encoding="utf-8", errors="replace")
        found += [f"{file.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert not found


def test_git_ignores_no_source():
    """A pattern such as ``datasets/`` also hides a folder of that name inside the package from every clone."""
    sources = [*SOURCES, *(ROOT / "configs").rglob("*.yaml")]
    done = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        input="\n".join(str(file.relative_to(ROOT)) for file in sources),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode == 128:
        pytest.skip("not a git repository")
    assert done.stdout.splitlines() == []


def test_requirements_hold_no_address():
    files = sorted((ROOT / "requirements").glob("*.txt"))
    assert files
    for file in files:
        assert "://" not in file.read_text(encoding="utf-8"), file.name


def test_the_lock_pins_every_package_with_a_hash():
    lines = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if re.match(r"[a-z0-9]", line, re.IGNORECASE)]
    assert pins
    assert all("==" in line and line.endswith("\\") for line in pins)


@pytest.mark.parametrize("file", SOURCES, ids=_relative(SOURCES))
def test_a_file_holds_one_idea(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("file", MODULES, ids=_relative(MODULES))
def test_the_package_logs_and_never_prints(file: Path):
    if file.parent.name == "cli":
        pytest.skip("a command line may write its result to stdout")
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


@pytest.mark.parametrize("file", MODULES, ids=_relative(MODULES))
def test_every_module_can_be_imported(file: Path):
    parts = file.relative_to(ROOT).with_suffix("").parts
    importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def test_every_module_has_a_docstring():
    undocumented = []
    for file in MODULES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if tree.body and file.name != "version.py" and not ast.get_docstring(tree):
            undocumented.append(str(file.relative_to(ROOT)))
    assert not undocumented


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_every_yaml_under_configs_stands_where_the_tests_look():
    """Recipes one folder deep, fragments under _base_/<kind>/, nothing loose beside them."""
    places = {file.relative_to(ROOT / "configs").parts for file in (ROOT / "configs").rglob("*.y*ml")}
    assert places
    assert all(parts[-1].endswith(".yaml") for parts in places)
    assert all(len(parts) == (3 if parts[0] == "_base_" else 2) for parts in places)
