"""Imports go one way. The table of design.md, as a test."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"csla", "dca", "crossstage", "projects", "configs", "tools", "benchmarks", "tests"}

FLOOR = {"structures", "errors", "files"}  # whatever lies higher may import these
PARTS = {  # of crossstage: which other parts each may import; no two of them import each other
    "structures.py": {"detections", "movable"},
    "detections.py": {"errors", "movable"},
    "movable.py": set(),
    "errors.py": set(),
    "files.py": set(),
    "torchvision_on_cpu.py": set(),
    "accumulation.py": set(),
    "processes.py": FLOOR,
    "random_state.py": FLOOR,
    "configs": set(),
    "projects": set(),
    "layers": {"structures"},
    "config": {"errors", "files", "configs", "projects"},
    "data": {*FLOOR, "torchvision_on_cpu"},
    "checkpoints": FLOOR,
    "modeling": {*FLOOR, "accumulation", "layers", "config", "torchvision_on_cpu"},
    "fonts.py": set(),
    "visualize.py": {*FLOOR, "fonts"},
    "evaluation": {*FLOOR, "modeling", "checkpoints", "data", "fonts", "processes", "random_state", "visualize"},
    "engine": {
        *FLOOR,
        *("accumulation", "config", "checkpoints", "data", "evaluation", "processes", "random_state", "visualize"),
    },
    "interop": {*FLOOR, "config", "checkpoints", "data", "modeling"},
    "reproduction": {*FLOOR, "config", "checkpoints", "data", "modeling", "engine", "inspection"},
    "inference": {*FLOOR, "config", "data", "checkpoints"},
    "inspection": {*FLOOR, "fonts", "layers", "data", "modeling", "evaluation", "engine", "visualize"},
    "deployment": {*FLOOR, "modeling"},
    "__main__.py": {"cli"},
    "cli": {
        *FLOOR,
        *("config", "data", "checkpoints", "modeling", "visualize", "evaluation", "engine", "reproduction"),
        *("inference", "inspection", "deployment"),
    },
}

# whoever lies under the path may import these of ours; the longest path that fits counts
ALLOWED = {
    "crossstage": set(),
    "crossstage/__init__.py": {"crossstage.inference"},  # for type checkers: `load` is imported on first use
    **{
        f"crossstage/{name}": {f"crossstage.{part}" for part in (name.removesuffix(".py"), *parts)}
        for name, parts in PARTS.items()
    },
    "csla": {"csla", "crossstage.errors", "crossstage.structures", "crossstage.layers", "crossstage.config"},
    "csla/labels.py": {"crossstage.layers"},  # which need torch alone, too
    "dca": {"dca", "crossstage.structures", "crossstage.layers", "crossstage.config"},
    "configs": {"csla", "dca", "crossstage"},
    "projects": {"csla", "dca", "crossstage"},
    "tools": {"crossstage"},
    "benchmarks": OURS,
}
# and these may import nothing of others' but torch
TORCH_ALONE = ("crossstage/structures.py", "csla/labels.py", "csla/rule.py", "dca/attention.py", "crossstage/layers")
# Except here: scipy multiplies by a transposed sparse matrix without a sort, several times as fast as torch; and
# Triton, which torch brings along on a GPU, is imported by the first call there.
BESIDE_TORCH = {
    "crossstage/layers/ops/weighted_rows.py": {"scipy", "numpy"},
    "crossstage/layers/ops/bilinear_triton.py": {"triton"},
}


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
            if package and package[0] in ("projects", "configs"):
                package = ("crossstage", *package)
            module = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} if module in OURS else {module}
    return found


def under(name: str, parents: set[str]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


@pytest.mark.parametrize(
    "path", sources("csla", "dca", "crossstage", "configs", "projects", "tools", "benchmarks"), ids=named
)
def test_a_file_imports_only_what_lies_below_it(path: Path):
    name = path.relative_to(ROOT).as_posix()
    rule = max((prefix for prefix in ALLOWED if name == prefix or name.startswith(prefix + "/")), key=len)
    own = path.relative_to(ROOT).parts[1] if rule == "projects" else None
    for module in imports(path):
        first, *rest = module.split(".")
        if first not in OURS or module == "crossstage":
            continue
        assert under(module, ALLOWED[rule]), f"{name} imports {module}; it may import {sorted(ALLOWED[rule])}"
        if own and rest[:1] == ["projects"]:  # another project's configs, never its modeling
            assert rest[1] == own or "configs" in rest, f"{name} imports {module}"


def test_no_two_parts_import_each_other():
    names = {part.removesuffix(".py"): others for part, others in PARTS.items()}
    lower: set[str] = set()
    while names:
        ready = {part for part, others in names.items() if others <= lower}
        assert ready, f"a circle among {sorted(names)}"
        lower |= ready
        names = {part: others for part, others in names.items() if part not in ready}


def test_every_part_has_a_rule():
    found = {path.name for path in (ROOT / "crossstage").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__.py", "__pycache__"} == set(PARTS)


@pytest.mark.parametrize("name", TORCH_ALONE)
def test_pure_maths_needs_torch_alone(name: str):
    standard = {"math", "collections", "dataclasses", "functools", "importlib", "itertools", "typing", "warnings"}
    standard.add("__future__")
    paths = [ROOT / name] if name.endswith(".py") else sources(name)
    for path in paths:
        if path.exists():  # dca/attention.py comes with its own issue
            others = {module.split(".")[0] for module in imports(path)} - OURS
            assert others <= standard | {"torch"} | BESIDE_TORCH.get(named(path), set()), path


@pytest.mark.parametrize("name", ["pycocotools", "iopath"])
def test_what_users_do_not_install_is_imported_by_tests_and_benchmarks_alone(name: str):
    for path in sources("csla", "dca", "crossstage", "projects", "configs", "tools"):
        assert not {module for module in imports(path) if under(module, {name})}, path


def test_import_crossstage_does_not_import_torch():
    code = "import sys, crossstage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_nothing_imports_the_folders_of_the_checkout():
    """A top-level `projects` is detrex's as well: ours is `crossstage.projects`."""
    for path in sources("csla", "dca", "crossstage", "projects", "configs", "tools", "tests"):
        assert not {module for module in imports(path) if under(module, {"projects", "configs", "tools"})}, path


def test_the_rule_sees_what_it_should(tmp_path: Path, monkeypatch):
    """A relative import is resolved, and one inside a function counts."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "projects/dino/configs").mkdir(parents=True)
    path = tmp_path / "projects/dino/configs/a.py"
    path.write_text("from .models.b import model\nfrom csla import with_csla\ndef f():\n    import tools.predict\n")
    assert imports(path) == {"crossstage.projects.dino.configs.models.b", "csla.with_csla", "tools.predict"}
