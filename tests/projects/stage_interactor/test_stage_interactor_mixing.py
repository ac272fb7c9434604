"""Cascade mixing: without reuse it is AdaMixer's, with it each ablation runs and every parameter learns."""

import itertools

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
from crossstage.projects.stage_interactor.modeling.mixing import CascadeMixing
from torch import Tensor, nn

from crossstage.modeling.decoders.adaptive_mixing import AdaptiveMixing, normed_relu

WIDTH, GROUPS, ROWS = 8, 2, 12
POINTS = {"num_anchors": (3, 2), "num_details": 4}


def cascade(stages: int = 4, *, random: bool = True, static=None, blend=None, points=None, **reuse) -> nn.ModuleList:
    """The mixing of each stage, in float64."""
    options = {"static": static, "blend": blend, "reuse": FilterReuse(**reuse), **(points or POINTS)}
    layers = nn.ModuleList(
        CascadeMixing(WIDTH, num_groups=GROUPS, num_outputs=ROWS, stage=stage, **options) for stage in range(stages)
    ).double()
    for parameter in layers.parameters() if random else ():
        nn.init.normal_(parameter, std=0.5)
    return layers


def samples_of(layer: CascadeMixing) -> tuple[Tensor, Tensor]:
    """Random content [2, 3, C] and features [2, 3, G, P, C / G]."""
    points = layer.grid[0] * layer.grid[1]
    shape = (2, 3, GROUPS, points, WIDTH // GROUPS)
    return torch.randn(2, 3, WIDTH, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def run(layers: nn.ModuleList) -> tuple[list[Tensor], list[tuple[Filters, ...]]]:
    """Contents and banks after each stage; every stage has its own inputs."""
    contents, banks = [], [()]
    for layer in layers:
        content, bank = layer(*samples_of(layer), banks[-1])
        contents.append(content)
        banks.append(bank)
    return contents, banks[1:]


def test_without_reuse_it_is_adamixers_mixing():
    (layer,) = cascade(1, channel_filters=0, spatial_filters=0)
    plain = AdaptiveMixing(WIDTH, num_groups=GROUPS, num_points=12, num_outputs=ROWS).double()
    plain.load_state_dict(layer.state_dict())
    content, features = samples_of(layer)
    torch.testing.assert_close(layer(content, features)[0], plain(content, features)[0], rtol=0, atol=1e-12)


def test_a_bank_that_nothing_is_reused_from_has_no_effect():
    layers = cascade(3, channel_filters=0, spatial_filters=0)
    content, features = samples_of(layers[2])
    own = layers[2].generate(content)
    assert layers[2](content, features, (own, own))[0].equal(layers[2](content, features, ())[0])


@pytest.mark.parametrize("first", [1, 2])
def test_the_first_stages_filters_are_reused_only_where_the_second_one_begins(first: int):
    layers = cascade(static=ChannelSpatialMixing(), blend=AdaptedFilters(), first_stage=first)
    contents, banks = run(layers)
    assert [len(bank) for bank in banks] == [1, 3 - first, 4 - first, 5 - first]
    gradients = torch.autograd.grad(sum(contents[1:]).sum(), layers[0].parameters(), allow_unused=True)
    assert any(gradient is not None for gradient in gradients) == (first == 1)


def test_all_reused_filters_learn_from_the_stages_that_reuse_them():
    layers = cascade(static=ChannelSpatialMixing(), blend=AdaptedFilters())
    contents, _ = run(layers)
    (contents[3] * torch.randn_like(contents[3])).sum().backward()
    channels = layers[1].filters.weight.grad.view(GROUPS, -1, WIDTH)[:, : layers[1].split[0]]
    assert channels.abs().amin() > 0
    assert all(parameter.grad.abs().max() > 0 for parameter in layers[3].parameters())


@pytest.mark.parametrize(
    ("spatial", "rows", "outputs"),
    [
        (0, [12, 12, 12, 12], [12, 12, 12, 12]),
        (1, [12, 12, 6, 6], [12] * 4),
        (3, [12, 12, 3, 3, 3], [12, 12, 6, 9, 12]),
    ],
)
def test_early_stages_have_fewer_rows_where_the_bank_holds_fewer_than_asked_for(
    spatial: int, rows: list[int], outputs: list[int]
):
    """With three reused filters and their biases, which the released code cannot run."""
    layers = cascade(len(rows), static=ChannelSpatialMixing(), blend=AdaptedFilters(), spatial_filters=spatial)
    assert [layer.fresh_rows for layer in layers] == rows
    assert [layer.project.in_features // WIDTH for layer in layers] == outputs
    assert [layer.biases.out_features // GROUPS - WIDTH // GROUPS for layer in layers] == outputs
    contents, banks = run(layers)
    assert all(content.isfinite().all() for content in contents)
    assert [len(filters.over_points[0, 0, 0]) for filters in banks[-1]] == rows[1:]


def test_rows_of_a_reused_filter_are_blended_with_the_own_ones_and_follow_them():
    layer = cascade(3, random=False, blend=AdaptedFilters())[2]
    nn.init.normal_(layer.filters.weight)
    content, _ = samples_of(layer)
    own, earlier = layer.generate(content), layer.generate(-content)
    larger = torch.randn(2, 3, GROUPS, 7, 12, dtype=torch.float64)  # of a stage with more rows and anchors
    larger[..., :6, :8] = earlier.over_points
    rows = layer.spatial_filters(content, own, (Filters(earlier.over_channels, larger),))
    torch.testing.assert_close(rows[..., :6, :], own.over_points, rtol=0, atol=0)
    torch.testing.assert_close(rows[..., 6:, :], 0.75 * own.over_points + 0.25 * earlier.over_points)


STATICS = (None, ChannelSpatialMixing(), ChannelMixing(), SpatialMixing())
BLENDS = (None, PreviousFilters(), CurrentFilters(), AdaptedFilters())


@pytest.mark.parametrize(("static", "blend"), [pair for pair in itertools.product(STATICS, BLENDS) if any(pair)])
def test_each_kind_of_static_and_dynamic_mixing_runs_and_every_parameter_learns(static, blend):
    layers = cascade(static=static, blend=blend)
    contents, _ = run(layers)
    sum((content * torch.randn_like(content)).sum() for content in contents).backward()
    silent = [name for name, parameter in layers.named_parameters() if not parameter.grad.any()]
    assert silent == []
    assert all(parameter.grad.isfinite().all() for parameter in layers.parameters())


def test_static_mixing_alone_is_a_residual_of_the_samples_before_mixing():
    """By the equation of the released code, for one reused filter."""
    layer = cascade(3, static=ChannelMixing())[2]
    content, features = samples_of(layer)
    own = layer.generate(content)
    mixed = torch.randn_like(features)
    expected = normed_relu(features + layer.over_details[0](mixed) + layer.over_anchors[0](mixed))
    torch.testing.assert_close(layer.cascade(mixed, features, content, own, (own,)), expected)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"num_anchors": (4, 2, 4), "num_details": 4}, "stage 2 samples 4 anchors x 4 details but .* 2 x 4"),
        ({"num_anchors": 2, "num_details": (4, 4, 2)}, "stage 2 samples 2 anchors x 2 details but .* 2 x 4"),
    ],
)
def test_a_stage_with_more_points_than_the_one_that_it_reuses_is_an_error(points: dict, message: str):
    with pytest.raises(ValueError, match=message):
        cascade(points=points, blend=AdaptedFilters())
    contents, _ = run(cascade(points=points, blend=AdaptedFilters(), spatial_filters=0))  # channels fit everywhere
    assert len(contents) == 4
    assert len(cascade(2, points=points, blend=AdaptedFilters())) == 2


def test_a_width_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="embed_dim=8 must be a multiple of num_groups=3"):
        CascadeMixing(8, num_groups=3, reuse=FilterReuse())


def kept_for_the_backward_pass(layers: nn.ModuleList) -> int:
    """Bytes that the graph of all stages holds, parameters aside."""
    storages = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(layers)
    owned = {parameter.untyped_storage().data_ptr() for parameter in layers.parameters()}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in storages.items() if place not in owned)


def test_a_reused_filter_keeps_only_the_samples_before_it_for_the_backward_pass():
    modules = {"static": ChannelSpatialMixing(), "blend": AdaptedFilters()}
    kept = {limit: kept_for_the_backward_pass(cascade(6, channel_filters=limit, **modules)) for limit in (1, None)}
    more = (1 + 2 + 3 + 4) - 4  # filters reused by the last four stages, all or one each
    samples = 2 * 3 * WIDTH * 2 * 4 * 8  # bytes; a group's filters over channels are half as many, its shares a quarter
    assert kept[None] - kept[1] < more * 4 * samples
