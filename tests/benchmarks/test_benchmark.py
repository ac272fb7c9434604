"""`python -m benchmarks`: every benchmark runs, its sides agree, and the table has its form. Never a time."""

import importlib
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from benchmarks.measure import saved_bytes

ROOT = Path(__file__).resolve().parents[2]
HEADER = "benchmark | case | baseline | theirs | ours | ratio | target | met | max difference | agree"
MEDIAN = re.compile(r"-?[\d.]+(e[+-]\d+)? (ms|MB|M|G)")
RATIO = re.compile(r"-?[\d.]+x?|inf")
TARGET = re.compile(r"-|>= [\d.]+x|<= [\d.]+")
DIFFERENCE = re.compile(r"[\d.]+e[+-]\d+ \(<= [\d.]+e[+-]\d+\)")

# benchmark: how many rows it has at least (with detrex installed there are more), and its baselines
PROMISED = {
    "criterion": (4, {"loop"}),
    "csla": (4, {"loop", "criterion, one-to-one"}),
    "hugging_face": (3, {"transformers"}),
    "matching": (3, {"loop"}),
    "focal": (1, {"usual dense"}),
    "attention": (5, {"grid_sample per level"}),
    "stage_interactor": (
        30,
        {"closed form", "generation of these filters", "AdaMixer", "grid_sample per level", "a gradient per stage"},
    ),
    "deqdet": (21, {"AdaMixer"}),
    "paq": (8, {"DINO", "one-to-one"}),
    "evaluation": (1, {"pycocotools"}),
    "loader": (2, {"PIL, float, normalised", "PIL, uint8"}),
}


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def table() -> list[list[str]]:
    """The cells of all rows of a quick run of everything."""
    finished = run("all", "--quick", "--rounds", "1")
    assert finished.returncode == 0, finished.stderr
    assert "warning" not in finished.stderr
    machine, settings, header, *rows = finished.stdout.splitlines()
    assert re.match(r"machine: .+; torch .+; 1 thread\(s\)", machine)
    assert settings == "medians of 1 interleaved rounds; --quick: times mean nothing"
    assert header == HEADER
    return [row.split(" | ") for row in rows]


@pytest.mark.parametrize("name", PROMISED)
def test_rows_have_their_form_and_sides_agree(table, name):
    rows = [row for row in table if row[0] == name]
    count, baselines = PROMISED[name]
    assert len(rows) >= count
    assert {row[2] for row in rows} - {"detrex"} == baselines
    for _, case, _, theirs, ours, ratio, target, met, difference, agree in rows:
        assert case
        assert MEDIAN.fullmatch(theirs) and MEDIAN.fullmatch(ours)
        assert RATIO.fullmatch(ratio) and TARGET.fullmatch(target)
        assert met == "-"  # quick shapes say nothing about a target
        assert DIFFERENCE.fullmatch(difference)
        assert agree == "yes"


def test_disagreement_is_told_and_fails(tmp_path):
    """A benchmark of two different things is none: the focal loss with another exponent must not pass."""
    script = tmp_path / "broken.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from benchmarks import __main__ as benchmark, loops\n"
        "loops.GAMMA = 1.5\n"
        "sys.exit(benchmark.main(['focal', '--quick', '--rounds', '1']))\n"
    )
    finished = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert finished.returncode == 1
    assert finished.stdout.splitlines()[-1].endswith("| NO")
    assert finished.stderr.startswith("warning: focal, forward + backward")


@pytest.mark.parametrize("arguments", [("nothing",), ("focal", "--rounds", "0")])
def test_bad_arguments_are_usage_errors(arguments):
    finished = run(*arguments)
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr


@pytest.fixture
def mixing_cost():
    """The closed form of what mixing costs."""
    return importlib.import_module("benchmarks.mixing_cost")


@pytest.mark.parametrize(
    ("stages", "stage", "millions"),
    [
        ("adamixer_stages", 5, (8.39, 0.52, 1.05, 8.39)),
        ("stage_interactor_stages", 0, (12.58, 1.05, 2.10, 8.39)),  # 64 points
        ("stage_interactor_stages", 1, (8.39, 0.52, 1.05, 8.39)),
        ("stage_interactor_stages", 2, (6.29, 1.05, 1.05, 8.39)),  # half of the rows; one filter more to mix with
        ("stage_interactor_stages", 5, (6.29, 2.62, 1.05, 8.39)),
    ],
)
def test_the_papers_settings_cost_what_its_accounting_says(mixing_cost, stages, stage, millions):
    """Of a query: generation, mixing over channels and over points, output; by hand from the released settings."""
    parts = (mixing_cost.GENERATION, mixing_cost.CHANNELS, mixing_cost.POINTS, mixing_cost.OUTPUT)
    cost = mixing_cost.stage_cost(getattr(mixing_cost, stages)()[stage])
    assert tuple(round(cost[part].multiply_adds / 1e6, 2) for part in parts) == millions


def test_generating_filters_over_channels_costs_eight_times_mixing_with_them(mixing_cost):
    sizes = mixing_cost.adamixer_stages()[0]
    mixing = mixing_cost.stage_cost(sizes)[mixing_cost.CHANNELS].multiply_adds
    assert mixing_cost.channel_filters(sizes).multiply_adds == 8 * mixing


def test_what_autograd_keeps_counts_once_and_without_what_was_given():
    given = torch.randn(10, dtype=torch.float64, requires_grad=True)  # 80 bytes

    def kept(*excluded: torch.Tensor) -> int:
        return saved_bytes(lambda: given.exp() * given, *excluded)

    assert kept() == 160 and kept(given) == 80, "the result of exp is kept by exp and by the product"
    results = []

    def remembered() -> torch.Tensor:
        result = given.exp()  # which keeps its own output
        results.append(weakref.ref(result))
        return result

    saved_bytes(remembered)
    assert results[0]() is None, "nothing stays in memory"
    again = saved_bytes(lambda: checkpoint(lambda x: (x.exp() * x).sin(), given, use_reentrant=False), given)
    assert again == 0
