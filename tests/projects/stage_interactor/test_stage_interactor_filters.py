"""Which filters a stage takes from the bank, how they become one with its own, and what static mixing reaches."""

import pytest
import torch
from crossstage.projects.stage_interactor.modeling.filters import (
    AdaptedFilters,
    ChannelMixing,
    ChannelSpatialMixing,
    CurrentFilters,
    FilterReuse,
    Filters,
    PreviousFilters,
    SpatialMixing,
)
from torch import Tensor, nn

STAGES = range(6)
ANCHORS, DETAILS, WIDTH = 3, 4, 5


@pytest.mark.parametrize(
    ("reuse", "channel", "spatial"),
    [
        (FilterReuse(), [0, 0, 1, 2, 3, 4], [0, 0, 1, 1, 1, 1]),  # the paper's
        (FilterReuse(channel_filters=2), [0, 0, 1, 2, 2, 2], [0, 0, 1, 1, 1, 1]),
        (FilterReuse(channel_filters=0, spatial_filters=0), [0] * 6, [0] * 6),
        (FilterReuse(spatial_filters=3), [0, 0, 1, 2, 3, 4], [0, 0, 3, 3, 3, 3]),
        (FilterReuse(first_stage=1), [0, 1, 2, 3, 4, 5], [0, 1, 1, 1, 1, 1]),
        (FilterReuse(first_stage=4), [0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 1, 1]),
    ],
)
def test_each_stage_reuses_so_many_filters(reuse: FilterReuse, channel: list[int], spatial: list[int]):
    assert [reuse.num_channel_filters(stage) for stage in STAGES] == channel
    assert [reuse.num_spatial_filters(stage) for stage in STAGES] == spatial


@pytest.mark.parametrize("options", [{"first_stage": 0}, {"channel_filters": -1}, {"spatial_filters": -1}])
def test_impossible_numbers_are_errors(options: dict):
    with pytest.raises(ValueError, match=rf"reuse\..*{next(iter(options))}"):
        FilterReuse(**options)


@pytest.mark.parametrize(("first", "held"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 2, 3, 4, 5]), (4, [3, 4, 5])])
def test_the_bank_begins_one_stage_before_the_first_that_reuses(first: int, held: list[int]):
    reuse, bank = FilterReuse(first_stage=first), ()
    for stage in STAGES:
        found = len(bank) if stage >= first else 0
        assert found == reuse.available(stage)
        bank = reuse.updated(bank, Filters(torch.tensor(stage), torch.tensor(stage)), stage)
    assert [int(filters.over_channels) for filters in bank] == held


def own_and_reused(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, *shape), torch.randn(2, 3, *shape)


def test_the_adapter_starts_with_a_quarter_of_the_reused_filter():
    own, reused = own_and_reused(2, 4, 4)
    halves = torch.full((2, 3, 2, 4, 2), 0.5)
    torch.testing.assert_close(AdaptedFilters()(own, reused, halves), 0.75 * own + 0.25 * reused)


def test_the_adapter_has_a_share_for_each_column_and_for_each_row():
    own, reused = own_and_reused(1, 3, 3)
    columns, rows = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([1.0, 0.0, 0.5])
    shares = torch.stack([columns, rows], dim=-1).expand(2, 3, 1, 3, 2)
    blended = AdaptedFilters()(own, reused, shares)
    of_reused = torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.5, 0.25]])  # row by column
    torch.testing.assert_close(blended, own + of_reused * (reused - own))


def test_previous_and_current_filters_are_one_of_the_two():
    own, reused = own_and_reused(1, 3, 3)
    assert PreviousFilters()(own, reused, None) is reused
    assert CurrentFilters()(own, reused, None) is own


def reached(static) -> Tensor:
    """Which samples [A, K, C] of the result the sample (1, 2, 3) changes."""
    layers = static.layers(ANCHORS, DETAILS, WIDTH)
    for layer in layers:
        assert not any(parameter.any() for parameter in layer.parameters())
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    grid = torch.randn(2, ANCHORS, DETAILS, WIDTH)
    changed = grid.clone()
    changed[1, 1, 2, 3] += 1
    stream = torch.randn_like(grid)
    assert torch.allclose(static(grid, stream, *layers) - stream, static(grid, 0 * stream, *layers), atol=1e-5)
    difference = static(changed, stream, *layers) - static(grid, stream, *layers)
    assert not difference[0].any()
    return difference[1] != 0


@pytest.mark.parametrize(
    ("static", "over_samples", "over_channels"),
    [(ChannelSpatialMixing(), True, True), (SpatialMixing(), True, False), (ChannelMixing(), False, True)],
)
def test_static_mixing_reaches_an_anchors_details_and_all_anchors_or_channels_or_both(
    static, over_samples: bool, over_channels: bool
):
    samples = torch.zeros(ANCHORS, DETAILS, 1, dtype=torch.bool)
    samples[1, 2] = True
    if over_samples:
        samples[1] = samples[:, 2] = True
    channels = torch.arange(WIDTH) == 3
    assert reached(static).equal(samples & (channels | over_channels))
