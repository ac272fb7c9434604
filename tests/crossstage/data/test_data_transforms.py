"""Boxes stay on their objects, whatever a transform does to the pixels."""

import pytest
import torch
from torchvision.transforms.v2 import Compose

from crossstage.data.batch import Sample, bounding_boxes
from crossstage.data.transforms import (
    SHORT_EDGES,
    DetrAugmentation,
    RandomFlip,
    Resize,
    crop,
    flip,
    random_crop,
    resize,
    resized_size,
)
from crossstage.errors import InputError

# Two rectangles, told apart by their colour channel, on black: (channel, x0, y0, x1, y1).
RECTANGLES = [(0, 20, 30, 90, 70), (1, 110, 50, 150, 140)]
SMALL_DETR = DetrAugmentation(
    short_edges=(96, 128, 160), max_size=300, crop_short_edges=(100, 140), crop_size=(60, 120)
)


@pytest.fixture
def sample() -> Sample:
    pixels = torch.zeros((3, 150, 200), dtype=torch.uint8)
    for channel, x0, y0, x1, y1 in RECTANGLES:
        pixels[channel, y0:y1, x0:x1] = 255
    boxes = torch.tensor([rectangle[1:] for rectangle in RECTANGLES], dtype=torch.float32)
    return Sample(pixels, bounding_boxes(boxes, (150, 200)), torch.tensor([0, 1]), 5, (150, 200))


def extents(pixels: torch.Tensor, channel: int) -> list[int]:
    """The box of what is bright in a channel."""
    rows, columns = torch.nonzero(pixels[channel] >= 128, as_tuple=True)
    return [int(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def assert_boxes_on_objects(sample: Sample) -> None:
    """Labels are the colour channels; each visible rectangle has its box, to one pixel."""
    assert sample.pixels.dtype == torch.uint8 and sample.boxes.dtype == torch.float32
    assert sample.boxes.canvas_size == sample.size
    for label, box in zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True):
        if min(box[2] - box[0], box[3] - box[1]) > 2:  # a sliver may be darker than the threshold
            assert box == pytest.approx(extents(sample.pixels, label), abs=1.01)
    for channel in {0, 1} - set(sample.labels.tolist()):
        assert not (sample.pixels[channel] >= 128).any(), "an object without a box"


def test_flip_mirrors_and_twice_is_nothing(sample):
    flipped = flip(sample)
    assert_boxes_on_objects(flipped)
    assert flipped.boxes[0].tolist() == [110, 30, 180, 70]
    assert flip(flipped).pixels.equal(sample.pixels) and flip(flipped).boxes.equal(sample.boxes)


def test_random_flip_flips_as_often_as_asked(sample):
    torch.manual_seed(0)
    flipped = sum(RandomFlip(0.25)(sample).boxes[0, 0].item() == 110 for _ in range(400))
    assert 70 < flipped < 130
    assert RandomFlip(0)(sample) is sample


@pytest.mark.parametrize("short_edge", [75, 150, 300, 333])
def test_resize_keeps_boxes_on_objects(sample, short_edge):
    resized = resize(sample, short_edge=short_edge, max_size=None)
    assert min(resized.size) == short_edge
    assert_boxes_on_objects(resized)
    assert resized.original_size == (150, 200) and resized.image_id == 5


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((400, 2000), (267, 1333)),
        ((1600, 1600), (800, 800)),
        ((1, 5000), (1, 1333)),
    ],
)
def test_the_test_size_is_800_on_the_short_edge_or_1333_on_the_long_one(size, expected):
    assert resized_size(size, short_edge=800, max_size=1333) == expected


def test_resize_transform_is_resize(sample):
    assert Resize(75, 90)(sample).size == (68, 90)
    assert Resize(300, None)(sample).size == (300, 400)


def test_crop_clips_boxes_and_removes_those_outside_with_their_labels(sample):
    cut = crop(sample, top=40, left=100, height=60, width=100)
    assert cut.labels.tolist() == [1] and cut.boxes.tolist() == [[10, 10, 50, 60]] and cut.size == (60, 100)
    assert_boxes_on_objects(cut)
    touching = crop(sample, top=70, left=0, height=50, width=100)
    assert len(touching.labels) == 0 and touching.boxes.shape == (0, 4), "a box that only touches the window is empty"
    assert sample.boxes[0].tolist() == [20, 30, 90, 70], "the input is not changed"


