"""A foreign checkpoint's names and shapes against those of a detector built from its config, on no memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from crossstage.checkpoints.names import NameTable
from crossstage.config import LazyConfig, instantiate

PROJECTS = Path(__file__).resolve().parents[1] / "projects"


def foreign_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a text file lists, aliases included.

    "= FILE" begins with the list of another file, "- PREFIX" takes names away, a name that is there changes its shape.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in (line.split() for line in path.read_text().splitlines()):
        if name == "=":
            shapes |= foreign_shapes(path.with_name(value))
        elif name == "-":
            shapes = {known: shape for known, shape in shapes.items() if not known.startswith(value)}
        else:
            shapes[name] = tuple(int(side) for side in value.split("x"))
    return shapes


def detector_and_table(config_file: str) -> tuple[nn.Module, NameTable]:
    """The detector of `projects/<config_file>` on meta, and the table that its `train.checkpoint_names` builds."""
    config = LazyConfig.load(str(PROJECTS / config_file))
    config.model.backbone.pretrained = False
    with torch.device("meta"):
        return instantiate(config.model), instantiate(config.train.checkpoint_names)


def reached_names(detector: nn.Module, table: NameTable, foreign: dict[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """Each of our names with the foreign ones that lead to it. Fails for a name or shape that does not fit, and for
    one of ours that does not lead back to exactly those; what is derived has to come back too."""
    state = detector.state_dict()
    ours = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert {name: tuple(tensor.shape) for name, tensor in table.to_foreign(state).items()} == foreign
    reached: dict[str, list[str]] = {name: [] for name in ours}
    for name, shape in foreign.items():
        if table.is_left_out(name):
            continue
        native = table.native_name(name)
        assert native in ours, name
        assert ours[native] == shape, name
        reached[native].append(name)
    for name, theirs in reached.items():
        assert sorted(table.foreign_names(name)) == sorted(theirs), name
    return reached


def parameter_counts(detector: nn.Module) -> tuple[int, int]:
    """Parameters, shared ones once: all, and those that learn."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in detector.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
