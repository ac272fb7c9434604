"""A detector's weights for some of its classes: rows of every class head, by the classes' names."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from crossstage.errors import InputError

_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO_CLASSES = tuple(_COCO.split(","))
"""COCO's 80 by class index: ascending category id, without the eleven ids that COCO leaves out."""


def class_indices(wanted: Iterable[str], names: Sequence[str]) -> list[int]:
    """The indices in `names` of the `wanted`, in their order. Raises InputError for none, unknown and repeated ones."""
    wanted, index = list(wanted), {name: position for position, name in enumerate(names)}
    if not wanted:
        raise InputError("no classes given; expected names such as person,car")
    if unknown := [f"{name} (near: {_near(name, names)})" for name in wanted if name not in index]:
        raise InputError(f"not among the checkpoint's {len(names)} classes: {'; '.join(unknown)}")
    if repeated := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise InputError(f"classes given more than once: {', '.join(repeated)}")
    return [index[name] for name in wanted]


def _near(name: str, names: Sequence[str]) -> str:
    lower = {known.lower(): known for known in names}
    return ", ".join(lower[near] for near in difflib.get_close_matches(name.lower(), lower, cutoff=0.5)) or "none"


def class_axes(shapes: Mapping[str, Sequence[int]], with_one_more: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Which axis of which tensor runs over the classes.

    shapes: of a model's state dict.  with_one_more: of the same model with one class more. A tensor carries classes
    where one axis is longer by one. Raises InputError where the two differ otherwise: the classes cannot be told apart.
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
    """Keep the classes `indices`, in this order, of every tensor in `axes`; the others stay as they are.

    num_classes: K, of `state`. An axis of K + E classes keeps its last E rows, such as the "no object" of a label
    embedding.
    """
    selected = dict(state)
    for name, axis in axes.items():
        kept = [*indices, *range(num_classes, state[name].shape[axis])]
        selected[name] = state[name].index_select(axis, torch.tensor(kept))
    return selected
