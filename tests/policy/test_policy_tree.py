"""What the tree must not hold: copies, giants, undocumented names, hard-coded devices, dead links."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("csla", "dca", "crossstage")
TREE = (*PACKAGES, "configs", "projects", "tools", "benchmarks", "examples", "tests")
BLOCK = 8
MAX_LINES = 400


def sources(*folders: str) -> list[Path]:
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in paths if "golden/data" not in path.as_posix())


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_longer_than_the_budget():
    lengths = {named(path): len(path.read_text().splitlines()) for path in sources(*TREE)}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def normalised_lines(text: str) -> list[str]:
    """Lines without indentation, blank lines, comments and imports: what a reader would call a copy."""
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= set(range(node.lineno, node.end_lineno + 1))
    lines = (line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in imported)
    return [line for line in lines if line and not line.startswith("#")]


def shared_blocks(texts: dict[str, str]) -> list[tuple[str, str, str]]:
    """The first line of each block of eight that two files share, with both names."""
    places = defaultdict(list)
    for name, text in texts.items():
        lines = normalised_lines(text)
        for start in range(len(lines) - BLOCK + 1):
            places[tuple(lines[start : start + BLOCK])].append(name)
    return sorted((block[0], *sorted(set(names))[:2]) for block, names in places.items() if len(set(names)) > 1)


def test_no_block_of_eight_lines_lies_in_two_files():
    assert shared_blocks({named(path): path.read_text() for path in sources(*TREE)}) == []


def test_a_copied_block_is_seen_through_indentation_and_comments():
    block = [f"value_{number} = {number}" for number in range(BLOCK)]
    indented = "def f():\n" + "".join(f"    {line}  \n    # why\n\n" for line in block)
    assert shared_blocks({"a": "\n".join(block), "b": indented}) == [("value_0 = 0", "a", "b")]
    assert shared_blocks({"a": "\n".join(block[1:]), "b": indented}) == []


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=named)
def test_every_public_name_has_a_docstring(path: Path):
    module = ast.parse(path.read_text())
    public = [
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    if module.body:
        assert ast.get_docstring(module), f"{named(path)} does not say what it is"


def hard_coded_devices(text: str) -> list[str]:
    """Calls of `.cuda()`, and strings "cuda..." given to a call of `to` or `device`, or as `device=`."""
    found = []
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        values = [keyword.value for keyword in call.keywords if keyword.arg == "device"]
        values += call.args if name in ("to", "device") else []
        strings = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        if name == "cuda" or any(string.startswith("cuda") for string in strings):
            found.append(ast.unparse(call))
    return found


def test_devices_come_from_tensors():
    found = {named(path): hard_coded_devices(path.read_text()) for path in sources(*PACKAGES, "projects")}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_hard_coded_devices_are_seen():
    text = 'a.cuda()\nb.to("cuda")\nc.to(d.device)\ntorch.zeros(2, device="cuda:0")\ntorch.cuda.is_available()\n'
    assert hard_coded_devices(text) == ["a.cuda()", "b.to('cuda')", "torch.zeros(2, device='cuda:0')"]


PAGES = [*ROOT.glob("*.md"), *(path for folder in TREE for path in (ROOT / folder).rglob("*.md"))]


def relative_links(text: str) -> list[str]:
    """Targets of links and pictures that point into the tree, without their anchors."""
    targets = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


@pytest.mark.parametrize("page", sorted(PAGES), ids=named)
def test_links_lead_somewhere(page: Path):
    assert [link for link in relative_links(page.read_text()) if not (page.parent / link).exists()] == []


def test_links_are_recognised():
    text = '[a](b.md) [c](https://d) [e](#f) ![g](h/i.png "title") <img src="j.png"> [k](l.md#m)'
    assert relative_links(text) == ["b.md", "h/i.png", "l.md", "j.png"]
