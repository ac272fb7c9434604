"""Deformable attention: its samples are `grid_sample`'s, its start is the paper's, its masks hold."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossstage.layers.deformable import MultiScaleDeformableAttention, deformable_sampling, sampling_locations
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.structures import Levels

SHAPES = ((7, 5), (4, 3), (1, 2))


def level_by_level(values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor) -> Tensor:
    """The textbook form: `grid_sample` on the map of each level and head, then a weighted sum."""
    batch, _, heads, width = values.shape
    queries, points = locations.shape[1], locations.shape[4]
    total = values.new_zeros(batch * heads, width, queries)
    for level, ((height, columns), tokens) in enumerate(
        zip(levels.shapes, values.split(levels.tokens, 1), strict=True)
    ):
        maps = tokens.permute(0, 2, 3, 1).reshape(batch * heads, width, height, columns)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2) - 1
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        shares = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        total = total + (samples * shares).sum(-1)
    return total.view(batch, heads * width, queries).transpose(1, 2)


def scene(shapes=SHAPES, *, batch=2, queries=6, heads=3, width=4, points=2, dtype=torch.float64):
    """values, levels, locations (a third of them outside the maps) and weights."""
    levels = Levels.of(shapes, like=torch.zeros(1, dtype=dtype))
    values = torch.randn(batch, sum(levels.tokens), heads, width, dtype=dtype)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(locations.shape[:-1], dtype=dtype)
    return values, levels, locations, weights


@pytest.mark.parametrize("shapes", [SHAPES, ((6, 9),), ((1, 1), (1, 1))])
@pytest.mark.parametrize("points", [1, 4])
def test_samples_are_those_of_grid_sample(shapes, points):
    values, levels, locations, weights = scene(shapes, points=points)
    ours = deformable_sampling(values, levels, locations=locations, weights=weights)
    theirs = level_by_level(values, levels, locations=locations, weights=weights)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_gradients_are_those_of_grid_sample():
    values, levels, locations, weights = scene()
    leaves = [tensor.requires_grad_() for tensor in (values, locations, weights)]
    seen = torch.randn(2, 6, 12, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(sample(values, levels, locations=locations, weights=weights), leaves, seen)
        for sample in (deformable_sampling, level_by_level)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_a_pixel_centre_reads_the_pixel_and_a_border_half_of_it():
    values = torch.arange(1.0, 7.0).view(1, 6, 1, 1)  # 2 rows of 3
    levels = Levels.of([(2, 3)], like=values)
    places = torch.tensor([[0.5 / 3, 0.25], [2.5 / 3, 0.75], [0.0, 0.25], [0.5, 0.5], [-1.0, 0.5], [2.0, 2.0]])
    locations = places.view(1, 6, 1, 1, 1, 2)
    read = deformable_sampling(values, levels, locations=locations, weights=torch.ones(1, 6, 1, 1, 1))
    torch.testing.assert_close(read.flatten(), torch.tensor([1.0, 6.0, 0.5, 3.5, 0.0, 0.0]))


def test_far_locations_read_zero_without_overflow():
    values, levels, locations, weights = scene(dtype=torch.float32)
    read = deformable_sampling(values, levels, locations=locations + 1e30, weights=weights)
    assert read.count_nonzero() == 0


@pytest.mark.parametrize(("batch", "queries"), [(2, 0), (0, 6)])
def test_no_queries_or_no_images_give_no_rows(batch, queries):
    values, levels, locations, weights = scene(batch=batch, queries=queries)
    read = deformable_sampling(values.requires_grad_(), levels, locations=locations, weights=weights)
    assert read.shape == (batch, queries, 12)
    read.sum().backward()
    assert values.grad.count_nonzero() == 0


def test_images_do_not_read_each_other():
    values, levels, locations, weights = scene()
    both = deformable_sampling(values, levels, locations=locations, weights=weights)
    second = deformable_sampling(values[1:], levels, locations=locations[1:], weights=weights[1:])
    torch.testing.assert_close(both[1:], second, rtol=0, atol=1e-14)


def test_offsets_count_cells_for_points_and_half_boxes_for_boxes():
    levels = Levels.of([(10, 20)], like=torch.zeros(1, dtype=torch.float64))
    offsets = torch.tensor([[2.0, 2.0], [0.0, -4.0]], dtype=torch.float64).view(1, 1, 1, 1, 2, 2)
    point = torch.tensor([0.5, 0.5], dtype=torch.float64).view(1, 1, 1, 2)
    assert sampling_locations(point, offsets, levels).flatten().tolist() == pytest.approx([0.6, 0.7, 0.5, 0.1])
    box = torch.tensor([0.5, 0.5, 0.2, 0.4], dtype=torch.float64).view(1, 1, 1, 4)
    assert sampling_locations(box, offsets, levels).flatten().tolist() == pytest.approx([0.6, 0.7, 0.5, 0.1])


def attention_scene(*, embed_dim=16, dtype=torch.float64):
    attention = MultiScaleDeformableAttention(embed_dim, num_heads=4, num_levels=3, num_points=2).to(dtype)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    levels = Levels.of(SHAPES, like=torch.zeros(1, dtype=dtype))
    mask = torch.zeros(2, sum(levels.tokens), dtype=torch.bool)
    mask[1, ::3] = True
    memory = unpadded_memory(torch.randn(2, sum(levels.tokens), embed_dim, dtype=dtype), levels)
    memory = replace(memory, mask=mask)
    return attention, memory, torch.randn(2, 5, embed_dim, dtype=dtype), torch.rand(2, 5, 3, 4, dtype=dtype)


def test_padded_tokens_read_as_zero():
    attention, memory, query, references = attention_scene()
    changed = replace(memory, tokens=memory.tokens.masked_fill(memory.mask[..., None], 100.0))
    assert attention(query, memory=memory, references=references).equal(
        attention(query, memory=changed, references=references)
    )
    blank = replace(memory, mask=torch.ones_like(memory.mask))
    torch.testing.assert_close(
        attention(query, memory=blank, references=references), query + attention.output_proj.bias
    )
    unmasked = replace(changed, mask=torch.zeros_like(memory.mask))
    assert not attention(query, memory=unmasked, references=references).allclose(
        attention(query, memory=changed, references=references)
    )


def test_the_residual_is_the_query_without_its_position_or_what_is_given():
    attention, memory, query, references = attention_scene()
    position, identity = torch.randn_like(query), torch.randn_like(query)
    added = attention(query, memory=memory, references=references, position=position) - query
    torch.testing.assert_close(
        attention(query, memory=memory, references=references, position=position, identity=identity), added + identity
    )
    torch.testing.assert_close(
        attention(query + position, memory=memory, references=references) - position, added + query
    )


def test_sampling_offsets_start_on_rays():
    attention = MultiScaleDeformableAttention(32, num_heads=8, num_levels=3, num_points=4)
    assert attention.sampling_offsets.weight.count_nonzero() == 0
    offsets = attention.sampling_offsets.bias.detach().view(8, 3, 4, 2)
    for head in range(8):
        ray = torch.tensor([math.cos(math.pi * head / 4), math.sin(math.pi * head / 4)])
        ray = ray / ray.abs().max()
        for level in range(3):
            for point in range(4):
                torch.testing.assert_close(offsets[head, level, point], ray * (point + 1))


def test_attention_starts_uniform_and_projections_xavier():
    attention = MultiScaleDeformableAttention(32, num_heads=8)
    for parameter in (*attention.attention_weights.parameters(), attention.value_proj.bias, attention.output_proj.bias):
        assert parameter.count_nonzero() == 0
    bound = math.sqrt(6 / 64)
    for projection in (attention.value_proj, attention.output_proj):
        assert projection.weight.abs().max() <= bound
        assert float(projection.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="embed_dim=30 must be a multiple of num_heads=8"):
        MultiScaleDeformableAttention(30, num_heads=8)


def test_coordinates_stay_in_float32_under_autocast():
    attention, memory, query, references = attention_scene(dtype=torch.float32)
    torch.nn.init.zeros_(attention.sampling_offsets.weight)  # where to look is now exact in any precision
    exact = attention(query, memory=memory, references=references)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = attention(query, memory=memory, references=references)
    # a bfloat16 location would be off by 2^-9 of the map; values and weights are rounded to 2^-9 relative
    torch.testing.assert_close(rounded.float(), exact, rtol=0.03, atol=0.06)
