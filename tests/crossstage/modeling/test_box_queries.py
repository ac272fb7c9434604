"""Queries that begin as the whole image."""

from dataclasses import replace

import pytest
import torch

from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.queries.boxes import BoxQueries
from crossstage.structures import Levels, Memory

SIZES = torch.tensor([[96.0, 64.0], [30.0, 50.0], [64.0, 64.0]])


@pytest.fixture
def memory() -> Memory:
    return replace(unpadded_memory(torch.zeros(3, 1, 8), Levels.of([(1, 1)], like=SIZES)), image_sizes=SIZES)


def test_every_image_starts_with_the_same_contents_each_normalised_on_its_own(memory):
    queries = BoxQueries(num_queries=5, embed_dim=8)(memory, 5)
    assert queries.content.shape == (3, 5, 8)
    assert queries.content[0].equal(queries.content[2])
    torch.testing.assert_close(queries.content.mean(-1), torch.zeros(3, 5), rtol=0, atol=1e-6)
    torch.testing.assert_close(queries.content.var(-1, correction=0), torch.ones(3, 5), rtol=0, atol=1e-3)


def test_boxes_start_as_the_image_are_saved_and_never_learn(memory):
    source = BoxQueries(num_queries=5, embed_dim=8)
    assert source(memory, 5).references.tolist() == [[[0.5, 0.5, 1.0, 1.0]] * 5] * 3
    assert {name for name, _ in source.named_parameters()} == {"content.weight"}
    source.load_state_dict(source.state_dict() | {"boxes": torch.full((5, 4), 0.25)})
    assert source(memory, 5).references.unique().tolist() == [0.25]
    assert not source(memory, 5).references.requires_grad


def test_a_contents_direction_learns_and_its_length_does_not(memory):
    source = BoxQueries(num_queries=5, embed_dim=8)
    (source(memory, 5).content * torch.randn(3, 5, 8)).sum().backward()
    gradient, content = source.content.weight.grad, source.content.weight.detach()
    assert gradient.abs().amax(-1).min() > 0
    along = (gradient * (content - content.mean(-1, keepdim=True))).sum(-1)
    torch.testing.assert_close(along, torch.zeros(5), rtol=0, atol=1e-3)


def test_its_queries_are_one_group_to_be_matched(memory):
    (group,) = BoxQueries(num_queries=5, embed_dim=8)(memory, 5).groups
    assert (group.name, group.size, group.matches) == ("matching", 5, None)


def test_boxes_follow_the_precision_of_the_images_sizes(memory):
    assert BoxQueries(num_queries=2, embed_dim=8)(memory.to(dtype=torch.float64), 2).references.dtype == torch.float64
