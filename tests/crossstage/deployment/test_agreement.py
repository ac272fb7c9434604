import pytest
import torch

from crossstage.deployment.agreement import Agreement, Difference, Limits, check, compared, differences
from crossstage.errors import InputError

NEARLY = 1e-4
LIMITS = Limits(NEARLY, 0.05)


def detections(*rows):
    """(x0, score, label) of one image -> boxes [1, D, 4], scores [1, D], labels [1, D]."""
    boxes = torch.tensor([[[x, 10.0, x + 5, 20.0] for x, _, _ in rows]])
    return boxes, torch.tensor([[score for _, score, _ in rows]]), torch.tensor([[label for _, _, label in rows]])


GIVEN = ((1.0, 0.9, 0), (50.0, 0.5, 1), (90.0, 0.50001, 1), (7.0, 0.2, 0))


@pytest.mark.parametrize(
    ("found", "scores", "boxes"),
    [
        pytest.param(GIVEN, 0.0, 0.0, id="the same"),
        pytest.param((GIVEN[0], GIVEN[2], GIVEN[1], GIVEN[3]), 0.0, 0.0, id="a tie in another order"),
        pytest.param((*GIVEN[:3], (70.0, 0.20001, 1)), 1e-5, 0.0, id="another one of the lowest score"),
        pytest.param(((1.5, 0.9, 0), *GIVEN[1:]), 0.0, 0.5, id="a box half a pixel away"),
        pytest.param((*GIVEN[:3], (7.0, 0.1, 0)), 0.1, 0.0, id="another lowest score"),
        pytest.param(((1.0, 0.9, 1), *GIVEN[1:]), 0.0, float("inf"), id="another label"),
        pytest.param(((1.0, 0.8, 0), *GIVEN[1:]), 0.1, float("inf"), id="another score"),
        pytest.param(GIVEN[:3], float("inf"), float("inf"), id="one is missing"),
        pytest.param(((float("nan"), 0.9, 0), *GIVEN[1:]), 0.0, float("nan"), id="not a number"),
    ],
)
def test_lists_are_compared_whatever_the_order_of_equal_scores(found, scores, boxes):
    result = differences(detections(*GIVEN), detections(*found), nearly=NEARLY)
    assert (result.scores, result.boxes) == pytest.approx((scores, boxes), abs=1e-6, nan_ok=True)


def test_a_difference_that_is_not_a_number_is_no_agreement():
    right = Agreement((1, 3, 8, 8), Difference(0.0, 0.01, 0.0), eager=2.0, file=1.0)
    wrong = Agreement((1, 3, 8, 8), Difference(0.0, float("nan"), 0.0), eager=2.0, file=1.0)
    check([right], LIMITS, "a.onnx")
    with pytest.raises(InputError, match=r"^a\.onnx: differs from its model by .* nan pixels in boxes"):
        check([right, wrong], LIMITS, "a.onnx")
    assert "2.00 times as fast" in str(right)


def moved(*by):
    """GIVEN with each of its boxes moved to the right, as a function of pixels."""
    rows = [(x + step, score, label) for (x, score, label), step in zip(GIVEN, by, strict=True)]
    return lambda pixels: detections(*rows)


@pytest.mark.parametrize(
    ("model", "file", "right"),
    [
        pytest.param((0.0, 0, 0, 0), (0.04, 0, 0, 0), True, id="within the limits"),
        pytest.param((0.2, 0, 0, 0), (0, -0.3, 0, 0), True, id="as far from the exact model as the model is"),
        pytest.param((0.0, 0, 0, 0), (0.2, 0, 0, 0), False, id="the model is exact"),
        pytest.param((0.2, 0, 0, 0), (0.9, 0, 0, 0), False, id="much farther than the model"),
        pytest.param((9.0, 0, 0, 0), (0.2, 0.2, 0.2, 0.2), False, id="a fault that moves all boxes"),
        pytest.param((0.2, 0, 0, 0), (float("nan"), 0, 0, 0), False, id="not a number"),
        pytest.param((float("nan"), 0, 0, 0), (9.0, 0, 0, 0), False, id="the model is not a number"),
    ],
)
def test_a_file_may_be_as_inexact_as_the_model_in_float32(model, file, right):
    exact, pixels = moved(0, 0, 0, 0), torch.zeros(1, 3, 8, 8)
    found = compared(moved(*model), moved(*file), pixels, precise=exact, limits=LIMITS, rounds=1)
    assert found.within(LIMITS) == right
    assert (found.own is None) == found.found.within(LIMITS)
    assert ("model in float32" in str(found)) == (found.own is not None)
