"""From scores and boxes to detections in the pixels of the original image."""

import pytest
import torch

from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.errors import InputError
from crossstage.layers.boxes import box_iou, cxcywh_to_xyxy
from crossstage.modeling.postprocess import TopK, best_pairs, suppress
from crossstage.structures import ImageBatch, StageOutputs
from tests.random_scenes import boxes_inside, predictions


def batch_of(*original_sizes: tuple[int, int]) -> ImageBatch:
    """Network inputs of 8x8 pixels, whatever the images' sizes."""
    count = len(original_sizes)
    return ImageBatch(
        pixels=torch.zeros(count, 3, 8, 8, dtype=torch.uint8),
        mask=torch.zeros(count, 8, 8, dtype=torch.bool),
        sizes=((8, 8),) * count,
        original_sizes=original_sizes,
    )


def outputs_of(boxes: list[list[float]], logits: list[list[float]]) -> StageOutputs:
    return StageOutputs(torch.tensor(logits)[None, None], torch.tensor(boxes)[None, None])


def test_boxes_are_scaled_to_the_original_image_and_clipped_to_it():
    boxes = [[0.5, 0.5, 0.5, 0.5], [0.0, 0.5, 0.5, 0.5], [1.0, 1.0, 0.5, 3.0]]
    (found,) = TopK(9)(outputs_of(boxes, [[3.0], [2.0], [1.0]]), batch_of((100, 200)))
    assert found.boxes_xyxy.tolist() == [[50, 25, 150, 75], [0, 25, 50, 75], [150, 0, 200, 100]]
    assert found.scores.tolist() == pytest.approx(torch.tensor([3.0, 2.0, 1.0]).sigmoid().tolist())


@pytest.mark.parametrize(
    "box",
    [[0.5, 0.5, 0.0, 0.5], [0.5, 0.5, 0.5, 0.0], [-0.5, 0.5, 0.2, 0.2], [0.5, 1.5, 0.2, 0.2], [0.5, 0.5, -0.1, 0.1]],
    ids=["no width", "no height", "left of the image", "below it", "inverted"],
)
def test_boxes_that_are_empty_in_the_image_are_dropped(box):
    (found,) = TopK(9)(outputs_of([box, [0.5, 0.5, 0.5, 0.5]], [[5.0], [1.0]]), batch_of((100, 100)))
    assert found.boxes_xyxy.tolist() == [[25, 25, 75, 75]]
    assert len(found) == len(found.labels) == 1


def test_a_query_may_be_detected_as_several_classes():
    scores, labels, boxes = best_pairs(torch.tensor([[[1.0, 3.0, 0.0], [2.0, -1.0, -2.0]]]), torch.rand(1, 2, 4), 4)
    assert labels.tolist() == [[1, 0, 0, 2]]
    assert boxes[0, 0].equal(boxes[0, 2])
    assert not boxes[0, 0].equal(boxes[0, 1])
    assert scores.diff(dim=1).le(0).all()


@pytest.mark.parametrize(("asked", "given"), [(5, 5), (56, 56), (300, 56)])
def test_no_more_than_asked_for_and_no_more_than_there_are(asked, given):
    found = TopK(asked)(predictions(2, 3, 7), batch_of((10, 20), (30, 40), (5, 5)))
    assert [len(image) for image in found] == [given] * 3
    for image in found:
        assert image.scores.diff().le(0).all()
        assert image.labels.dtype == torch.int64


def test_the_last_stage_is_what_counts():
    outputs = predictions(3, 1, 7)
    last = StageOutputs(outputs.logits[-1:], outputs.boxes[-1:])
    (ours,), (theirs,) = (TopK(5)(part, batch_of((10, 20))) for part in (outputs, last))
    assert ours.boxes_xyxy.equal(theirs.boxes_xyxy)


def test_without_clipping_boxes_stay_as_they_were_predicted():
    boxes = [[0.0, 0.5, 0.5, 0.5], [-0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.0, 0.5]]
    (found,) = TopK(9, clip=False)(outputs_of(boxes, [[3.0], [2.0], [1.0]]), batch_of((100, 200)))
    expected = [[-50, 25, 50, 75], [-120, 40, -80, 60], [100, 25, 100, 75]]
    torch.testing.assert_close(found.boxes_xyxy, torch.tensor(expected, dtype=torch.float32))


