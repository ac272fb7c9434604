"""`crossstage inspect`, from the command line to the files, on a tiny DINO that nobody has trained."""

import json
from pathlib import Path
from typing import Protocol

import pytest
import torch
from PIL import Image

from crossstage.cli import main
from crossstage.cli.command_line import without_overrides
from crossstage.cli.inspection import choose_solver, published_steps
from crossstage.data.toy.generate import main as write_toy
from crossstage.errors import InputError
from crossstage.inspection import figures
from tests.random_scenes import tiny_dino

CONFIG = """
from crossstage.config import get_config
from tests.random_scenes import tiny_dino_node

dataloader = get_config("common/data/toy.py").dataloader
dataloader.root = "data"
dataloader.test.num_workers = 0
train = get_config("common/train.py").train
model = tiny_dino_node()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six generated images, two configs of a tiny DINO, and weights for each."""
    root = tmp_path_factory.mktemp("inspect")
    counts = ["--train", "1", "--val", "6", "--size", "64", "--workers", "1"]
    assert write_toy(["--output", str(root / "data"), *counts]) == 0
    for number, name in enumerate(("first", "second")):
        (root / f"{name}.py").write_text(CONFIG)
        torch.manual_seed(number)
        torch.save({"model": tiny_dino().state_dict()}, root / f"{name}.pth")
    Image.new("RGB", (80, 48), (90, 20, 20)).save(root / "foreign.png")
    return root


@pytest.fixture
def inspect(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a tool with the first config and its weights; returns the exit status. Files go to tmp_path."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(figures, "RESOLUTION", 40)

    def run(tool: str, *more: str) -> int:
        given = ["--config-file", "first.py", "--weights", "first.pth", "--output", str(tmp_path), "--device", "cpu"]
        return main(["inspect", tool, *given, *more])

    return run


def test_refinement_scores_each_stage_of_a_detector_in_one_pass(inspect, tmp_path: Path, capsys):
    assert inspect("refinement", "--limit", "3") == 0
    scores = json.loads((tmp_path / "ap_by_steps.json").read_text())
    assert scores["steps"] == [1, 2] and len(scores["AP"]) == 2 and scores["trained_steps"] is None
    assert json.loads((tmp_path / "residuals.json").read_text())["images"] == 3
    names = {"ap_by_steps.png", "ap_by_steps.pdf", "residuals.png", "refinement.gif", "refinement_sheet.png"}
    assert names <= {file.name for file in tmp_path.iterdir()}
    assert "step   2  AP" in capsys.readouterr().out


def test_queries_of_two_checkpoints_are_compared(inspect, tmp_path: Path):
    assert inspect("queries", "--compare", "second.py", "second.pth", "--compare", "first.py", "first.pth") == 0
    numbers = json.loads((tmp_path / "queries.json").read_text())
    assert list(numbers) == ["first", "second", "first (2)"]
    assert numbers["first (2)"]["query_changes_from_first_checkpoint"] == [0, 0]
    assert max(numbers["second"]["query_changes_from_first_checkpoint"]) > 0.5
    first = numbers["first"]
    assert first["images"] == 6 and sum(first["matches"]) == first["objects"]  # each object has one query
    assert first["positives_per_object"] == [1, 1]  # no CSLA
    assert len(first["activation_gini"]) == len(first["thresholds"]) == len(first["activation_gini_shuffled"])
    assert first["activation_gini"] == numbers["first (2)"]["activation_gini"]


def test_assignment_draws_chosen_images_and_stages(inspect, tmp_path: Path):
    assert inspect("assignment", "--images", "data/val2017", "--limit", "2", "--stages", "2") == 0
    records = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("assignment_*.json"))]
    assert len(records) == 2
    for record in records:
        assert sorted(one["object"] for one in record["positives"]) == list(range(len(record["objects"])))
        assert {one["stage"] for one in record["positives"]} == {2}


def test_points_are_drawn_on_a_picture_that_is_in_no_data_set(inspect, tmp_path: Path):
    assert inspect("points", "--images", "foreign.png", "--queries", "4", "dataloader.root=nowhere") == 0
    (record,) = tmp_path.glob("points_*.json")
    panels = json.loads(record.read_text())["panels"]
    assert [(panel["query"], panel["stage"]) for panel in panels] == [(4, 1), (4, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["refinement", "--solver", "anderson"], "--solver anderson: DeformableDecoder repeats no step, so it has no"),
        (["refinement", "--limit", "0"], "--limit 0: expected at least 1"),
        (
            ["queries", "dataloader.root=no"],
            "no/annotations/instances_val2017.json: no such file; expected dataloader.r",
        ),
        (
            ["assignment", "--images", "foreign.png"],
            "crossstage inspect assignment needs objects to match, and none of",
        ),
        (["assignment", "--stages", "3"], "--stages 3: expected numbers from 1 to 2"),
        (["points", "--images", "none*.png"], "--images none*.png: no images matched; expected an image file, a f"),
        (["points", "--queries", "12"], "--queries 12: expected 0 to 11"),
        (["points", "--weights", "none.pth"], "none.pth: no such file; expected a checkpoint"),
    ],
)
def test_a_mistake_is_one_line(inspect, arguments: list[str], message: str, capsys):
    assert inspect(*arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {message}")


def test_an_unknown_tool_is_an_error_that_names_the_tools(capsys):
    assert main(["inspect", "querys"]) == 2
    assert capsys.readouterr().err == (
        "error: crossstage inspect querys: no such tool. There are: refinement, queries, assignment, points, features. "
        "Did you mean queries?\n"
    )


class _AnySolver(Protocol):
    """Their interface, which cannot be built."""

    def __call__(self) -> None: ...


class _Plain:
    """A solver that stands in this module, as the solvers of a decoder stand in theirs."""

    def __call__(self) -> None: ...


class _Other(_Plain):
    def __call__(self) -> None: ...


def test_the_papers_figures_of_one_training_stand_at_their_applications():
    released = published_steps("deqdet_r50_64points_12ep")
    assert released == [{"steps": 5, "AP": 45.7, "AP50": 64.3}, {"steps": 24, "AP": 46.0, "AP50": 64.8}]
    assert [row["steps"] for row in published_steps("deqdet_r50_12ep")] == [5, 7, 15, 24]
    assert published_steps("rnndet_r50_12ep") == []  # there, each number is a training of its own


def test_a_solver_is_found_next_to_the_one_that_it_replaces():
    model = torch.nn.Module()
    model.decoder = torch.nn.Module()
    model.decoder.solver = _Plain()
    choose_solver(model, "_oth")
    assert type(model.decoder.solver) is _Other
    with pytest.raises(InputError, match=r"^--solver newton: expected the beginning of one of: _Other, _Plain$"):
        choose_solver(model, "newton")


def test_overrides_may_follow_a_flag_with_several_values(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a=b.jpg").write_text("")
    given = ["--images", "x.jpg", "a=b.jpg", "train.seed=1", "--output", "out=1", "--steps=3", "+a.b=2"]
    others, overrides = without_overrides(given)
    assert overrides == ["train.seed=1", "+a.b=2"]
    assert others == ["--images", "x.jpg", "a=b.jpg", "--output", "out=1", "--steps=3"]
