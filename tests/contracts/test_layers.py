"""Who may import whom inside the package, read from the sources without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "panoptic_plugin"
NAME = PACKAGE.name

# Every part may import itself and errors. systems/<name>/ is a part of its own: a system imports the files of systems/,
# never another system. "registry" is open to most, for errors that name the closest match. "*" is anything except cli.
RULES: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    # What data and evaluation both ask of a file.
    "files": set(),
    "integrity": set(),
    # Targets and class head must number classes alike.
    "label_space": set(),
    "compat": set(),
    "structures": set(),
    "layers": set(),
    "registry": set(),
    "losses": {"layers", "registry"},
    "backbones": {"layers", "registry"},
    "heads": {"layers", "losses", "registry"},
    "postprocessing": {"structures", "registry"},
    "data": {"structures", "registry", "files", "integrity", "label_space"},
    "evaluation": {"structures", "registry", "files", "integrity"},
    "visualization": {"structures", "registry"},
    "systems": {"structures", "layers", "losses", "heads", "postprocessing", "registry", "label_space"},
    # Beyond the *config.py of backbones and systems, only the text of its own messages.
    "config": {"config_files", "config_merge"},
    "config_files": {"registry"},
    "config_merge": {"registry"},
    "config_values": {"layers"},
    "register": {"*"},
    # layers: which batch norm a model runs with depends on the device and the processes, which only engine knows.
    # visualization: a training draws previews. backbones: weights for a part of a model are recognised by their names.
    "engine": {
        "config",
        "config_merge",
        "data",
        "evaluation",
        "structures",
        "registry",
        "layers",
        "files",
        "visualization",
        "backbones",
    },
    "export": {"config", "engine"},
    # data, evaluation: a study cuts its split out of a dataset and scores trials image by image.
    "tuning": {"config", "engine", "data", "evaluation", "registry", "files"},
    # data: a page about a dataset reads the dataset.
    "reports": {"structures", "evaluation", "visualization", "data", "registry", "files"},
    "cli": {"*"},
    "__init__": {"compat", "register", "config", "version"},
}
# What a part may import inside its functions only, so that importing the part itself stays light.
LATE: dict[str, set[str]] = {
    # PanopticResult.draw() and .instances: methods of the result that users hold in their hands.
    "structures": {"visualization", "postprocessing"},
    # panoptic_plugin.load_model
    "__init__": {"engine"},
}
# Extras of pyproject.toml: imported inside the functions that need them.
OPTIONAL = {"ray", "optuna", "wandb", "onnx", "onnxruntime", "timm"}

MODULES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(file.relative_to(PACKAGE)) for file in MODULES]


def _dotted(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _part(module: str) -> str:
    """'panoptic_plugin.data.mapper' -> 'data', the package itself -> '__init__'."""
    return module.split(".")[1] if "." in module else "__init__"


def _system(module: str) -> str | None:
    """'panoptic_plugin.systems.joint.head' -> 'joint'; None for systems/base.py and the like, which all share."""
    parts = module.split(".")
    shared = len(parts) < 3 or parts[1] != "systems" or (PACKAGE / "systems" / f"{parts[2]}.py").is_file()
    return None if shared else parts[2]


def _imports(file: Path, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Absolute dotted names of what is imported; ``from a import b`` gives a.b where that is a module of ours."""
    package = _dotted(file) if file.name == "__init__.py" else _dotted(file).rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (_module_or_parent(base, alias.name) for alias in node.names)


def _module_or_parent(base: str, name: str) -> str:
    target = PACKAGE.parent.joinpath(*base.split("."), name)
    is_module = base.split(".")[0] == NAME and (target.is_dir() or target.with_suffix(".py").is_file())
    return f"{base}.{name}" if is_module else base


def _at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when the module is imported: no bodies of functions, no TYPE_CHECKING blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _at_import_time(child)


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def _allowed(importer: str, imported: str, late: bool = False) -> bool:
    source, target = _part(importer), _part(imported)
    if late and target in LATE.get(source, ()):
        return True
    if target in ("errors", "version"):
        return True
    if source == "config" and imported.endswith(".config"):
        return True
    if target == "cli" and source != "cli":
        return False
    if source == target:
        return _system(imported) in (None, _system(importer))
    return bool(RULES[source] & {target, "*"})


@pytest.mark.parametrize("file", MODULES, ids=IDS)
def test_imports_only_what_its_layer_may(file: Path):
    importer = _dotted(file)
    assert _part(importer) in RULES, f"{importer}: a new part of the package needs a line in RULES"
    ours = {name for name in _imports(file, ast.walk(_tree(file))) if name.split(".")[0] == NAME}
    early = set(_imports(file, _at_import_time(_tree(file))))
    # "import panoptic_plugin" itself says nothing about layers; only scripts need it.
    forbidden = sorted(name for name in ours if not _allowed(importer, name, late=name not in early))
    assert not forbidden, f"{importer} may import {sorted(RULES[_part(importer)])}"


@pytest.mark.parametrize("file", MODULES, ids=IDS)
def test_optional_packages_are_imported_where_they_are_used(file: Path):
    found = {name.split(".")[0] for name in _imports(file, _at_import_time(_tree(file)))}
    assert not found & OPTIONAL


def test_the_rules_know_no_part_that_is_gone_or_misspelt():
    """The plan's parts that are not built yet are named here, so that a typo in RULES is noticed."""
    planned = {"export", "tuning", "reports"}
    there = {_part(_dotted(file)) for file in MODULES}
    assert set(RULES) - there <= planned


def test_the_reader_sees_every_form_of_import():
    source = (
        "import panoptic_plugin.data.targets as targets\n"
        "from panoptic_plugin import structures\n"
        "from panoptic_plugin.config import get_cfg\n"
        "def late():\n    from ..engine import trainer\n"
    )
    nodes = ast.walk(ast.parse(source))
    names = set(_imports(PACKAGE / "data" / "mapper.py", nodes))
    assert {"panoptic_plugin.data.targets", "panoptic_plugin.structures", "panoptic_plugin.config"} <= names
    assert any(name.startswith("panoptic_plugin.engine") for name in names)


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("data.mapper", "engine.trainer", False),
        ("data.mapper", "data.targets", True),
        ("data.mapper", "errors", True),
        ("systems.joint.head", "systems.panoptic_deeplab.head", False),
        ("systems.joint.head", "systems.joint.targets", True),
        ("systems.joint.head", "systems.base", True),
        ("systems.base", "systems.joint.head", False),
        ("engine.trainer", "cli.train", False),
        ("config", "systems.joint.config", True),
        ("config", "systems.joint.head", False),
    ],
)
def test_the_rules_decide(importer: str, imported: str, allowed: bool):
    assert _allowed(f"{NAME}.{importer}", f"{NAME}.{imported}") is allowed
