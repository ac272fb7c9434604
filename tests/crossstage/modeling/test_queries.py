"""Query selection: only what is image becomes a query, and always the same number of them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossstage.layers.mlp import BoxHead, ClassHead
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.queries.denoising import ContrastiveDenoising
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.modeling.queries.two_stage import TwoStageQueries, best_tokens, encoder_proposals
from crossstage.structures import Levels, Memory, PaddedTargets
from tests.random_scenes import objects_of

SHAPES = ((8, 12), (4, 6), (2, 3))


def memory_of(valid: tuple[int, int] = (8, 12), *, shapes=SHAPES, batch: int = 2, channels: int = 16) -> Memory:
    """Random tokens; of the finest level of the last image only `valid` rows and columns are image."""
    masks = []
    for level, (height, width) in enumerate(shapes):
        mask = torch.ones(batch, height, width, dtype=torch.bool)
        mask[:-1] = False
        mask[-1, : valid[0] >> level, : valid[1] >> level] = False
        masks.append(mask)
    ratios = [torch.stack([(~m[:, 0]).float().mean(-1), (~m[:, :, 0]).float().mean(-1)], -1) for m in masks]
    levels = Levels.of(shapes, like=torch.zeros(1))
    tokens = torch.randn(batch, sum(levels.tokens), channels)
    mask = torch.cat([m.flatten(1) for m in masks], 1)
    return replace(unpadded_memory(tokens, levels), mask=mask, valid_ratios=torch.stack(ratios, 1))


def selection(count: int, *, channels: int = 16) -> TwoStageQueries:
    queries = TwoStageQueries(
        num_queries=count, class_head=ClassHead(channels, 5), box_head=BoxHead(channels), embed_dim=channels
    )
    for parameter in queries.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return queries


def test_best_tokens_exist_whatever_their_scores_are():
    scores = torch.full((1, 4), -torch.inf)
    assert best_tokens(scores, torch.ones(1, 4, dtype=torch.bool), 6).max() < 4


@given(st.lists(st.tuples(st.integers(-9, 9), st.booleans()), min_size=1, max_size=9), st.integers(1, 12))
def test_best_tokens_are_usable_best_first_and_start_again_from_the_best(tokens, count):
    scores = torch.tensor([[float(score) + index / 100 for index, (score, _) in enumerate(tokens)]])
    usable = torch.tensor([[flag for _, flag in tokens]])
    chosen = best_tokens(scores, usable, count)[0].tolist()
    assert len(chosen) == count
    ranked = sorted((i for i, (_, flag) in enumerate(tokens) if flag), key=lambda i: -scores[0, i].item())
    if ranked:
        assert chosen == [ranked[i % len(ranked)] for i in range(count)]


def test_an_image_without_a_usable_token_still_gives_indices():
    chosen = best_tokens(torch.randn(1, 4), torch.zeros(1, 4, dtype=torch.bool), 6)
    assert chosen.shape == (1, 6)
    assert ((chosen >= 0) & (chosen < 4)).all()


def test_images_of_a_batch_choose_on_their_own():
    scores, usable = torch.randn(3, 7), torch.rand(3, 7) < 0.6
    together = best_tokens(scores, usable, 9)
    assert together.equal(torch.cat([best_tokens(scores[[i]], usable[[i]], 9) for i in range(3)]))


def test_proposals_sit_in_their_cells_and_double_with_each_level():
    boxes, usable = encoder_proposals(memory_of())
    assert boxes[0, 0].tolist() == pytest.approx([0.5 / 12, 0.5 / 8, 0.05, 0.05])
    assert boxes[0, 13].tolist() == pytest.approx([1.5 / 12, 1.5 / 8, 0.05, 0.05])
    assert boxes[0, 96].tolist() == pytest.approx([0.5 / 6, 0.5 / 4, 0.1, 0.1])
    assert boxes[0, -1].tolist() == pytest.approx([2.5 / 3, 1.5 / 2, 0.2, 0.2])
    assert usable[0].all()


def test_proposals_are_in_unpadded_coordinates_and_padding_is_not_usable():
    memory = memory_of((4, 8))
    boxes, usable = encoder_proposals(memory)
    assert boxes[1, 0].tolist() == pytest.approx([0.5 / 8, 0.5 / 4, 0.05, 0.05])
    assert not (usable & memory.mask).any()
    assert usable[1].sum() == 4 * 8 + 2 * 4 + 1 * 2


def test_a_masked_token_is_not_usable_wherever_it_lies():
    memory = memory_of()
    memory.mask[0, 13] = True
    _, usable = encoder_proposals(memory)
    assert (~usable[0]).nonzero().tolist() == [[13]]


def test_cells_at_the_border_of_a_very_fine_level_are_not_usable():
    _, usable = encoder_proposals(memory_of((1, 60), shapes=((1, 60),), batch=1))
    assert usable[0].tolist() == [False] + [True] * 58 + [False]  # centres within 0.01 of the border


@pytest.mark.parametrize("count", [5, 126, 300])
def test_the_number_of_queries_is_constant_and_padding_is_none_of_them(count):
    memory, queries = memory_of((4, 8)), selection(count)
    made = queries(memory, count)
    assert made.content.shape == (2, count, 16)
    assert made.references.shape == (2, count, 4)
    assert [group.size for group in made.groups] == [made.proposals.group.size] == [count]
    changed = replace(memory, tokens=memory.tokens.masked_fill(memory.mask[..., None], 50.0))
    again = queries(changed, count)
    assert again.references.equal(made.references)
    assert again.proposals.outputs.logits.equal(made.proposals.outputs.logits)


def test_padding_gets_no_gradient_from_the_proposals():
    memory, queries = memory_of((4, 8)), selection(300)
    memory.tokens.requires_grad_()
    outputs = queries(memory, 300).proposals.outputs
    (outputs.logits.sum() + outputs.boxes.sum()).backward()
    assert memory.tokens.grad[memory.mask].count_nonzero() == 0
    assert (memory.tokens.grad[~memory.mask] != 0).any(-1).all()


def test_references_carry_no_gradient_into_the_encoder_and_proposals_do():
    memory, queries = memory_of(), selection(5)
    memory.tokens.requires_grad_()
    made = queries(memory, 5)
    assert not made.references.requires_grad
    assert made.references.equal(made.proposals.outputs.boxes[0].detach())
    made.content.sum().backward()
    assert memory.tokens.grad is None
    assert queries.content.weight.grad.unique().tolist() == [2.0]  # the same content for both images


def test_proposals_come_best_first():
    logits = selection(9)(memory_of(), 9).proposals.outputs.logits[0]
    assert logits.amax(-1).diff(dim=1).le(0).all()


def test_denoising_queries_come_first_in_training_and_not_at_all_without_targets():
    queries = JoinedQueries(source=selection(5), extra=[ContrastiveDenoising(5, 16, num_queries=4)])
    targets = PaddedTargets.of(objects_of(2, 1, classes=5))
    made = queries(memory_of(), targets)
    assert [(group.name, group.size) for group in made.groups] == [("denoising", 8), ("matching", 5)]
    assert made.content.shape[1] == made.references.shape[1] == made.attention_mask.shape[0] == 13
    assert made.content[:, 8:].equal(queries.source.content.weight.expand(2, -1, -1))
    assert [group.name for group in queries(memory_of()).groups] == ["matching"]
    assert queries(memory_of()).attention_mask is None
    plain = JoinedQueries(source=selection(5))(memory_of(), targets)
    assert [group.name for group in plain.groups] == ["matching"]
