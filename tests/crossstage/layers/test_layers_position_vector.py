"""(x, y, z, r): the same box in other words, how it moves, what it overlaps, how it is embedded."""

import math

import pytest
import torch
from torch import Tensor

from crossstage.layers.position_vector import (
    IsotropicMoves,
    SideMoves,
    corners_to_vectors,
    overlap_with_row,
    position_vector_embedding,
    to_normalised_boxes,
    to_position_vectors,
    vector_sizes,
    vectors_to_corners,
)
from tests.random_scenes import boxes_inside

SIZES = torch.tensor([[96.0, 64.0], [800.0, 1333.0]], dtype=torch.float64)  # width, height


def vectors_of(*boxes_abs: tuple[float, float, float, float]) -> Tensor:
    """cxcywh in pixels -> (x, y, z, r) [1, N, 4]."""
    one = torch.ones(1, 2, dtype=torch.float64)
    return to_position_vectors(torch.tensor(boxes_abs, dtype=torch.float64)[None], one)


def test_a_box_and_its_vector_are_one_thing():
    vectors = vectors_of((30, 20, 16, 4), (5, 6, 8, 8))
    assert vectors.tolist() == [[[30, 20, 3, -2], [5, 6, 3, 0]]]  # sqrt(64) = 2^3; 4 / 16 = 2^-2
    assert vector_sizes(vectors).tolist() == [[[16, 4], [8, 8]]]


def test_boxes_come_back_whatever_the_images_size():
    boxes = boxes_inside(2, 5, dtype=torch.float64)
    again = to_normalised_boxes(to_position_vectors(boxes, SIZES), SIZES)
    torch.testing.assert_close(again, boxes, rtol=0, atol=1e-14)
    stages = to_position_vectors(boxes, SIZES).expand(3, -1, -1, -1)
    torch.testing.assert_close(to_normalised_boxes(stages, SIZES)[2], boxes, rtol=0, atol=1e-14)


def test_a_box_without_area_has_finite_numbers_and_no_area():
    boxes = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.25], [0.5, 0.5, 0.25, 0.0]]])
    vectors = to_position_vectors(boxes, SIZES[:1].float())
    assert vectors.isfinite().all()
    torch.testing.assert_close(to_normalised_boxes(vectors, SIZES[:1].float()), boxes, rtol=1e-4, atol=1e-30)
    assert overlap_with_row(vectors_to_corners(vectors)).isfinite().all()


def test_corners_and_vectors_are_the_same_box():
    vectors = vectors_of((30, 20, 16, 4), (5, 6, 8, 8))
    corners = vectors_to_corners(vectors)
    assert corners.tolist() == [[[22, 18, 38, 22], [1, 2, 9, 10]]]
    assert corners_to_vectors(corners).tolist() == vectors.tolist()
    assert corners_to_vectors(corners[..., [2, 1, 0, 3]]).tolist() == vectors.tolist()  # left and right swapped


def test_the_least_side_is_added_to_each_side():
    corners = torch.tensor([0.0, 0.0, 8.0, 32.0], dtype=torch.float64)
    assert corners_to_vectors(corners, least_side=8.0).tolist() == [4, 16, (4 + math.log2(40)) / 2, math.log2(40) - 4]
    point = torch.full((4,), 5.0)
    assert corners_to_vectors(point, least_side=0.5).tolist() == [5, 5, -1, 0]
    assert corners_to_vectors(point).isfinite().all()
    boxes = torch.tensor([[[0.5, 0.5, 0.25, 0.0]]])
    sizes = vector_sizes(to_position_vectors(boxes, SIZES[:1].float(), least_side=1.0))
    torch.testing.assert_close(sizes, torch.tensor([[[25.0, 1.0]]]))


@pytest.mark.parametrize(("moves", "centre"), [(IsotropicMoves(), (38, 28)), (SideMoves(), (46, 24))])
def test_the_centre_moves_by_the_scale_or_by_the_sides(moves, centre: tuple[int, int]):
    start = vectors_of((30, 20, 16, 4))
    moved = moves(start, torch.tensor([[[1.0, 1.0, 0.0, 0.0]]], dtype=torch.float64))
    assert moved.tolist() == [[[*centre, 3, -2]]]


@pytest.mark.parametrize("moves", [IsotropicMoves(), SideMoves()])
def test_scale_and_shape_move_alike(moves):
    start = vectors_of((30, 20, 16, 4))
    for offset, size in (((0, 0, 1, 0), [32, 8]), ((0, 0, 0, 2), [8, 8]), ((0, 0, 0, 0), [16, 4])):
        moved = moves(start, torch.tensor([[offset]], dtype=torch.float64))
        assert moved[0, 0, :2].tolist() == [30, 20]
        assert vector_sizes(moved).tolist() == [[size]]


def test_overlap_is_the_share_of_the_rows_box():
    vectors = vectors_of((0, 0, 8, 8), (0, 0, 4, 4), (4, 0, 8, 8), (50, 50, 4, 4))
    expected = [[1, 0.25, 0.5, 0], [1, 1, 0.5, 0], [0.5, 0.125, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(
        overlap_with_row(vectors_to_corners(vectors))[0], torch.tensor(expected, dtype=torch.float64)
    )


def test_swapped_corners_have_the_least_area_and_share_nothing():
    """The box of 8 x 8 pixels, and inside it one that noise turned around: its area is negative."""
    corners = torch.tensor([[[0.0, 0.0, 8.0, 8.0], [6.0, 2.0, 2.0, 4.0]]], dtype=torch.float64)
    assert overlap_with_row(corners).tolist() == [[[1, 0], [0, 0]]]
    both = corners.clone()
    both[0, 1] = torch.tensor([6.0, 4.0, 2.0, 2.0])  # swapped on both axes: the area is positive again
    assert overlap_with_row(both).tolist() == [[[1, 0], [0, 0]]]
    narrow = torch.tensor([[[0.0, 0.0, 8.0, 8.0], [2.0, 2.0, 2.0, 4.0]]], dtype=torch.float64)
    assert overlap_with_row(narrow).isfinite().all()


def test_known_areas_keep_a_small_box_exact_far_from_the_origin():
    vectors = torch.tensor([[[1000.0, 1000.0, -9.0, 0.0]]])  # 1 / 512 pixels wide
    exact = overlap_with_row(vectors_to_corners(vectors), torch.tensor([[4.0]]))
    assert exact.item() == pytest.approx((1000.0 + 2.0**-10 - (1000.0 - 2.0**-10)) ** 2 / 4, rel=0.2)
    assert overlap_with_row(vectors_to_corners(vectors)).item() in (0.0, 1.0)


def test_the_embedding_counts_thousands_of_pixels_and_whole_levels():
    vector = torch.tensor([300.0, 500.0, 4.0, -0.5], dtype=torch.float64)
    found = position_vector_embedding(vector, 16)
    angles = [value / period for value in (0.3, 0.5, 4.0, -0.5) for period in (1, 100)]  # 10000^(2 / 4)
    expected = [wave(angle) for angle in angles for wave in (math.sin, math.cos)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)
