"""Detecting from Python: kinds of images, batches, forms of the result."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import crossstage
from crossstage.data.pixels import read_image
from crossstage.errors import InputError
from crossstage.inference.pictures import HELD, as_sample, in_batches, pixels_of
from crossstage.structures import Detections, ImageBatch
from tests.tiny_run import NAMES


class Recorder(nn.Module):
    """Finds in each image one box as large as the image, whose label is the red of its first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, batch: ImageBatch) -> list[Detections]:
        self.shapes.append(tuple(batch.pixels.shape))
        boxes = [torch.tensor([[0.0, 0.0, width, height]]) for height, width in batch.original_sizes]
        scores, labels = torch.tensor([0.5]), batch.pixels[:, 0, :1, 0].long()
        return [Detections(box, scores, label) for box, label in zip(boxes, labels, strict=True)]


@pytest.fixture(scope="module")
def predictor(run_folder):
    return crossstage.load(run_folder, device="cpu")


@pytest.fixture
def recording(predictor):
    return replace(predictor, model=Recorder())


def image(height: int, width: int, value: int = 0) -> torch.Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def test_every_kind_of_image_gives_the_same_detections(predictor, photo):
    pixels = read_image(photo)
    kinds = [photo, str(photo), Image.open(photo), np.asarray(Image.open(photo)), pixels]
    expected = predictor.predict(photo, threshold=0.0)
    assert len(expected) == 12 and expected.scores.diff().le(0).all() and expected.class_names == NAMES
    assert expected.boxes_xyxy.max() <= 64 and not expected.scores.requires_grad
    found = [predictor.predict(kind, threshold=0.0) for kind in kinds] + predictor.predict(tuple(kinds), threshold=0.0)
    for one in found:
        torch.testing.assert_close(one.boxes_xyxy, expected.boxes_xyxy)
        assert one.labels.equal(expected.labels)
    mirrored = predictor.predict(np.asarray(Image.open(photo))[:, ::-1], threshold=0.0)  # strides below 0
    assert not mirrored.scores.equal(expected.scores)


def test_what_is_found_does_not_depend_on_the_other_images(predictor, photo):
    images = [photo, image(64, 64, 9), read_image(photo).flip(-1), image(64, 64, 200), image(32, 96, 70)]
    together = predictor.predict(images, threshold=0.0)
    for one, found in zip(images, together, strict=True):
        alone = predictor.predict(one, threshold=0.0)
        torch.testing.assert_close(found.scores, alone.scores)
        torch.testing.assert_close(found.boxes_xyxy, alone.boxes_xyxy, atol=1e-3, rtol=0)


def test_images_of_one_size_share_batches_and_the_order_stays(recording):
    sizes = [(8, 8), (8, 6), (8, 8), (8, 6), (8, 8), (8, 8), (4, 4)]
    images = (image(*size, value) for value, size in enumerate(sizes))  # a generator, as a video is
    found = recording.predict(images, batch=3)
    assert [one.labels.tolist() for one in found] == [[value] for value in range(7)]
    assert [tuple(one.boxes_xyxy[0].tolist()) for one in found] == [(0, 0, width, height) for height, width in sizes]
    shapes = recording.model.shapes
    assert sorted(shapes) == [(1, 3, 4, 4), (1, 3, 8, 8), (2, 3, 8, 6), (3, 3, 8, 8)]


def test_few_images_wait_for_others_of_their_size():
    drawn = 0

    def many():
        nonlocal drawn
        for side in range(1, 101):
            drawn += 1
            yield as_sample(image(side, side))

    batches = in_batches(many(), 2)
    next(batches)
    assert drawn == HELD * 2
    assert sum(len(batch) for batch in batches) == 99


def test_images_are_padded_as_in_evaluation(recording):
    replace(recording, size_divisor=32).predict(image(8, 33))
    assert recording.model.shapes == [(1, 3, 32, 64)]