def one_after_the_other(boxes_xyxy: torch.Tensor, labels: torch.Tensor, threshold: float) -> list[int]:
    """Non-maximum suppression in its first words: take the best, drop what overlaps it too much, go on."""
    taken: list[int] = []
    for index in range(len(labels)):
        rivals = [other for other in taken if labels[other] == labels[index]]
        if all(box_iou(boxes_xyxy[other], boxes_xyxy[index], eps=1e-12) <= threshold for other in rivals):
            taken.append(index)
    return taken


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("distinct", [1, 12, 60])
def test_suppression_is_that_of_one_box_after_the_other(threshold: float, distinct: int):
    """distinct: boxes, of 60; the others are equal to one of them."""
    places = boxes_inside(distinct)[torch.randint(0, distinct, (60,))] * 0.5
    boxes, labels = cxcywh_to_xyxy(places), torch.randint(0, 3, (60,))
    kept = suppress(boxes, labels, threshold)
    assert kept.nonzero().flatten().tolist() == one_after_the_other(boxes, labels, threshold)


def test_a_suppressed_box_suppresses_none_along_a_chain():
    left = torch.arange(9.0)
    chain = torch.stack(
        [left, left * 0, left + 4, left * 0 + 4], dim=-1
    )  # IoU with the next 3 / 5, with its next 1 / 3
    assert suppress(chain, torch.zeros(9), 0.5).tolist() == [True, False] * 4 + [True]
    assert suppress(chain, torch.arange(9), 0.5).all()
    assert suppress(chain[:0], torch.zeros(0), 0.5).tolist() == []


def test_suppression_at_the_threshold_keeps_both_and_the_best_goes_first():
    boxes = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.25], [0.5, 0.5, 0.5, 0.375]]  # IoU with the first: 1 / 2, 3 / 4
    outputs = outputs_of(boxes, [[1.0, -9.0], [2.0, -9.0], [3.0, 0.5]])
    (found,) = TopK(6, clip=False, nms_threshold=0.7)(outputs, batch_of((8, 8)))
    assert found.boxes_xyxy[:2].tolist() == [[2, 2.5, 6, 5.5], [2, 3, 6, 5]]
    assert found.labels.tolist() == [0, 0, 1, 1]
    (loose,) = TopK(6, clip=False, nms_threshold=0.75)(outputs, batch_of((8, 8)))
    assert len(loose) == 6


def test_only_chosen_classes_are_detected_and_the_number_of_detections_is_of_these():
    logits = [[5.0, 1.0, -3.0], [4.0, 0.5, 2.0]]
    outputs = outputs_of([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.25, 0.25]], logits)
    (found,) = TopK(2, classes=[2, 1])(outputs, batch_of((8, 8)))
    assert found.labels.tolist() == [2, 1], "class 0 has the highest scores and takes no place"
    assert found.boxes_xyxy.tolist() == [[3, 3, 5, 5], [2, 2, 6, 6]]
    assert found.scores.tolist() == pytest.approx(torch.tensor([2.0, 1.0]).sigmoid().tolist())
    every, same = TopK(6), TopK(6, classes=[0, 1, 2])
    (one,), (other,) = every(outputs, batch_of((8, 8))), same(outputs, batch_of((8, 8)))
    assert one.labels.equal(other.labels) and one.boxes_xyxy.equal(other.boxes_xyxy)
    assert not same.state_dict(), "the choice of classes is no weight"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_select": 0}, "num_select=0: expected at least 1"),
        ({"nms_threshold": 1.5}, "nms_threshold=1.5: expected an IoU"),
        ({"classes": []}, "expected at least one class index"),
        ({"classes": [1, 1]}, "none twice"),
        ({"classes": [-1]}, "at least one class index"),
        ({"classes": [0, "cat"]}, "class names are not known, so that cat cannot be found"),
    ],
)
def test_an_impossible_value_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        TopK(**options)


def test_a_class_that_the_model_does_not_have_is_refused():
    with pytest.raises(InputError, match="the model has no class 3; expected 0 to 1"):
        TopK(classes=[0, 3])(outputs_of([[0.5, 0.5, 0.5, 0.5]], [[1.0, 2.0]]), batch_of((8, 8)))


@pytest.mark.parametrize("name", ["dino_toy", "dn_detr_toy", "stage_interactor_toy", "deqdet_toy"])
def test_every_kind_of_detector_takes_these_options(name: str):
    node = LazyConfig.load(find_config(name)).model.postprocess
    assert {"num_select", "nms_threshold", "classes"} <= set(node), "without a + on the command line"
    built = instantiate({**node, "num_select": 3, "nms_threshold": 0.5, "classes": [1]})
    assert (built.num_select, built.nms_threshold, built.classes.tolist()) == (3, 0.5, [1])
