"""Contrastive denoising: noise within its bounds, a group of bounded size, a mask that lets nothing leak."""

import pytest
import torch
from torch import Tensor

from crossstage.layers.boxes import cxcywh_to_xyxy
from crossstage.modeling.queries.denoising import (
    ContrastiveDenoising,
    DenoisingNoise,
    noised_objects,
)
from crossstage.modeling.queries.joined import group_attention_mask
from crossstage.structures import PaddedTargets, QueryGroup, Target
from tests.random_scenes import objects_of


def central_targets(*counts: int, classes: int = 8) -> PaddedTargets:
    """Objects so small and central that no noise reaches the border of the image."""
    boxes = [torch.rand(n, 4) * 0.1 + torch.tensor([0.45, 0.45, 0.05, 0.05]) for n in counts]
    return PaddedTargets.of([Target(torch.randint(0, classes, (len(b),)), b) for b in boxes])


def noised(denoising: ContrastiveDenoising, targets: PaddedTargets, **draws) -> tuple[QueryGroup, Tensor, Tensor]:
    """The group with its content and references."""
    made = denoising(targets, None, **draws)
    return made.groups[0], made.content, made.references


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.0])
def test_positive_corners_move_less_than_half_a_box_and_negative_ones_up_to_twice_that(scale):
    targets = central_targets(40, 30)
    noise = DenoisingNoise.draw(targets, 10, 8)
    _, boxes = noised_objects(targets, noise, label_noise=0.0, box_noise=scale)
    moves = (cxcywh_to_xyxy(boxes) - cxcywh_to_xyxy(targets.boxes)[:, None]).abs()
    shares = (moves / (targets.boxes[..., 2:] / 2).repeat(1, 1, 2)[:, None])[targets.valid[:, None].expand(-1, 10, -1)]
    positive = torch.zeros(10, dtype=torch.bool)
    positive[0::2] = True
    owner = positive[:, None].expand(2, 10, 40)[targets.valid[:, None].expand(-1, 10, -1)]
    slack = 1e-4
    assert shares[owner].max() < scale + slack
    assert shares[~owner].min() > scale - slack
    assert shares[~owner].max() < 2 * scale + slack
    assert shares[owner].mean() == pytest.approx(scale / 2, rel=0.1)
    assert shares[~owner].mean() == pytest.approx(scale * 1.5, rel=0.1)


def test_corners_move_in_all_directions_and_stay_in_the_image():
    targets = PaddedTargets.of([Target(torch.zeros(50, dtype=torch.int64), torch.tensor([[0.5, 0.5, 1.0, 1.0]] * 50))])
    noise = DenoisingNoise.draw(targets, 6, 8)
    _, boxes = noised_objects(targets, noise, label_noise=0.0, box_noise=1.0)
    corners = cxcywh_to_xyxy(boxes)
    assert corners.min() > -1e-6
    assert corners.max() < 1 + 1e-6
    assert noise.signs.unique().tolist() == [-1, 1]
    assert abs(noise.signs.mean().item()) < 0.1


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_half_the_ratio_of_labels_is_redrawn(ratio):
    targets = PaddedTargets.of([Target(torch.zeros(100, dtype=torch.int64), torch.rand(100, 4))])
    noise = DenoisingNoise.draw(targets, 100, 1000)
    labels, _ = noised_objects(targets, noise, label_noise=ratio, box_noise=0.0)
    assert (labels != 0).float().mean().item() == pytest.approx(ratio / 2, abs=0.02)
    assert labels.max() < 1000


def test_no_box_noise_leaves_boxes_where_they_are():
    targets = central_targets(3, 2)
    _, boxes = noised_objects(targets, DenoisingNoise.draw(targets, 4, 8), label_noise=1.0, box_noise=0.0)
    torch.testing.assert_close(boxes, targets.boxes[:, None].expand(-1, 4, -1, -1))


