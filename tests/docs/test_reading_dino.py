"""The guided tour of DINO lists the files that a training step runs, and functions that exist."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import FrameType

from crossstage.config import LazyConfig, find_config, instantiate
from tests.random_scenes import image_batch
from tests.tiny_models import tiny

ROOT = Path(__file__).resolve().parents[2]
TOUR = (ROOT / "docs/reading_dino.md").read_text()
ROW = re.compile(r"^\| \**`(?P<file>[\w/]+\.py)`\** \| (?P<read>[^|]+) \| ", re.MULTILINE)


def listed() -> dict[str, list[str]]:
    """The files of the tour in its order, each with the names to read."""
    return {row["file"]: re.findall(r"`([\w.]+)`", row["read"]) for row in ROW.finditer(TOUR)}


def defined(file: Path) -> set[str]:
    """Functions, classes and methods of a file: "function", "Class", "Class.method"."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


def files_of_a_step() -> list[str]:
    """The files of the checkout whose functions a training step of DINO R50 (tiny) calls, first call first."""
    detector = instantiate(tiny(LazyConfig.load(find_config("dino_r50_4scale_12ep")).model)).train()
    batch = image_batch(3, 1)
    called: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.setdefault(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        losses = detector(batch)
    finally:
        sys.setprofile(None)
    assert losses.total.isfinite()
    paths = [Path(name) for name in called]
    inside = [path.relative_to(ROOT) for path in paths if path.is_absolute() and path.is_relative_to(ROOT)]
    return [path.as_posix() for path in inside if path.parts[0] in ("crossstage", "projects")]


def test_the_tour_lists_the_files_that_a_training_step_runs():
    tour, run = listed(), files_of_a_step()
    assert sorted(tour) == sorted(run)
    assert re.search(r"flow: (\d+) files", TOUR)[1] == str(len(tour))


def test_the_functions_of_the_tour_exist():
    missing = [(file, name) for file, names in listed().items() for name in names if name not in defined(ROOT / file)]
    assert missing == []
    assert all(listed().values())


def test_five_files_give_an_overview():
    assert len(re.findall(r"^\| \*\*`", TOUR, re.MULTILINE)) == 5
