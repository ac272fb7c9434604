"""The values of the data flow: they check what is cheap to check, move as a whole and never change in place."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.structures import (
    GroupOutputs,
    ImageBatch,
    Levels,
    PaddedTargets,
    QueryGroup,
    StageOutputs,
    Target,
)


@pytest.mark.parametrize(
    ("labels", "boxes", "complaint"),
    [
        (torch.zeros(2, dtype=torch.int64), torch.zeros(3, 4), r"got \(2,\) and \(3, 4\)"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2, 5), r"boxes \[T, 4\]"),
        (torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 4), r"labels \[T\]"),
        (torch.zeros(2), torch.zeros(2, 4), "int64, got torch.float32"),
        (torch.zeros(2, dtype=torch.int32), torch.zeros(2, 4), "int64, got torch.int32"),
    ],
)
def test_a_target_says_what_is_wrong_with_its_shapes(labels, boxes, complaint):
    with pytest.raises(ValueError, match=complaint):
        Target(labels, boxes)


def test_targets_are_padded_to_the_largest_image():
    first = Target(torch.tensor([3, 1]), torch.rand(2, 4))
    second = Target(torch.tensor([2]), torch.rand(1, 4))
    padded = PaddedTargets.of([first, second])
    assert padded.labels.tolist() == [[3, 1], [2, 0]]
    assert padded.valid.tolist() == [[True, True], [True, False]]
    assert padded.boxes[1, 0].equal(second.boxes[0])
    assert padded.boxes[1, 1].tolist() == [0, 0, 0, 0]
    assert padded.counts == (2, 1)
    assert padded.num_objects == 3


def test_images_without_objects_still_pad_to_three_tensors():
    empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    padded = PaddedTargets.of([empty, empty])
    assert (padded.labels.shape, padded.boxes.shape, padded.valid.shape) == ((2, 0), (2, 0, 4), (2, 0))
    assert padded.num_objects == 0


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        PaddedTargets.of([])


def test_moving_to_a_dtype_leaves_integers_and_masks_alone():
    target = Target(torch.tensor([1]), torch.rand(1, 4))
    batch = ImageBatch(
        pixels=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        mask=torch.zeros(1, 8, 8, dtype=torch.bool),
        sizes=((8, 8),),
        original_sizes=((16, 16),),
        targets=(target,),
    )
    moved = batch.to(dtype=torch.float64)
    assert moved.pixels.dtype == torch.uint8
    assert moved.mask.dtype == torch.bool
    assert moved.targets[0].labels.dtype == torch.int64
    assert moved.targets[0].boxes.dtype == torch.float64
    assert moved.original_sizes == ((16, 16),)
    assert target.boxes.dtype == torch.float32


def test_moving_reaches_values_inside_values():
    levels = Levels.of([(2, 3)], like=torch.zeros(1))
    memory = unpadded_memory(torch.zeros(1, 6, 4), levels).to("meta")
    assert memory.tokens.device.type == memory.levels.sizes.device.type == memory.levels.starts.device.type == "meta"
    outputs = GroupOutputs(QueryGroup("matching", 2), StageOutputs(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 4)))
    assert outputs.to("meta").outputs.boxes.device.type == "meta"
    assert outputs.outputs.boxes.device.type == "cpu"


def test_values_are_frozen():
    with pytest.raises(FrozenInstanceError):
        QueryGroup("matching", 2).size = 3


def test_levels_know_sizes_and_first_tokens():
    levels = Levels.of([(4, 6), (2, 3), (1, 2)], like=torch.zeros(1, dtype=torch.float64))
    assert levels.tokens == (24, 6, 2)
    assert levels.starts.tolist() == [0, 24, 30]
    assert levels.sizes.tolist() == [[6, 4], [3, 2], [2, 1]]
    assert levels.sizes.dtype == torch.float64


def test_splitting_cuts_the_query_axis_and_keeps_what_is_absent_absent():
    outputs = StageOutputs(torch.rand(3, 2, 5, 7), torch.rand(3, 2, 5, 4), references=torch.rand(3, 2, 5, 2))
    first, nothing, rest = outputs.split([2, 0, 3])
    assert first.logits.equal(outputs.logits[:, :, :2])
    assert nothing.boxes.shape == (3, 2, 0, 4)
    assert rest.references.equal(outputs.references[:, :, 2:])
    assert rest.states is None
    assert rest.num_stages == 3


def test_stages_have_numbers_or_names_and_the_last_one_has_no_suffix():
    logits, boxes = torch.rand(3, 2, 5, 7), torch.rand(3, 2, 5, 4)
    numbered, named = StageOutputs(logits, boxes), StageOutputs(logits, boxes, names=("init", "init1", "iter6"))
    assert [numbered.suffix(stage) for stage in range(3)] == ["_0", "_1", ""]
    assert [named.suffix(stage) for stage in range(3)] == ["_init", "_init1", ""]
    assert [part.names for part in named.split([2, 3])] == [named.names, named.names]
    assert named.to("meta").names == named.names
    for names in (("init", "init1"), ("init", "init", "iter6")):
        with pytest.raises(ValueError, match=r"StageOutputs.names=.*; expected 3 different names, or none"):
            StageOutputs(logits, boxes, names=names)
