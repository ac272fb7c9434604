"""Imports go one way. The table of design.md, as a test."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"csla", "dca", "detrkit", "projects", "configs", "tools", "tests"}

# whoever lies under the path may import these of ours; the longest path that fits counts
ALLOWED = {
    "detrkit": {"detrkit"},
    "detrkit/structures.py": set(),
    "detrkit/errors.py": set(),
    "detrkit/layers": {"detrkit.layers", "detrkit.structures"},
    "detrkit/modeling": {
        "detrkit.modeling",
        "detrkit.layers",
        "detrkit.structures",
        "detrkit.config",
        "detrkit.errors",
    },
    "detrkit/config": {"detrkit.config", "detrkit.errors"},
    "detrkit/data": {
        "detrkit",
        "detrkit.data",
        "detrkit.layers",
        "detrkit.structures",
        "detrkit.config",
        "detrkit.errors",
    },
    "csla": {"csla", "detrkit.structures", "detrkit.layers", "detrkit.config"},
    "csla/labels.py": set(),
    "dca": {"dca", "detrkit.structures", "detrkit.layers", "detrkit.config"},
    "configs": {"csla", "dca", "detrkit", "configs"},
    "projects": {"csla", "dca", "detrkit"},
    "tools": OURS - {"tests"},
}
# and these may import nothing of others' but torch
TORCH_ALONE = ("detrkit/structures.py", "csla/labels.py", "csla/rule.py", "dca/attention.py", "detrkit/layers")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} if module in OURS else {module}
    return found


def under(name: str, parents: set[str]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


@pytest.mark.parametrize("path", sources("csla", "dca", "detrkit", "configs", "projects", "tools"), ids=named)
def test_a_file_imports_only_what_lies_below_it(path: Path):
    name = path.relative_to(ROOT).as_posix()
    rule = max((prefix for prefix in ALLOWED if name == prefix or name.startswith(prefix + "/")), key=len)
    allowed = ALLOWED[rule]
    if rule == "projects":
        allowed = allowed | {".".join(path.relative_to(ROOT).parts[:2])}  # its own project, never another
    for module in imports(path):
        if module.split(".")[0] in OURS and module != "detrkit":
            assert under(module, allowed), f"{name} imports {module}; it may import {sorted(allowed)}"


@pytest.mark.parametrize("name", TORCH_ALONE)
def test_pure_maths_needs_torch_alone(name: str):
    standard = {"math", "collections", "dataclasses", "itertools", "typing", "__future__"}
    paths = [ROOT / name] if name.endswith(".py") else sources(name)
    for path in paths:
        if path.exists():  # dca/attention.py comes with its own issue
            others = {module.split(".")[0] for module in imports(path)} - OURS
            assert others <= standard | {"torch"}, path


def test_nothing_that_is_installed_imports_the_checkout():
    for path in sources("csla", "dca", "detrkit"):
        assert not {module for module in imports(path) if under(module, {"projects", "configs", "tools", "tests"})}, (
            path
        )


def test_the_rule_sees_what_it_should(tmp_path: Path, monkeypatch):
    """A relative import is resolved, and one inside a function counts."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "projects/dino/configs").mkdir(parents=True)
    path = tmp_path / "projects/dino/configs/a.py"
    path.write_text("from .models.b import model\nfrom csla import with_csla\ndef f():\n    import tools.predict\n")
    assert imports(path) == {"projects.dino.configs.models.b", "csla.with_csla", "tools.predict"}
