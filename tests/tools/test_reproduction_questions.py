"""Questions of `crossstage reproduce`, and the statistics of its reports."""

import math
import shlex
from pathlib import Path

import pytest

from crossstage.cli import reproduce
from crossstage.reproduction.intervals import mean_of_seeds, paired_tests
from crossstage.reproduction.questions import QUESTIONS

T2 = 0.95 / math.sqrt(2 * 0.975 * 0.025)  # Student's t at 97.5 %, in closed form with 2 degrees of freedom


@pytest.mark.parametrize(
    ("values", "text", "half_width"),
    [
        ([1.0, 2.0, 3.0], "+2.00 ± 2.48", T2 / math.sqrt(3)),
        ([-4.0, -4.0], "-4.00 ± 0.00", 0.0),
        ([7.0], "+7.00", None),
    ],
)
def test_intervals_against_hand_computed_ones(values, text, half_width):
    estimate = mean_of_seeds(values)
    assert estimate.signed() == text and estimate.count == len(values)
    assert estimate.half_width == (None if half_width is None else pytest.approx(half_width, rel=1e-13))


def test_paired_tests_against_hand_computed_p_values():
    """The published differences of the small DINO: above 0 in 5 of 5, the smallest p that five seeds can give."""
    found = paired_tests(dict(enumerate([3.3, 2.9, 20.7, 3.5, 3.1])))
    assert (found.better, found.sign, found.permutation) == (5, 0.0625, 0.0625)
    low, high = found.bootstrap
    assert 2.9 <= low < 6.7 < high <= 20.7 and high - 6.7 > 6.7 - low  # BCa follows the skew; Student's t cannot
    mixed = paired_tests({0: 1.0, 1: 2.0, 2: 3.0, 3: -6.0})
    assert (mixed.better, mixed.sign, mixed.permutation) == (3, 0.625, 1.0) and mixed.bootstrap is None  # mean 0
    same = paired_tests(dict.fromkeys(range(5), 0.0))
    assert (same.sign, same.permutation, same.bootstrap) == (1.0, 1.0, (0.0, 0.0))
    assert paired_tests({3: 1.0}) is None


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_has_rows_of_one_table_and_its_baseline_first(name):
    question = QUESTIONS[name]
    rows = question.as_table().rows
    assert tuple(row.name for row in rows) == question.rows
    assert [row.baseline for row in rows] == ["", *[rows[0].name] * (len(rows) - 1)]
    assert not any(row.trained_as for row in rows)
    values = "".join(rows[-1].overrides_for("own"))
    assert "train.max_iter=" in values and "optimizer.lr=" in values and "model_ema.enabled=true" in values


def test_a_question_prints_its_commands_with_the_folder_of_ones_own_data(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--question", "dino_pictures", "--rows", "dino_12ep_csla", "--resume", "--dry-run", "--output", "out"]
    assert reproduce.main(arguments) == 2
    assert "--root: expected the folder of your data" in capsys.readouterr().err
    Path("cells").mkdir()
    Path("cells/picture.jpg").touch()
    assert reproduce.main([*arguments, "--root", "cells", "--epochs-scale", "10"]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert len(commands) == 5 and "dataloader.data=cells" in commands[0]
    assert {"train.max_iter=10000", "train.eval_period=2000", "train.seed=4"} <= {*commands[-1]}
    assert not any(text.startswith("dataloader.root") for text in commands[0])