def test_random_crop_has_sides_in_the_range_and_covers_the_image(sample):
    torch.manual_seed(0)
    crops = [random_crop(sample, least=50, largest=160) for _ in range(300)]
    heights, widths = zip(*(cut.size for cut in crops), strict=True)
    assert min(heights) >= 50 and max(heights) == 150, "no larger than the image"
    assert min(widths) < 60 and 150 < max(widths) <= 160
    for cut in crops:
        assert_boxes_on_objects(cut)


def test_detr_augmentation_keeps_boxes_on_objects_and_draws_from_all_sizes(sample):
    sizes, labels = set(), []
    for seed in range(150):
        torch.manual_seed(seed)
        augmented = SMALL_DETR(sample)
        assert_boxes_on_objects(augmented)
        sizes.add(min(augmented.size))
        labels.append(len(augmented.labels))
    assert {96, 128, 160} <= sizes
    assert 0.3 < sum(count < 2 for count in labels) / 150 + 0.25 < 0.9, "about half of the images are cropped"
    assert all(min(size, 300) in (96, 128, 160) or size < 160 for size in sizes)


def test_detr_augmentation_mirrors_half_of_the_images(sample):
    same_size = DetrAugmentation(short_edges=[150], crop_short_edges=[150], crop_size=(200, 200))
    torch.manual_seed(0)
    lefts = [same_size(sample).boxes[0, 0].item() for _ in range(200)]
    assert set(lefts) == {20, 110} and 70 < lefts.count(110) < 130


def test_detr_augmentation_never_exceeds_the_largest_size():
    pixels = torch.zeros((3, 50, 400), dtype=torch.uint8)
    wide = Sample(pixels, bounding_boxes(torch.zeros(0, 4), (50, 400)), torch.zeros(0, dtype=torch.int64), 1, (50, 400))
    torch.manual_seed(0)
    for _ in range(30):
        augmented = SMALL_DETR(wide)
        assert max(augmented.size) <= 300 and augmented.boxes.shape == (0, 4)


def test_one_seed_decides_all(sample):
    def draw(seed):
        torch.manual_seed(seed)
        return SMALL_DETR(sample)

    assert draw(1).pixels.equal(draw(1).pixels)
    assert len({draw(seed).size for seed in range(20)}) > 5


def test_one_value_scales_all_lengths_of_detrs_augmentation():
    scaled = DetrAugmentation(image_size=400)
    assert scaled.short_edges == tuple(round(edge / 2) for edge in SHORT_EDGES) and scaled.max_size == round(1333 / 2)
    assert scaled.crop_short_edges == (200, 250, 300) and scaled.crop_size == (192, 300)
    assert DetrAugmentation(image_size=None).short_edges == SHORT_EDGES
    assert DetrAugmentation(max_size=None, image_size=400).max_size is None


@pytest.mark.parametrize(
    ("arguments", "size"),  # of an image of 150 x 200
    [
        ({"image_size": 75}, (75, 100)),
        ({"short_edge": 100, "max_size": 120, "image_size": 200}, (180, 240)),
        ({"short_edge": None, "max_size": 512}, (150, 200)),
        ({"short_edge": None, "max_size": 100}, (75, 100)),
        ({"short_edge": None, "max_size": 100, "image_size": 300}, (300, 400)),
        ({"short_edge": 300, "max_size": None, "image_size": 75}, (75, 100)),
    ],
)
def test_resize_by_one_value(sample, arguments, size):
    assert Resize(**arguments)(sample).size == size


def test_torchvisions_compose_applies_one_after_the_other(sample):
    both = Compose([RandomFlip(1.0), Resize(75, None)])(sample)
    assert both.size == (75, 100) and both.boxes[0].tolist() == [55, 15, 90, 35]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Resize(image_size=0), "image_size=0: expected a whole number"),
        (lambda: DetrAugmentation(image_size=-1), "image_size=-1: expected a whole number"),
        (lambda: Resize(0), "short_edge=0: expected a whole number"),
        (lambda: DetrAugmentation(short_edges=[]), r"short_edges=\[\]: expected at least one"),
        (lambda: DetrAugmentation(crop_size=[600, 384]), r"crop_size=\[600, 384\]: expected \[least, largest\]"),
        (lambda: RandomFlip(50), "probability=50: expected a number from 0 to 1"),
    ],
)
def test_a_wrong_value_is_named(build, message):
    with pytest.raises(InputError, match=message):
        build()
