"""The tutorials as a user follows them: their files written into an empty folder, their commands run there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
FILE = re.compile(r"^`(?P<name>\w+\.py)`:\n\n```python\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALLER = [(r"--train \d+ --val \d+", "--train 8 --val 3 --size 96"), (r"train\.max_iter=\d+", "train.max_iter=2")]
ON_ONE_CPU = ["train.device=cpu", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]

# Runs command lines in one process, since importing torch is most of a short command's time.
RUNNER = """
import json, sys
import pytest
from crossstage.cli import main
from crossstage.data.toy.generate import main as write_toy
programs = {"crossstage": main, "pytest": lambda rest: pytest.main(["-q", *rest]),
            "python": lambda rest: write_toy(rest[2:])}
for program, *rest in json.loads(sys.argv[1]):
    print("$", program, *rest, flush=True)
    if status := programs[program](rest):
        sys.exit(status)
"""


def files(page: str) -> dict[str, str]:
    """The files that a tutorial tells the reader to write, by name."""
    return {found["name"]: found["text"] for found in FILE.finditer(page)}


def commands(page: str) -> list[list[str]]:
    """The commands of a tutorial as lists of words."""
    lines = "".join(COMMANDS.findall(page)).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def smaller(page: str) -> str:
    for pattern, replacement in SMALLER:
        page = re.sub(pattern, replacement, page)
    return page


def run(given: list[list[str]], folder: Path) -> str:
    """Run commands in a folder; returns what they print."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUNNER, json.dumps(given)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_trains_and_evaluates(path: Path, tmp_path: Path):
    page = smaller(path.read_text())
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    given = commands(page)
    of_config = [[*words, *ON_ONE_CPU] if words[0] == "crossstage" else words for words in given]
    printed = run(of_config, tmp_path)
    assert "1 passed" in printed
    assert [words[:2] for words in given if words[0] == "crossstage"] == [
        ["crossstage", "train"],
        ["crossstage", "evaluate"],
        ["crossstage", "train"],
    ]
    (own,) = tmp_path.glob("output/dino_toy_my_*")
    assert (own / "results.json").is_file()
    *_, override, output = given[-1]
    key, _, value = override.partition("=")
    first, second = (OmegaConf.load(folder / "config.yaml") for folder in (own, tmp_path / output.partition("=")[2]))
    assert str(OmegaConf.select(second, key)) == value != str(OmegaConf.select(first, key))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_needs_few_files_and_fits_its_page(path: Path):
    """A newcomer opens the linked files and writes three: the part, its config, its test."""
    page = path.read_text()
    part, config, test = files(page)
    assert config.startswith("dino_toy_my_") and test == f"test_{part}"
    opened = set(re.findall(r"\]\(([^)]+)\)", page))
    most = {"label_rule": 3, "query_source": 4}[path.stem]  # and the page itself, and the test
    assert len(opened) <= most
    assert len(page.splitlines()) <= 120


def test_files_and_commands_are_found():
    page = "A\n\n`a.py`:\n\n```python\nx = 1\n```\n\n`b` and\n```bash\nc d \\\n    e\nf 'g h'\n```\n```\ni\n```\n"
    assert files(page) == {"a.py": "x = 1\n"}
    assert commands(page) == [["c", "d", "e"], ["f", "g h"]]


def test_what_makes_a_tutorial_smaller_is_in_every_tutorial():
    for path in TUTORIALS:
        assert all(re.search(pattern, path.read_text()) for pattern, _ in SMALLER), path
