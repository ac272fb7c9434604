"""The docstring of each package of crossstage is a map of it: one line for each file and each package in it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {"configs", "projects"}  # their files are at the top of the checkout
PACKAGES = [path.parent for path in (ROOT / "crossstage").rglob("__init__.py") if path.parent.name not in ELSEWHERE]


def mapped(docstring: str) -> list[str]:
    """The names of the lines "- `name`: what it is"."""
    return re.findall(r"^- `(\w+)`: \S", docstring, flags=re.MULTILINE)


@pytest.mark.parametrize("package", sorted(PACKAGES), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_package_names_what_is_in_it_and_nothing_else(package: Path):
    files = {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    names = mapped(ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or "")
    assert len(names) == len(set(names))
    assert set(names) == files | packages


def test_a_line_of_a_map_is_recognised():
    text = "Parts.\n\n- `neck`: to one width\n- `backbone` is no line\n- `queries`: \nThe `decoder`: no line\n"
    assert mapped(text) == ["neck"]
