"""Box arithmetic: hand-made tables, and properties that hold for any boxes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossstage.layers.boxes import (
    BoxDistance,
    box_area,
    box_iou,
    cxcywh_to_xyxy,
    generalized_box_iou,
    intersection_and_union,
    inverse_sigmoid,
    refine_boxes,
    xyxy_to_cxcywh,
)

ANY_NUMBER = st.floats(-2, 2, width=32)
ANY_BOX = st.tuples(*[ANY_NUMBER] * 4).map(lambda box: torch.tensor(box, dtype=torch.float64))
UNIT = st.floats(0, 1, width=32)
PROPER_BOX = st.tuples(*[UNIT] * 4).map(
    lambda box: torch.tensor(
        [min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])], dtype=torch.float64
    )
)

# first, second (corners), IoU, GIoU; each has a reason
OVERLAPS = [
    ((0, 0, 2, 2), (0, 0, 2, 2), 1, 1),  # itself
    ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),  # a quarter of each
    ((0, 0, 2, 2), (0, 0, 1, 2), 1 / 2, 1 / 2),  # inside, sharing a border: hull is the union
    ((0, 0, 1, 1), (1, 0, 2, 1), 0, 0),  # touching: no overlap, no gap
    ((0, 0, 1, 1), (2, 0, 3, 1), 0, -1 / 3),  # a gap as wide as each box
    ((0, 0, 1, 1), (3, 3, 4, 4), 0, -14 / 16),  # far away
    ((0, 0, 0, 0), (0, 0, 2, 2), 0, 0),  # a point in the corner of a box
    ((0, 0, 2, 2), (1, 0, 1, 2), 0, 0),  # a line in a box
]


@pytest.mark.parametrize(("first", "second", "iou", "giou"), OVERLAPS)
def test_overlap_of_hand_made_pairs(first, second, iou, giou):
    pair = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    assert float(box_iou(*pair, eps=1e-12)) == pytest.approx(iou, abs=1e-9)
    assert float(generalized_box_iou(*pair, eps=1e-12)) == pytest.approx(giou, abs=1e-9)


def test_detrex_adds_a_millionth_to_the_denominators():
    box = torch.tensor([0.5, 0.5, 0.501, 0.501], dtype=torch.float64)  # a pixel of a 1000 pixel image
    assert float(box_iou(box, box)) == pytest.approx(0.5, abs=1e-9)
    assert float(generalized_box_iou(box, box)) == pytest.approx(0.5, abs=1e-9)


@given(PROPER_BOX, PROPER_BOX)
def test_overlap_is_symmetric_and_bounded(first, second):
    iou, giou = box_iou(first, second), generalized_box_iou(first, second)
    assert iou == box_iou(second, first)
    assert giou == generalized_box_iou(second, first)
    assert 0 <= iou <= 1
    assert -1 <= giou <= iou + 1e-12


@given(ANY_BOX, ANY_BOX)
def test_the_intersection_of_any_corners_is_not_negative(first, second):
    intersection, union = intersection_and_union(first, second)
    assert intersection >= 0
    assert union == pytest.approx(float(box_area(first) + box_area(second) - intersection))


@given(st.tuples(*[UNIT] * 4), st.tuples(*[UNIT] * 4))
def test_zero_area_boxes_give_finite_overlaps_and_gradients(first, second):
    first = torch.tensor([first[0], first[1], first[0], first[1]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([second[0], second[1], second[0], second[1]], dtype=torch.float64)
    giou = generalized_box_iou(first, second)
    giou.backward()
    assert giou.isfinite()
    assert first.grad.isfinite().all()


@given(UNIT, UNIT, st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_inverted_boxes_give_finite_overlaps(x, y, width, height):
    inverted = torch.tensor([x + width, y, x, y + height], dtype=torch.float64)
    other = torch.tensor([0.2, 0.2, 0.9, 0.9], dtype=torch.float64)
    assert box_iou(inverted, other) == 0
    assert generalized_box_iou(inverted, other).isfinite()


@given(ANY_BOX)
def test_corners_and_centres_are_two_forms_of_one_box(box):
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(box)), box, rtol=0, atol=1e-12)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(box)), box, rtol=0, atol=1e-12)


def test_forms_of_a_box_by_hand():
    assert cxcywh_to_xyxy(torch.tensor([5.0, 3.0, 4.0, 2.0])).tolist() == [3, 2, 7, 4]
    assert box_area(torch.tensor([3.0, 2.0, 7.0, 4.0])) == 8
    assert box_area(torch.tensor([7.0, 2.0, 3.0, 4.0])) == -8


def test_functions_broadcast_over_leading_axes():
    first, second = torch.rand(5, 1, 4), torch.rand(3, 4)
    assert box_iou(first, second).shape == generalized_box_iou(first, second).shape == (5, 3)
    assert box_iou(first, second)[4, 1] == box_iou(first[4, 0], second[1])


@given(st.floats(0.001, 0.999))
def test_inverse_sigmoid_undoes_sigmoid_away_from_the_borders(value):
    value = torch.tensor(value, dtype=torch.float64)
    assert float(inverse_sigmoid(value).sigmoid()) == pytest.approx(float(value), abs=1e-12)


@pytest.mark.parametrize(
    ("value", "expected", "slope"),
    [
        (0.0, math.log(1e-3), 0.0),
        (1.0, -math.log(1e-3), 0.0),
        (-3.0, math.log(1e-3), 0.0),
        (1.5, -math.log(1e-3), 0.0),
        (0.5, 0.0, 4.0),
        (0.0005, math.log(1e-3 / 0.9995), 1 / 0.9995),  # x is held at eps, 1 - x is not
    ],
)
def test_inverse_sigmoid_is_clamped_as_detrex_clamps_it(value, expected, slope):
    value = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    result = inverse_sigmoid(value)
    result.backward()
    assert float(result.detach()) == pytest.approx(expected, abs=1e-12)
    assert float(value.grad) == pytest.approx(slope, abs=1e-9)


def test_inverse_sigmoid_does_not_hide_a_nan():
    assert inverse_sigmoid(torch.tensor([math.nan, 0.5])).isnan().tolist() == [True, False]


def test_offsets_refine_a_box_by_its_logits_in_the_dtype_of_the_box():
    boxes = torch.tensor([0.5, 0.25, 0.2, 0.8], dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=torch.bfloat16, requires_grad=True)
    refined = refine_boxes(boxes, offsets)
    expected = [0.5, math.e / (math.e + 3), 1 / (1 + 4 * math.e), 0.8]  # odds 1/3 times e, odds 1/4 by e
    assert refined.dtype == torch.float64
    assert refined.tolist() == pytest.approx(expected, abs=1e-12)
    refined.sum().backward()
    assert boxes.grad.abs().min() > 0
    assert offsets.grad.abs().min() > 0


def test_box_distance_compares_centres_or_corners():
    first, second = torch.tensor([0.5, 0.5, 0.2, 0.2]), torch.tensor([0.5, 0.5, 0.4, 0.2])
    assert float(BoxDistance()(first, second)[0]) == pytest.approx(0.2)  # the width alone
    assert float(BoxDistance(corners=True)(first, second)[0]) == pytest.approx(0.2)  # x1 and x2 by 0.1 each
    shifted = torch.tensor([0.6, 0.5, 0.2, 0.2])
    assert float(BoxDistance()(first, shifted)[0]) == pytest.approx(0.1)
    assert float(BoxDistance(corners=True)(first, shifted)[0]) == pytest.approx(0.2)
    assert float(BoxDistance(eps=1e-9)(first, first)[1]) == pytest.approx(1)
