import io
import logging
import random

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

from crossstage.evaluation import loop, metrics_table, run_evaluation
from crossstage.structures import Detections, ImageBatch, Target
from tests.random_numbers import draws, seed_all


def batches(number=3):
    target = Target(labels=torch.zeros(1, dtype=torch.int64), boxes=torch.full((1, 4), 0.5))
    return [
        ImageBatch(
            pixels=torch.full((2, 3, 8, 8), index, dtype=torch.uint8),
            mask=torch.zeros(2, 8, 8, dtype=torch.bool),
            sizes=((8, 8),) * 2,
            original_sizes=((8, 8),) * 2,
            image_ids=(2 * index, 2 * index + 1),
            targets=(target, target),
        )
        for index in range(number)
    ]


class Drawing(nn.Module):
    """A model that draws random numbers, has a part that always stays in evaluation mode, and remembers its calls."""

    def __init__(self, error=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.frozen = nn.BatchNorm2d(3).eval()
        self.error = error
        self.seen = []

    def forward(self, batch):
        self.seen.append(
            (self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), batch.pixels.device)
        )
        if self.error is not None:
            raise self.error
        torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
        found = Detections(self.weight[None] * 2, self.weight[:1], torch.zeros(1, dtype=torch.int64))
        return [found] * len(batch)


class Recorder:
    def __init__(self):
        self.calls = []

    def reset(self):
        self.calls = ["reset"]

    def process(self, batch, detections):
        self.calls.append((batch.image_ids, len(detections), batch.pixels.device))

    def evaluate(self):
        self.calls.append("evaluate")
        return {"bbox": {"AP": 12.5}}


def test_every_batch_is_detected_in_evaluation_mode_and_the_scores_come_back():
    model, recorder = Drawing().train(), Recorder()
    assert run_evaluation(model, batches(), recorder) == {"bbox": {"AP": 12.5}}
    cpu = torch.device("cpu")
    assert recorder.calls == ["reset", ((0, 1), 2, cpu), ((2, 3), 2, cpu), ((4, 5), 2, cpu), "evaluate"]
    assert model.seen == [(False, False, False, cpu)] * 3


@pytest.mark.parametrize("error", [None, RuntimeError("broken"), KeyboardInterrupt()])
def test_each_module_returns_to_its_own_mode_whatever_happens(error):
    model = Drawing(error).train()
    model.frozen.eval()
    try:
        run_evaluation(model, batches(), Recorder())
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert raised is error
    assert model.training and not model.frozen.training and torch.is_grad_enabled()
    model.eval()
    model.error = None
    run_evaluation(model, batches(), Recorder())
    assert not model.training


def test_random_numbers_go_on_as_if_nothing_had_been():
    seed_all()
    expected = draws()
    seed_all()
    run_evaluation(Drawing(), torch.utils.data.DataLoader(batches(), batch_size=None), Recorder())
    assert draws() == expected


def test_batches_go_to_the_model_or_where_asked():
    model, recorder = Drawing().to("meta"), Recorder()
    run_evaluation(model, batches(1), recorder)
    assert recorder.calls[1][2] == torch.device("meta")
    run_evaluation(Drawing(), batches(1), recorder, device="meta")
    assert recorder.calls[1][2] == torch.device("meta")
    run_evaluation(nn.Identity(), batches(1), recorder)  # nothing to ask: CPU
    assert recorder.calls[1][2] == torch.device("cpu")


def test_a_model_that_fabric_wraps_is_evaluated_too():
    model, recorder = Drawing(), Recorder()
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    wrapped = fabric.setup(model)
    wrapped.train()
    with fabric.autocast():
        run_evaluation(wrapped, batches(), recorder)
    assert len(recorder.calls) == 5 and wrapped.training and model.training
    assert all(training is False for training, *_ in model.seen)


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch, caplog, capsys):
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    terminal = io.StringIO()
    with caplog.at_level(logging.INFO):
        run_evaluation(Drawing(), batches(), Recorder(), console=Console(file=terminal, force_terminal=True))
    assert "evaluation" in terminal.getvalue() and "100%" in terminal.getvalue()
    assert [record.message.split(" in ")[0] for record in caplog.records] == ["evaluated 6 images"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run_evaluation(Drawing(), batches(), Recorder(), console=Console(file=io.StringIO()))
    assert [record.message.split(",")[0] for record in caplog.records][:3] == [
        f"evaluation: {n} of 3" for n in (1, 2, 3)
    ]
    assert capsys.readouterr().out == ""


def test_metrics_table_shows_every_number_under_its_name():
    scores = {"AP": 31.234, "AP50": 50.0, "APs": float("nan"), "AP-cat": 10.0, "AP-a long name": 100.0, "AP-cow": 3.5}
    lines = metrics_table({"bbox": scores, "ema_bbox": {"AP": 1.0}}).splitlines()
    assert lines[0] == "bbox" and lines[1].split() == ["AP", "AP50", "APs"]
    assert lines[2].split() == ["31.23", "50.00", "nan"]
    for shown in ("cat          10.00", "a long name 100.00", "cow           3.50"):
        assert sum(shown in line for line in lines) == 1, shown
    assert lines[-3:] == ["ema_bbox", "        AP", "      1.00"]
