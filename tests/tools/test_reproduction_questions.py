"""Questions of `crossstage reproduce`, and the statistics of its reports."""

import math
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from crossstage.checkpoints.load import load_model
from crossstage.cli import reproduce
from crossstage.config import instantiate
from crossstage.data.toy.scenes import PRESETS, draw_scene
from crossstage.engine.setup import load_config
from crossstage.reproduction import pretraining
from crossstage.reproduction.intervals import mean_of_seeds, paired_tests
from crossstage.reproduction.questions import QUESTIONS
from crossstage.reproduction.rows import Table
from crossstage.reproduction.runs import Request

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
    assert {row.trained_as for row in rows} <= {"", *question.rows}
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


@cache
def backbone_of(config: str) -> DictConfig:
    return load_config(config, ()).model.backbone


@pytest.mark.parametrize("name", QUESTIONS)
def test_all_rows_of_a_question_have_the_backbone_that_it_trains(name):
    question = QUESTIONS[name]
    rows = question.as_table().rows
    backbones = [backbone_of(row.toy_config) for row in rows]
    assert all(backbone == backbones[0] for backbone in backbones)
    if question.backbone:
        assert backbone_of(question.backbone) == backbones[0]
    starts = {text for row in rows for text in row.overrides_for("toy") if text.startswith("train.init_checkpoint=")}
    assert starts == ({f"train.init_checkpoint={question.backbone_file}"} if question.backbone else set())


def test_a_question_first_makes_what_its_runs_start_from(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--question", "deqdet", "--seeds", "1", "--dry-run"]
    assert reproduce.main(arguments) == 0
    data, backbone, *_ = capsys.readouterr().out.splitlines()
    assert "crossstage.data.toy --output datasets/toy_easy_1000" in data
    assert backbone.endswith(
        "pretraining --config-file adamixer_toy --output output/questions/backbones/adamixer_toy.pth"
    )
    assert reproduce.main([*arguments, "train.init_checkpoint=other.pth"]) == 0
    assert "pretraining" not in capsys.readouterr().out
    Path("output/questions/backbones").mkdir(parents=True)
    Path("output/questions/backbones/adamixer_toy.pth").touch()
    assert reproduce.main(arguments) == 0
    assert "pretraining" not in capsys.readouterr().out


def test_a_run_does_not_count_once_its_initial_weights_are_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = replace(QUESTIONS["deqdet"].as_table().rows[0], toy_overrides=("train.init_checkpoint=start.pth",))
    request = Request(Table("deqdet", "2", (row,)), "toy", Path("data"), Path("out"))
    (run,) = request.runs(row)
    Path("start.pth").write_text("one")
    run.note_start(command=["x"], commit="c0ffee", device="CPU")
    (run.folder / "last_checkpoint").write_text("model_0000003.pth")
    assert request.runs(row)[0].differences() == []
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    elsewhere = replace(request, output=tmp_path / "out", root=tmp_path / "data")
    assert elsewhere.runs(row)[0].differences(paths=False) == []  # the file is not here, so its path alone differs
    assert "init_checkpoint" in elsewhere.runs(row)[0].differences()[0]
    Path("start.pth").write_text("other")
    assert "SHA-256 of train.init_checkpoint" in elsewhere.runs(row)[0].differences(paths=False)[0]
    unset = replace(row, toy_overrides=())
    assert elsewhere.runs(unset)[0].differences(paths=False)[0].startswith("train.init_checkpoint=")


def test_a_backbone_is_written_and_a_detector_starts_from_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretraining, "HELD_OUT", 16)
    files = [tmp_path / name for name in ("new/first.pth", "second.pth")]
    for file in files:
        arguments = ["--config-file", "adamixer_toy", "--output", str(file), "--steps", "4", "--pictures", "40"]
        assert pretraining.main(arguments) == 0
    assert "step 4 of 4:" in capsys.readouterr().out
    assert files[0].read_bytes() == files[1].read_bytes()
    config = load_config("adamixer_toy", ())
    model = instantiate(config.model)
    before = model.state_dict()["backbone.body.conv1.0.weight"].clone()
    load_model(model, str(files[0]), fine_tuning=True)
    written = torch.load(files[0], weights_only=True)["model"]
    state = model.state_dict()
    assert not torch.equal(before, state["backbone.body.conv1.0.weight"])
    assert {name for name in state if name.startswith("backbone.")} == set(written)
    assert all(torch.equal(state[name], value) for name, value in written.items())


def test_a_drawn_shape_has_the_class_and_the_pixels_of_its_scene():
    shapes, more = pretraining.draw_shapes(12, seed=5), pretraining.draw_shapes(16, seed=5)
    assert torch.equal(shapes.pixels, more.pixels[:12]) and torch.equal(shapes.classes, more.classes[:12])
    assert shapes.classes.unique().numel() > 4
    preset = replace(PRESETS["easy"], size=64, objects=(1, 1), extent=(0.4, 0.9))
    drawn, objects = draw_scene(np.random.default_rng([5, 11]), preset)
    height, width, _ = drawn.shape
    assert objects[0].class_index == shapes.classes[11]
    assert torch.equal(shapes.pixels[11, :, :height, :width], torch.from_numpy(drawn).permute(2, 0, 1))
    assert not shapes.pixels.masked_select(shapes.mask[:, None].expand_as(shapes.pixels)).any()
    assert (~shapes.mask[11]).sum() == height * width


def test_a_classifier_learns_shapes_by_heart():
    shapes = pretraining.draw_shapes(48)
    torch.manual_seed(0)
    classifier = pretraining.Classifier(instantiate(load_config("adamixer_toy", ()).model.backbone), 8)
    assert classifier.accuracy(shapes) < 0.3
    assert pretraining.train(classifier, shapes, shapes, steps=32) > 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps 0: expected at least 1"),
        (["--config-file", "dino_toyy"], "dino_toy"),
        (["--output", "/proc/none/file.pth"], "cannot be written"),
    ],
)
def test_mistakes_of_pretraining_are_told(arguments, message, capsys):
    given = ["--config-file", "dino_toy", "--output", "x.pth", "--steps", "1", "--pictures", "32", *arguments]
    assert pretraining.main(given) == 2
    assert message in capsys.readouterr().err
