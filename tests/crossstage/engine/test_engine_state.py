"""Averages, random states and medians: what a checkpoint holds in addition to weights."""

import random

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from crossstage.engine.ema import ModelEma, build_ema, unique_state
from crossstage.engine.metrics import History, MetricsFile, StepRecord, settle
from crossstage.errors import InputError, NonFiniteError
from crossstage.random_state import preserved_random_state, random_state, seed_all, set_random_state
from crossstage.structures import Losses


def draws() -> tuple:
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist()  # noqa: NPY002


def test_random_states_survive_a_safe_file(tmp_path):
    seed_all(3)
    draws()
    torch.save(random_state(), tmp_path / "state.pth")
    expected = [draws() for _ in range(3)]
    seed_all(4)
    set_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert [draws() for _ in range(3)] == expected


def test_draws_inside_leave_no_trace_even_after_an_error():
    seed_all(5)
    expected = draws()
    seed_all(5)
    with pytest.raises(RuntimeError), preserved_random_state():
        draws()
        raise RuntimeError
    assert draws() == expected


def make_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.append(model[0])  # one module, two names
    return model


def test_the_average_follows_its_definition_and_counts_shared_tensors_once():
    model = make_model()
    ema = ModelEma(model, decay=0.9)
    start = {name: tensor.clone() for name, tensor in unique_state(model).items()}
    assert "2.weight" not in start and "1.running_mean" in start
    with torch.no_grad():
        for tensor in unique_state(model).values():
            tensor.add_(1)
    ema.update(model)
    for name, average in ema.averages().items():
        moved = 0.1 if average.is_floating_point() else 1  # num_batches_tracked is copied
        torch.testing.assert_close(average, start[name] + moved)


def test_averages_begin_with_the_weights_and_are_loaded_by_name():
    model, other = make_model(), make_model()
    ema = ModelEma(model, decay=0.9)
    assert ema.averages().keys() == unique_state(model).keys() and "2.weight" not in ema.averages()
    ema.load_averages(unique_state(other))
    inputs = torch.rand(3, 2)
    assert ema.module(inputs).equal(other.eval()(inputs)) and not ema.module(inputs).equal(model.eval()(inputs))
    with pytest.raises(InputError, match=r"does not fit the model: 0\.bias"):
        ema.load_averages({name: tensor for name, tensor in ema.averages().items() if name != "0.bias"})


def test_a_warm_up_begins_with_the_weights_and_ends_at_the_decay():
    options = OmegaConf.create({"decay": 0.9, "use_warmup": True, "warmup_gamma": 1.0, "warmup_power": 1.0})
    ema = build_ema(nn.Linear(1, 1, bias=False), options)
    values = []
    for step in range(1, 13):
        ema.update(nn.Linear(1, 1, bias=False).requires_grad_(False).apply(lambda m, s=step: m.weight.fill_(s)), step)
        values.append(ema.averages()["weight"].item())
    # gamma 1 and power 1: the mean of all weights so far, until 1 - 1/t exceeds the decay
    assert values[:10] == pytest.approx([(1 + step) / 2 for step in range(1, 11)])
    assert values[11] == pytest.approx(0.9 * values[10] + 0.1 * 12)


def test_medians_forget_what_is_older_than_20():
    history = History()
    for value in range(100):
        history.add({"loss": float(value), **({"rare": 1.0} if value == 0 else {})})
    assert history.medians() == {"loss": 89.5, "rare": 1.0}
    other = History()
    other.load_state_dict(history.state_dict())
    other.add({"loss": 1000.0})
    assert other.medians()["loss"] == 90.5


def test_settle_names_the_first_bad_iteration_and_lets_metrics_be_nan():
    good = StepRecord.of(3, Losses.of({"a": torch.tensor(1.0)}, {"loss_b": torch.tensor(float("nan"))}), (1, 2))
    row = settle([good])[0]
    assert row["a"] == row["total_loss"] == 1.0
    bad = StepRecord.of(4, Losses.of({"b": torch.tensor(float("inf")), "c": torch.tensor(0.0)}), (7, 8))
    with pytest.raises(NonFiniteError, match=r"^iteration 4: not finite: b, total_loss; image ids 7, 8$"):
        settle([good, bad, bad])


def test_metrics_of_a_killed_process_are_cut_and_a_half_line_is_forgotten(tmp_path):
    file = MetricsFile(tmp_path / "metrics.json")
    for iteration in (9, 19, 29):
        file.append(iteration, {"b": 1.0, "a": float("nan")})
    assert file.path.read_text().splitlines()[0] == '{"a": NaN, "b": 1.0, "iteration": 9}'
    with file.path.open("a") as half:
        half.write('{"a": 1.0, "iter')
    file.truncate(20)
    assert [row["iteration"] for row in file.read()] == [9, 19]
    file.append(29, {})
    assert len(file.path.read_text().splitlines()) == 3
