"""examples/rt_detr_csla.py: pairs that differ in nothing but the rule, and runs that are not repeated."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from crossstage.data.toy.generate import ToySettings, write_toy

SCRIPT = Path(__file__).resolve().parents[2] / "examples/rt_detr_csla.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_a_repeated_command_trains_nothing_and_prints_the_same_table(script, tmp_path, capsys):
    write_toy(tmp_path / "toy", ToySettings(train=8, val=2))
    splits = [
        [f"--{name}", f"{tmp_path}/toy/annotations/instances_{name}2017.json", f"{tmp_path}/toy/{name}2017"]
        for name in ("train", "val")
    ]
    output = tmp_path / "runs.jsonl"
    command = [*splits[0], *splits[1], "--steps", "2", "--size", "64", "--seeds", "1", "--device", "cpu"]
    command += ["--output", str(output)]
    script["main"](command)
    first = capsys.readouterr().out
    runs = [json.loads(line) for line in output.read_text().splitlines()]
    assert [run["row"] for run in runs] == ["plain", "csla", "csla, own kept"]
    assert all(0 <= run["AP"] <= run["AP50"] <= 100 for run in runs)
    script["main"](command)
    assert len(output.read_text().splitlines()) == 3
    assert first.endswith(capsys.readouterr().out)


def test_all_rows_of_a_seed_see_the_same_batches(script):
    order = script["order"]
    first, again, other = (list(order(10, seed=seed, steps=4)) for seed in (0, 0, 1))
    assert first == again != other
    seen = sorted(row for rows, _ in first for row in rows)
    assert all(2 < seen.count(row) < 5 for row in range(10))  # 32 draws of 10 pictures, epoch by epoch
    assert {flip for _, flipped in first for flip in flipped} == {True, False}


def test_a_mirrored_picture_has_mirrored_boxes(script, tmp_path):
    write_toy(tmp_path, ToySettings(train=1, val=1))
    data = script["Pictures"](str(tmp_path / "annotations/instances_val2017.json"), str(tmp_path / "val2017"), size=64)
    pixels, targets = data.batch([0, 0], [False, True], "cpu")
    torch.testing.assert_close(pixels[1].flip(-1), pixels[0])
    plain, mirrored = (target["boxes"] for target in targets)
    torch.testing.assert_close(mirrored[:, 0], 1 - plain[:, 0])
    assert mirrored[:, 1:].equal(plain[:, 1:])
    assert ((plain > 0) & (plain < 1)).all()
