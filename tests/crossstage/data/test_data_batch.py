"""Padding, mask and normalised targets."""

import pytest
import torch

from crossstage.data.batch import Sample, bounding_boxes, collate


def make_sample(height: int, width: int, boxes: list[list[float]], image_id: int = 1) -> Sample:
    pixels = torch.full((3, height, width), 7, dtype=torch.uint8)
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.arange(len(boxes))
    return Sample(pixels, bounding_boxes(corners, (height, width)), labels, image_id, (2 * height, 2 * width))


def test_images_are_padded_at_the_bottom_and_right():
    batch = collate([make_sample(4, 6, [], 11), make_sample(8, 3, [], 12)])
    assert batch.pixels.shape == (2, 3, 8, 6) and batch.pixels.dtype == torch.uint8 and batch.mask.dtype == torch.bool
    assert (batch.pixels[0, :, :4, :6] == 7).all() and (batch.pixels[1, :, :8, :3] == 7).all()
    assert (batch.pixels.bool().any(dim=1) == ~batch.mask).all(), "the mask is True where nothing but padding is"
    assert batch.sizes == ((4, 6), (8, 3)) and batch.original_sizes == ((8, 12), (16, 6))
    assert batch.image_ids == (11, 12) and len(batch) == 2


def test_targets_are_normalised_by_the_size_before_padding():
    batch = collate([make_sample(100, 50, [[0, 0, 50, 100], [10, 20, 20, 60]]), make_sample(400, 400, [])])
    assert batch.targets[0].boxes.tolist() == [pytest.approx([0.5, 0.5, 1, 1]), pytest.approx([0.3, 0.4, 0.2, 0.4])]
    assert batch.targets[0].labels.tolist() == [0, 1]
    assert type(batch.targets[0].boxes) is torch.Tensor and batch.targets[0].boxes.dtype == torch.float32
    assert batch.targets[1].boxes.shape == (0, 4) and batch.targets[1].labels.dtype == torch.int64


def test_padded_sizes_are_multiples_of_the_divisor():
    batch = collate([make_sample(33, 64, [])], size_divisor=32)
    assert batch.pixels.shape == (1, 3, 64, 64) and batch.sizes == ((33, 64),)
    assert batch.mask[0].sum() == 31 * 64


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        collate([])