@pytest.mark.parametrize("objects", [1, 2, 7, 60, 99, 100, 101, 499, 500, 501, 3000])
def test_the_group_is_bounded_for_any_number_of_objects(objects):
    denoising = ContrastiveDenoising(8, 4)
    group, content, references = noised(denoising, central_targets(objects, 1))
    used = min(objects, 500)
    repetitions = max(1, 100 // used)
    assert (group.size, group.num_blocks, group.block) == (2 * repetitions * used, repetitions, 2 * used)
    assert group.size <= 2 * max(100, used)
    assert content.shape == (2, group.size, 4)
    assert references.shape == (2, group.size, 4)
    found = group.matches[0][group.matches[0] >= 0]
    assert found.unique().numel() == used
    assert len(found) == used * repetitions
    assert group.matches[1].max() == 0


def test_of_too_many_objects_a_random_choice_is_noised_and_none_of_the_padding():
    targets = central_targets(9, 2)
    chosen = set()
    for _ in range(20):
        group, _, _ = noised(ContrastiveDenoising(8, 4, num_queries=3, max_objects=3), targets)
        assert group.size == 6
        first, second = (set(row[row >= 0].tolist()) for row in group.matches)
        assert len(first) == 3
        assert second == {0, 1}
        chosen |= first
    assert chosen == set(range(9))


def test_positives_know_their_object_and_negatives_are_background():
    group, _, _ = noised(ContrastiveDenoising(8, 4, num_queries=6), central_targets(3, 1))
    nothing = [-1, -1, -1]
    assert group.matches[0].tolist() == [0, 1, 2, *nothing] * 2
    assert group.matches[1].tolist() == [0, -1, -1, *nothing] * 2
    assert (group.name, group.sees) == ("denoising", ("matching",))


def test_content_embeds_the_noised_label_and_empty_slots_are_neutral():
    denoising = ContrastiveDenoising(8, 4, num_queries=3, label_noise=0.0, box_noise=0.0)
    targets = central_targets(3, 1)
    group, content, references = noised(denoising, targets)
    assert content[0, :3].equal(denoising.label_embed(targets.labels[0]))
    torch.testing.assert_close(references[0, 3:6], targets.boxes[0])
    assert content[1, 1:3].count_nonzero() == 0
    assert references[1, 1:3].unique().tolist() == [0.5]
    assert group.size == 6


def test_references_stay_off_the_borders_even_where_noise_inverts_a_box():
    targets = PaddedTargets.of(objects_of(50))
    _, _, references = noised(ContrastiveDenoising(8, 4, box_noise=2.0), targets)
    assert references.min() >= 1e-3 - 1e-6
    assert references.max() <= 1 - 1e-3 + 1e-6


@pytest.mark.parametrize("denoising", [ContrastiveDenoising(8, 4), ContrastiveDenoising(8, 4, num_queries=0)])
@pytest.mark.parametrize("counts", [(0, 0), (0, 3)])
def test_nothing_to_noise_makes_an_empty_group_that_still_reaches_the_embedding(denoising, counts):
    denoising.zero_grad()
    group, content, references = noised(denoising, central_targets(*counts))
    if denoising.num_queries and any(counts):
        assert group.size > 0
        return
    assert group.size == 0
    assert content.shape == (2, 0, 4)
    assert references.shape == (2, 0, 4)
    assert group.matches.shape == (2, 0)
    content.sum().backward()  # DDP waits for the gradient of every parameter
    assert denoising.label_embed.weight.grad.count_nonzero() == 0


def test_recorded_draws_are_used_as_they_are():
    targets = central_targets(3, 2)
    denoising = ContrastiveDenoising(8, 4, num_queries=6)
    noise = DenoisingNoise.draw(targets, 4, 8)
    first, second = (noised(denoising, targets, noise=noise) for _ in range(2))
    assert first[1].equal(second[1])
    assert first[2].equal(second[2])
    assert not first[2].equal(noised(denoising, targets)[2])


def mask_by_the_specification(pad: int, width: int, matching: int) -> Tensor:
    """Section 4.1.8: True = blocked."""
    blocked = torch.zeros(pad + matching, pad + matching, dtype=torch.bool)
    blocked[pad:, :pad] = True  # matching rows do not see denoising columns
    for row in range(pad):
        for column in range(pad):
            blocked[row, column] = row // width != column // width  # nor groups each other
    return blocked


@pytest.mark.parametrize(("counts", "positives"), [((3, 1), 6), ((2, 2), 7), ((5, 0), 3)])
def test_the_attention_mask_is_dinos(counts, positives):
    group, _, _ = noised(ContrastiveDenoising(8, 4, num_queries=positives), central_targets(*counts))
    groups = (group, QueryGroup("matching", 5))
    expected = mask_by_the_specification(group.size, 2 * max(counts), 5)
    assert group_attention_mask(groups, torch.device("cpu")).equal(expected)


def test_groups_that_do_not_see_each_other_are_apart():
    """H-DETR's branches are blocked in both directions."""
    mask = group_attention_mask((QueryGroup("matching", 2), QueryGroup("one_to_many", 3)), torch.device("cpu"))
    assert mask.equal(torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)) == 0)


@pytest.mark.parametrize(
    "groups", [(QueryGroup("matching", 4),), (QueryGroup("denoising", 0, block=0), QueryGroup("matching", 4))]
)
def test_a_single_group_needs_no_mask(groups):
    assert group_attention_mask(groups, torch.device("cpu")) is None


def test_a_group_that_sees_nobody_s_group_is_named():
    with pytest.raises(ValueError, match="group 'denoising' sees 'matching', but the groups are denoising, maching"):
        group_attention_mask(
            (QueryGroup("denoising", 2, sees=("matching",)), QueryGroup("maching", 3)), torch.device("cpu")
        )
