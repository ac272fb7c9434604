"""Parameter groups and learning rates against detrex's facts."""

import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch import nn

from crossstage.config import get_config, instantiate
from crossstage.config.nodes import opaque
from crossstage.engine.optim import LRMultiplier, WarmupParamScheduler, load_optimizer, parameter_groups
from crossstage.errors import InputError


class Parts(nn.Module):
    """A backbone with a frozen stage and norms, a head that is registered twice, a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.backbone[0].requires_grad_(False)
        self.norms = nn.ModuleList([nn.LayerNorm(4), nn.GroupNorm(2, 4)])
        self.head = nn.Linear(4, 4)
        self.alias = self.head
        self.level_embeds = nn.Parameter(torch.zeros(4, 4))


def test_groups_are_merged_by_rate_and_decay_and_hold_each_parameter_once():
    model = Parts()
    groups = parameter_groups(
        model, base_lr=1e-4, weight_decay=1e-4, weight_decay_norm=0.0, lr_factors={"backbone": 0.1}
    )
    found = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in groups}
    # backbone norm; backbone conv; norms; head (its bias decays too) and the bare parameter
    assert found == {(1e-5, 0.0): 2, (1e-5, 1e-4): 2, (1e-4, 0.0): 4, (1e-4, 1e-4): 3}
    parameters = [parameter for group in groups for parameter in group["params"]]
    assert len({id(parameter) for parameter in parameters}) == len(parameters)
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_frozen_model_is_an_input_error():
    with pytest.raises(InputError, match="no trainable parameter"):
        parameter_groups(nn.Linear(1, 1).requires_grad_(False), base_lr=1.0, weight_decay=0.0)


def test_the_optimizer_node_follows_its_own_rate():
    node = get_config("common/optim.py").optimizer
    node.lr = 2e-3
    node.params.model = opaque(Parts())
    optimizer = instantiate(node)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [pytest.approx(2e-4), 2e-3]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 1e-4}


@pytest.mark.parametrize(
    ("name", "max_iter", "drop"),
    [("12ep", 90000, 82500), ("24ep", 180000, 150000), ("36ep", 270000, 225000), ("50ep", 375000, 300000)],
)
def test_schedules_drop_where_detrex_does_and_stretch_with_max_iter(name, max_iter, drop):
    multiplier = instantiate(get_config("common/schedule.py")[f"lr_multiplier_{name}"])
    assert isinstance(multiplier, MultiStepParamScheduler)
    for length in (max_iter, max_iter * 2, 360):
        where = drop * length // max_iter
        schedule = LRMultiplier(torch.optim.SGD([torch.zeros(1)], lr=2.0), multiplier, max_iter=length)
        rates = []
        for iteration in (0, where - 1, where, length - 1):
            schedule.set(iteration)
            rates.append(schedule.lr)
        assert rates == [2.0, 2.0, pytest.approx(0.2), pytest.approx(0.2)]


def test_warm_up_rises_linearly_to_the_schedule():
    warm = WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), warmup_length=0.1, warmup_factor=0.01)
    end = CosineParamScheduler(1.0, 0.0)(0.1)
    assert warm(0.0) == pytest.approx(0.01)
    assert warm(0.05) == pytest.approx((0.01 + end) / 2)
    assert warm(0.1) == end and warm(0.5) == pytest.approx(0.5)
    assert WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), warmup_length=0.0)(0.0) == 1.0
    with pytest.raises(InputError, match=r"warmup_length=10: expected a share of the training"):
        WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), warmup_length=10)


def test_the_logged_rate_is_that_of_the_largest_group():
    groups = [{"params": [torch.zeros(1)], "lr": 5.0}, {"params": [torch.zeros(1), torch.zeros(1)], "lr": 1.0}]
    schedule = LRMultiplier(torch.optim.SGD(groups), MultiStepParamScheduler([1.0], milestones=[1]), max_iter=1)
    assert schedule.lr == 1.0


def test_loading_an_optimizer_keeps_the_configs_rates():
    weight = nn.Parameter(torch.ones(1))
    old, new = torch.optim.AdamW([weight], lr=1.0), torch.optim.AdamW([weight], lr=3.0)
    weight.grad = torch.ones(1)
    old.step()
    load_optimizer(new, old.state_dict())
    assert new.param_groups[0]["lr"] == 3.0 and new.state[weight]["step"] == 1
    other = torch.optim.AdamW([weight, nn.Parameter(torch.ones(1))])
    with pytest.raises(InputError, match=r"groups of \[1\] tensors, the config's of \[2\]"):
        load_optimizer(other, old.state_dict())


def test_named_parameters_have_no_decay(caplog):
    groups = parameter_groups(
        Parts(),
        base_lr=1e-4,
        weight_decay=1e-4,
        lr_factors={"backbone": 0.1},
        no_decay=["level_embeds", "backbone.2.bias", "elsewhere"],
    )
    found = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in groups}
    assert found == {(1e-5, 0.0): 3, (1e-5, 1e-4): 1, (1e-4, 0.0): 5, (1e-4, 1e-4): 2}
    assert "optimizer.params.no_decay: no parameter's name contains 'elsewhere'" in caplog.text


def test_the_first_factor_that_fits_multiplies_the_decay_of_norms_too(caplog):
    groups = parameter_groups(
        Parts(),
        base_lr=1e-4,
        weight_decay=0.01,
        weight_decay_norm=0.0,
        decay_factors={"norms.0": 10.0, "norms": 2.0, "head": 10.0, "elsewhere": 1.0},
        no_decay=["head.bias"],
    )
    found = {group["weight_decay"]: len(group["params"]) for group in groups}
    # backbone's norm and head.bias; backbone's conv and the bare parameter; norms.1; norms.0 and head.weight
    assert found == {0.0: 3, 0.01: 3, 0.02: 2, 0.1: 3}
    assert "optimizer.params.decay_factors: no parameter's name contains 'elsewhere'" in caplog.text
