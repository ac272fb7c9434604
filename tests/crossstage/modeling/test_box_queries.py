"""Queries that begin as the whole image."""

import pytest
import torch
from omegaconf import ListConfig

from crossstage.modeling.queries.boxes import BoxQueries
from crossstage.structures import Levels, Memory, PaddedTargets
from tests.random_scenes import objects_of

SIZES = torch.tensor([[96.0, 64.0], [30.0, 50.0], [64.0, 64.0]])


@pytest.fixture
def memory() -> Memory:
    return Memory(torch.zeros(3, 1, 8), None, Levels.of([(1, 1)], like=SIZES), image_sizes=SIZES)


def test_every_image_starts_with_the_same_contents_each_normalised_on_its_own(memory):
    queries = BoxQueries(num_queries=5, embed_dim=8)(memory)
    assert queries.content.shape == (3, 5, 8)
    assert queries.content[0].equal(queries.content[2])
    torch.testing.assert_close(queries.content.mean(-1), torch.zeros(3, 5), rtol=0, atol=1e-6)
    torch.testing.assert_close(queries.content.var(-1, correction=0), torch.ones(3, 5), rtol=0, atol=1e-3)


def test_boxes_start_as_the_image_are_saved_and_never_learn(memory):
    source = BoxQueries(num_queries=5, embed_dim=8)
    assert source(memory).references.tolist() == [[[0.5, 0.5, 1.0, 1.0]] * 5] * 3
    assert {name for name, _ in source.named_parameters()} == {"content.weight"}
    source.load_state_dict(source.state_dict() | {"boxes": torch.full((5, 4), 0.25)})
    assert source(memory).references.unique().tolist() == [0.25]
    assert not source(memory).references.requires_grad


def test_a_contents_direction_learns_and_its_length_does_not(memory):
    source = BoxQueries(num_queries=5, embed_dim=8)
    (source(memory).content * torch.randn(3, 5, 8)).sum().backward()
    gradient, content = source.content.weight.grad, source.content.weight.detach()
    assert gradient.abs().amax(-1).min() > 0
    along = (gradient * (content - content.mean(-1, keepdim=True))).sum(-1)
    torch.testing.assert_close(along, torch.zeros(5), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("given", "held"), [(1, 1), (3, 3), ((6, 6, 1), (6, 6, 1)), (ListConfig([2, 1]), (2, 1))])
def test_one_group_is_matched_as_often_as_said(memory, given, held):
    queries = BoxQueries(num_queries=5, embed_dim=8, repeats=given)(memory)
    (group,) = queries.groups
    assert (group.name, group.size, group.matches, group.repeats) == ("matching", 5, None, held)
    assert type(group.repeats) is type(held)


def test_objects_do_not_change_the_queries(memory):
    source = BoxQueries(num_queries=5, embed_dim=8)
    targets = PaddedTargets.of(objects_of(2, 0, 4))
    with_objects, without = source(memory, targets), source(memory)
    assert with_objects.content.equal(without.content)
    assert with_objects.references.equal(without.references)


def test_boxes_follow_the_precision_of_the_images_sizes(memory):
    assert BoxQueries(num_queries=2, embed_dim=8)(memory.to(dtype=torch.float64)).references.dtype == torch.float64
