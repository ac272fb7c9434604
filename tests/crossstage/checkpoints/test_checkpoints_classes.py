"""Classes are cut from a detector's weights by name, wherever a model keeps them."""

from functools import cache

import pytest
import torch
from torch import Tensor

from crossstage.checkpoints.classes import COCO_CLASSES, class_axes, class_indices, rows_by_name, select_classes
from crossstage.config import LazyConfig, instantiate
from crossstage.errors import InputError
from tests.foreign_names import PROJECTS


@cache
def state_of(config_file: str, num_classes: int) -> dict[str, Tensor]:
    """On meta, of the config's model with so many classes."""
    node = LazyConfig.load(str(PROJECTS / config_file)).model
    node.backbone.pretrained, node.num_classes = False, num_classes
    with torch.device("meta"):
        return instantiate(node).state_dict()


def axes_of(config_file: str) -> dict[str, int]:
    states = [state_of(config_file, num_classes) for num_classes in (80, 81)]
    return class_axes(*({name: tensor.shape for name, tensor in state.items()} for state in states))


@pytest.mark.parametrize(
    ("config_file", "tensors"),
    [
        ("dino/configs/dino_r50_4scale_12ep.py", 15),  # weights and biases of 6 stages and the encoder, label embedding
        ("dn_detr/configs/dn_detr_r50_50ep.py", 3),  # one shared head; the embedding has a row for "no object"
    ],
)
def test_the_tensors_with_classes_are_found_and_the_rest_fits_the_smaller_model(config_file: str, tensors: int):
    axes = axes_of(config_file)
    assert len(axes) == tensors and set(axes.values()) == {0}
    smaller = state_of(config_file, 3)
    cut = select_classes(
        {name: torch.empty(tensor.shape) for name, tensor in state_of(config_file, 80).items() if name in axes},
        axes,
        [4, 0, 79],
        num_classes=80,
    )
    assert {name: tensor.shape for name, tensor in cut.items()} == {name: smaller[name].shape for name in axes}


def test_rows_come_in_the_given_order_and_rows_beyond_the_classes_stay_last():
    state = {"weight": torch.arange(8.0).view(4, 2), "embed": torch.arange(5.0), "other": torch.arange(4.0)}
    cut = select_classes(state, {"weight": 0, "embed": 0}, [3, 1], num_classes=4)
    assert cut["weight"].tolist() == [[6, 7], [2, 3]]
    assert cut["embed"].tolist() == [3, 1, 4]
    assert cut["other"] is state["other"]
    turned = select_classes({"weight": state["weight"].T}, {"weight": 1}, [2], num_classes=4)
    assert turned["weight"].tolist() == [[4], [5]]


@pytest.mark.parametrize(
    "more", [{"a": (2, 6)}, {"a": (3, 7)}, {"a": (2, 5)}, {"a": (2, 5, 1)}, {"a": (2, 6), "b": (1,)}, {}]
)
def test_only_one_axis_may_grow_by_one(more: dict[str, tuple[int, ...]]):
    shapes = {"a": (2, 5)}
    if more == {"a": (2, 6)}:
        assert class_axes(shapes, more) == {"a": 1}
    else:
        with pytest.raises(InputError, match="one class more"):
            class_axes(shapes, more)


def test_cocos_classes_are_its_eighty_by_ascending_category():
    assert len(set(COCO_CLASSES)) == len(COCO_CLASSES) == 80
    # index from COCO's category id: the eleven left-out ids are 12, 26, 29, 30, 45, 66, 68, 69, 71, 83 and 91
    by_id = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    ids = {"person": 1, "fire hydrant": 11, "stop sign": 13, "backpack": 27, "tie": 32, "wine glass": 46, "toilet": 70}
    ids |= {"dining table": 67, "tv": 72, "refrigerator": 82, "book": 84, "toothbrush": 90}
    assert {name: by_id[COCO_CLASSES.index(name)] for name in ids} == ids


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["person", "trafic light", "xyzzy"], r"not among .* 80 classes: trafic light \(near: traffic light"),
        (["xyzzy"], r"xyzzy \(near: none\)"),
        (["Person"], r"Person \(near: person"),
        (["car", "dog", "car"], "given more than once: car"),
        ([], "no classes given"),
    ],
)
def test_wrong_names_are_answered_with_near_ones(wanted: list[str], message: str):
    with pytest.raises(InputError, match=message):
        class_indices(wanted, COCO_CLASSES)


def test_names_become_indices_in_the_order_asked_for():
    assert class_indices(["toothbrush", "person", "car"], COCO_CLASSES) == [79, 0, 2]


ROWS = {  # their classes, our classes, expected rows of ours: their row, or None for our initialisation
    "another order": (["a", "b", "c"], ["c", "a", "b"], [2, 0, 1]),
    "fewer": (["a", "b", "c"], ["c"], [2]),
    "more": (["a", "b"], ["b", "x", "a"], [1, None, 0]),
    "as many, others": (["a", "b"], ["x", "y"], [None, None]),
}


@pytest.mark.parametrize("case", ROWS)
def test_each_class_gets_the_rows_of_its_name(case: str):
    theirs, ours, rows = ROWS[case]
    state = {
        "head": torch.arange(2.0 * len(theirs)).view(-1, 2),
        "embed": torch.arange(len(theirs) + 1.0),
        "x": torch.ones(3),
    }
    expected = {"head": -torch.ones(len(ours), 2), "embed": -torch.ones(len(ours) + 1), "x": torch.zeros(3)}
    fitted = rows_by_name(state, expected, {"head": 0, "embed": 0}, theirs=theirs, ours=ours)
    for position, row in enumerate(rows):
        assert fitted["head"][position].tolist() == ([-1, -1] if row is None else state["head"][row].tolist())
        assert fitted["embed"][position] == (-1 if row is None else row)
    assert fitted["embed"][-1] == len(theirs), "the row for no object"
    assert fitted["x"] is state["x"] and (expected["head"] == -1).all()


def test_tensors_whose_rows_are_not_those_of_the_names_stay():
    state, expected = {"head": torch.zeros(91)}, {"head": torch.ones(2)}
    assert rows_by_name(state, expected, {"head": 0}, theirs=["a", "b"], ours=["b", "a"])["head"] is state["head"]
