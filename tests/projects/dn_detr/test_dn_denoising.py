"""DN-DETR's denoising: noise within its bounds, an indicator on every copy, groups that do not see each other."""

import pytest
import torch
from crossstage.projects.dn_detr.modeling.denoising import IndicatorDenoising, noised_copies

from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.queries.anchors import AnchorQueries
from crossstage.modeling.queries.denoising import DenoisingNoise
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.structures import Levels, PaddedTargets, Target
from tests.random_scenes import objects_of

CLASSES = 8


def central_objects(count: int) -> PaddedTargets:
    """Objects so small and central that no noise reaches the border of the image."""
    boxes = torch.rand(count, 4) * 0.1 + torch.tensor([0.45, 0.45, 0.05, 0.05])
    return PaddedTargets.of([Target(torch.zeros(count, dtype=torch.int64), boxes)])


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_centres_move_by_half_a_box_and_sides_by_a_whole_one_at_most(scale):
    targets = central_objects(200)
    noise = DenoisingNoise.draw(targets, 20, CLASSES)
    _, boxes = noised_copies(targets, noise, label_noise=0.0, box_noise=scale)
    sizes = targets.boxes[..., 2:]
    shares = (boxes - targets.boxes[:, None]) / torch.cat([sizes / 2, sizes], dim=-1)[:, None] / scale
    assert shares.abs().max().item() == pytest.approx(1.0, abs=0.01)
    assert shares.abs().mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.mean().item() == pytest.approx(0.0, abs=0.02)


def test_the_whole_ratio_of_labels_is_redrawn_and_may_be_no_object():
    targets = central_objects(100)
    noise = DenoisingNoise.draw(targets, 100, CLASSES + 1)
    labels, _ = noised_copies(targets, noise, label_noise=0.5, box_noise=0.4)
    assert (labels != 0).float().mean().item() == pytest.approx(0.5 * CLASSES / (CLASSES + 1), abs=0.02)
    assert labels.unique().tolist() == list(range(CLASSES + 1))


def test_copies_know_their_objects_and_empty_slots_hold_nothing():
    denoising = IndicatorDenoising(CLASSES, 16, num_groups=4)
    made = denoising(PaddedTargets.of(objects_of(3, 1)), None)
    (group,), content, references = made.groups, made.content, made.references
    assert (group.size, group.num_blocks, group.block) == (12, 4, 3)
    assert group.matches[0].tolist() == [0, 1, 2] * 4
    assert group.matches[1].tolist() == [0, -1, -1] * 4
    filled = group.matches >= 0
    assert content[..., -1].equal(filled.float())
    assert content[~filled].abs().max() == 0
    assert references[~filled].unique().tolist() == [0.5]


def test_no_more_objects_than_the_bound_are_noised():
    denoising = IndicatorDenoising(CLASSES, 16, num_groups=2, max_objects=4)
    (group,) = denoising(PaddedTargets.of(objects_of(9, 2)), None).groups
    assert group.size == 8
    assert sorted(set(group.matches[1].tolist())) == [-1, 0, 1]


@pytest.mark.parametrize("counts", [(0, 0), (2, 0)])
def test_matching_queries_carry_no_object_and_never_see_copies(counts):
    denoising = IndicatorDenoising(CLASSES, 16, num_groups=3)
    joined = JoinedQueries(source=AnchorQueries(num_queries=5, embed_dim=16), extra=[denoising])
    tokens = torch.zeros(2, 4, 16)
    memory = unpadded_memory(tokens, Levels.of([(2, 2)], like=tokens))
    queries = joined(memory, PaddedTargets.of(objects_of(*counts)))
    copies = 3 * max(counts)
    assert [group.size for group in queries.groups] == [copies, 5]
    assert queries.content[:, copies:, :-1].equal(denoising.label_embed.weight[-1].expand(2, 5, -1))
    assert queries.content[:, copies:, -1].abs().max() == 0
    if copies == 0:
        assert queries.attention_mask is None
        return
    assert queries.attention_mask[copies:, :copies].all()
    assert not queries.attention_mask[:copies, copies:].any()
    blocks = ~queries.attention_mask[:copies, :copies]
    assert blocks.equal(torch.block_diag(*[torch.ones(2, 2)] * 3).bool())
    plain = joined(memory)
    assert plain.references.equal(queries.references[:, copies:])
