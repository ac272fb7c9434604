"""From scores and boxes to detections in the pixels of the original image."""

import pytest
import torch

from detrkit.modeling.postprocess import TopK, best_pairs
from detrkit.structures import ImageBatch, StageOutputs
from tests.random_scenes import predictions


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
