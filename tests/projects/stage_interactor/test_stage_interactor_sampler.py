"""Few anchors a group and the same details around each: how they lie, how they start, what replaces them."""

import pytest
import torch
from crossstage.projects.stage_interactor.modeling.grouped_sampler import GroupedSampler, ungrouped_sampler
from torch import nn

from crossstage.layers.position_vector import to_position_vectors
from crossstage.modeling.encoders.none import NoEncoder
from crossstage.modeling.neck import pyramid

GROUPS, ANCHORS, DETAILS, WIDTH = 3, 4, 5, 6
SIZES = {"num_groups": GROUPS, "num_anchors": ANCHORS, "num_details": DETAILS}


def offsets_of(sampler: GroupedSampler) -> torch.Tensor:
    """[G, A, K, 3] of one query."""
    return sampler.offsets(torch.randn(1, 1, WIDTH)).unflatten(-2, (ANCHORS, DETAILS))[0, 0]


def test_details_are_shared_by_all_anchors_and_scaled_by_each():
    sampler = GroupedSampler(WIDTH, **SIZES)
    for parameter in sampler.parameters():
        nn.init.normal_(parameter)
    content = torch.randn(1, 1, WIDTH)
    offsets = sampler.offsets(content).unflatten(-2, (ANCHORS, DETAILS))[0, 0]
    anchors, details = sampler.anchors(content).view(GROUPS, ANCHORS, 3), sampler.details(content).view(DETAILS, 3)
    for group in range(GROUPS):
        for anchor in range(ANCHORS):
            x, y, z = anchors[group, anchor]
            expected = torch.stack([x + 2**z * details[:, 0], y + 2**z * details[:, 1], z + details[:, 2]], dim=-1)
            torch.testing.assert_close(offsets[group, anchor], expected)


def test_at_the_start_anchors_lie_in_the_box_and_the_first_detail_on_each():
    sampler = GroupedSampler(WIDTH, **SIZES)
    offsets, anchors = offsets_of(sampler), sampler.anchors.bias.view(GROUPS, ANCHORS, 3)
    assert offsets[:, :, 0].equal(anchors)
    assert anchors[..., :2].abs().max() <= 0.5
    assert offsets[..., 2].count_nonzero() == 0
    apart = (offsets[..., :2] - anchors[:, :, None, :2])[:, :, 1:].abs()
    assert 0 < apart.min() < apart.max() <= 0.5**1.5 + 1e-6


@pytest.mark.parametrize("stage", [0, 1, 5])
def test_the_number_of_points_is_the_stages(stage: int):
    sampler = GroupedSampler(8, num_groups=2, num_anchors=(3, 2), num_details=4, stage=stage)
    free = ungrouped_sampler(8, num_groups=2, num_anchors=(3, 2), num_details=4, stage=stage)
    maps = [torch.randn(1, 8, 32 // 2**level, 48 // 2**level) for level in range(4)]
    memory = NoEncoder()(pyramid(maps, torch.zeros(1, 128, 192, dtype=torch.bool)))
    vectors = to_position_vectors(torch.tensor([[[0.5, 0.5, 0.2, 0.2]] * 5]), memory.image_sizes)
    content = torch.randn(1, 5, 8)
    points = 12 if stage == 0 else 8
    assert sampler(content, vectors, memory).shape == free(content, vectors, memory).shape == (1, 5, 2, points, 4)


def test_free_points_may_begin_as_if_they_were_grouped_or_anywhere_in_the_box():
    grouped, vanilla = (ungrouped_sampler(WIDTH, grouped_start=start, **SIZES) for start in (True, False))
    offsets = grouped.offsets.bias.view(GROUPS, ANCHORS, DETAILS, 3)
    details = offsets - offsets[:, :, :1]
    torch.testing.assert_close(details, details[:1, :1].expand_as(details))
    assert details[..., 1:, :2].abs().min() > 0
    anywhere = vanilla.offsets.bias.view(GROUPS, ANCHORS * DETAILS, 3)
    assert anywhere[..., :2].abs().max() <= 0.5
    assert anywhere.flatten(0, 1)[:, 0].unique().numel() == GROUPS * ANCHORS * DETAILS
    for sampler in (grouped, vanilla):
        assert sampler.offsets.bias.view(-1, 3)[:, 2].count_nonzero() == 0  # the levels begin at z = 3 instead
        assert sampler.centres.tolist() == [3.0, 4.0, 5.0, 6.0]
