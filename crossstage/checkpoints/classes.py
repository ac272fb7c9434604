"""Selects the weights of some classes of a detector: the rows of these classes in every class head."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from crossstage.errors import InputError, near_names

_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO_CLASSES = tuple(_COCO.split(","))
"""COCO's 80 classes by class index, that is, in the order of ascending category ids."""


def class_indices(wanted: Iterable[str], names: Sequence[str]) -> list[int]:
    """Find classes by their names.

    Args:
        wanted: names of the classes to find.
        names: names of all classes, by class index.

    Returns:
        The class indices, in the order of `wanted`.

    Raises:
        InputError: if no class is wanted, or a name is unknown or given twice.
    """
    wanted, index = list(wanted), {name: position for position, name in enumerate(names)}
    if not wanted:
        raise InputError("no classes given; expected names such as person,car")
    if unknown := [f"{name} (near: {near_names(name, names)})" for name in wanted if name not in index]:
        raise InputError(f"not among the checkpoint's {len(names)} classes: {'; '.join(unknown)}")
    if repeated := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise InputError(f"classes given more than once: {', '.join(repeated)}")
    return [index[name] for name in wanted]


def class_axes(shapes: Mapping[str, Sequence[int]], with_one_more: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Find the tensors that have a class axis: an axis that is longer by one if the model has one class more.

    Args:
        shapes: the shapes in the state dict of a model.
        with_one_more: the shapes of the same model with one class more.

    Returns:
        The class axis of each such tensor, by name.

    Raises:
        InputError: if the shapes differ in any other way, so that the classes cannot be recognised.
    """
    axes: dict[str, int] = {}
    for name, shape in shapes.items():
        other = with_one_more.get(name, ())
        differing = [axis for axis, (size, more) in enumerate(zip(shape, other, strict=False)) if size != more]
        if len(other) != len(shape) or len(differing) > 1 or any(other[axis] != shape[axis] + 1 for axis in differing):
            raise InputError(
                f"{name}: {tuple(shape)} becomes {tuple(other)} with one class more; expected one row more"
            )
        axes.update((name, axis) for axis in differing)
    if not axes or shapes.keys() != with_one_more.keys():
        raise InputError("expected the same tensors with one class more, and at least one that runs over the classes")
    return axes


def select_classes(
    state: Mapping[str, Tensor], axes: Mapping[str, int], indices: Sequence[int], *, num_classes: int
) -> dict[str, Tensor]:
    """Keep only some classes of a state dict.

    An axis of K + E rows keeps its last E rows, such as the row for "no object" of a label embedding.

    Args:
        state: the weights by name.
        axes: the class axis of each tensor that has one.
        indices: the classes to keep, in the new order.
        num_classes: number of classes K in `state`.

    Returns:
        A new state dict; tensors without a class axis are unchanged.
    """
    selected = dict(state)
    for name, axis in axes.items():
        kept = [*indices, *range(num_classes, state[name].shape[axis])]
        selected[name] = state[name].index_select(axis, torch.tensor(kept))
    return selected


def rows_by_name(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    axes: Mapping[str, int],
    *,
    theirs: Sequence[str],
    ours: Sequence[str],
) -> dict[str, Tensor]:
    """Take over the rows of those classes that both models have.

    Args:
        state: the weights of the other model, by name.
        expected: the state dict of our model; classes that the other model lacks keep these values.
        axes: the class axis of each tensor that has one. An axis of K + E rows ends with E rows for no class, such as
            the row for "no object" of a label embedding; these are taken over.
        theirs: the classes of the other model, by class index; all different.
        ours: our classes, by class index; all different.

    Returns:
        A new state dict. Tensors without a class axis, or with another number of rows than `theirs` says, are
        unchanged.
    """
    fitted = dict(state)
    shared = [name for name in ours if name in theirs]
    for name, axis in axes.items():
        extra = expected[name].shape[axis] - len(ours)
        if name not in state or state[name].shape[axis] != len(theirs) + extra:
            continue
        source, target = (
            torch.tensor([*map(names.index, shared), *range(len(names), len(names) + extra)], dtype=torch.int64)
            for names in (list(theirs), list(ours))
        )
        rows = state[name].index_select(axis, source).to(expected[name])
        fitted[name] = expected[name].detach().index_copy(axis, target.to(rows.device), rows)
    return fitted