def test_the_threshold_keeps_scores_that_reach_it(recording):
    assert len(recording.predict(image(4, 4), threshold=0.5)) == 1
    assert len(recording.predict(image(4, 4), threshold=0.51)) == 0
    assert recording.predict([]) == []


@pytest.mark.parametrize(
    ("mode", "value"), [("L", 128), ("I;16", 128 * 257), ("I", 128 * 257), ("F", 128 / 255), ("RGB", (128, 128, 128))]
)
def test_pillows_images_of_any_depth_are_read_by_their_range(mode, value):
    given = Image.new(mode, (5, 4), value)
    assert pixels_of(given, "image").unique().tolist() == [128]


BAD = {
    "a float array": (np.zeros((4, 4, 3)), r"images\[0\] is an array of float64 \[4, 4, 3\]; expected .* uint8"),
    "a grey array": (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]; expected an array of uint8 \[H, W, 3\], RGB"),
    "an array of tensors": (np.zeros((3, 4, 5), np.uint8), r"uint8 \[3, 4, 5\]"),
    "a batch": (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"give several images as a list"),
    "a float tensor": (torch.zeros(3, 4, 4), r"a tensor of torch.float32 \[3, 4, 4\]; expected a tensor of uint8"),
    "an empty tensor": (torch.zeros(3, 0, 4, dtype=torch.uint8), r"\[3, 0, 4\]"),
    "nothing, as OpenCV returns": (None, "images is NoneType; expected an image, or a list of images"),
    "an empty image": (Image.new("RGB", (0, 4)), r"images\[0\] is Image; expected"),
    "an image of unknown range": (Image.new("F", (4, 4), -1), r"images\[0\]: has values from -1 to -1"),
    "a number": ([5], r"images\[0\] is int; expected a path"),
    "no file": ("lost.png", "lost.png: no such image file"),
}


@pytest.mark.parametrize("case", BAD)
def test_another_kind_of_image_is_refused(recording, case):
    given, message = BAD[case]
    with pytest.raises(InputError, match=message):
        recording.predict(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threshold": 30}, "threshold=30: expected"), ({"batch": 0}, "batch=0: expected at least")],
)
def test_an_impossible_number_is_refused(recording, options, message):
    with pytest.raises(InputError, match=message):
        recording.predict(image(4, 4), **options)


FOUND = Detections(
    torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 1.0, 1.0]]),
    torch.tensor([0.75, 0.5]),
    torch.tensor([1, 0]),
    class_names=("cat", "dog"),
    category_ids=(7, 9),
)


def test_detections_as_coco_results():
    assert FOUND.to_coco(42) == [
        {"image_id": 42, "category_id": 9, "bbox": [1, 2, 3, 6], "score": 0.75},
        {"image_id": 42, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 0.5},
    ]
    with pytest.raises(InputError, match="the category ids of the classes 1 are not known"):
        replace(FOUND, category_ids=(7, None)).to_coco(42)
    with pytest.raises(InputError, match="classes 0, 1 are not known"):
        replace(FOUND, category_ids=()).to_coco(42)


def test_classes_have_names_or_numbers():
    assert FOUND.names == ["dog", "cat"]
    assert replace(FOUND, class_names=("cat",)).names == ["1", "cat"]
    assert FOUND.reaching(0.6).names == ["dog"] and FOUND.to("cpu").class_names == ("cat", "dog")


def test_detections_for_supervision():
    pytest.importorskip("supervision", reason="the extra 'convert' is not installed")
    found = FOUND.to_supervision()
    assert found.xyxy.tolist() == FOUND.boxes_xyxy.tolist() and found.class_id.tolist() == [1, 0]
    assert found.confidence.tolist() == [0.75, 0.5] and found.data["class_name"].tolist() == ["dog", "cat"]
    assert len(FOUND.reaching(1.0).to_supervision()) == 0


def test_without_supervision_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match=r"pip install 'crossstage\[convert\]'"):
        FOUND.to_supervision()
