"""What a journal expects of a figure, and JSON that every reader understands."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.text import Text

from crossstage.inspection.figures import COLUMN, paper_figure, spread_out, write_numbers


def test_letters_have_eight_points_at_column_width_and_stay_letters(tmp_path: Path):
    with paper_figure(tmp_path / "figure") as grid:
        axes = grid[0, 0]
        axes.plot([1, 100], [0.01, 300], label="a")
        axes.set(title="b", xlabel="c", ylabel="d")
        spread_out(axes, [0.01, 300])
        axes.legend()
        figure = axes.figure
    assert figure.get_figwidth() <= COLUMN
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 8
    assert not any("^" in label.get_text() for label in axes.get_yticklabels())  # an exponent would be smaller
    assert {text.get_fontsize() for text in (axes.title, axes.xaxis.label, axes.yaxis.label)} == {8}
    assert not any(line.get_visible() for line in axes.get_xgridlines())
    assert b"/FontFile2" in (tmp_path / "figure.pdf").read_bytes()  # TrueType
    assert (tmp_path / "figure.png").stat().st_size


def test_numbers_are_plain_json(tmp_path: Path):
    given = {"a": torch.tensor([1, 2]), "b": np.float32(0.5), "c": {0: (math.nan, 1 / 3)}, "d": np.arange(2), "e": "x"}
    write_numbers(tmp_path / "numbers.json", given)
    read = json.loads((tmp_path / "numbers.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert read == {"a": [1, 2], "b": 0.5, "c": {"0": [None, 0.333333]}, "d": [0, 1], "e": "x"}
