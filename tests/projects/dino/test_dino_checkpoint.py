"""detrex's DINO and ours are the same tensors under two names, and our own names stay as they are."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from detrkit.config import LazyConfig, instantiate
from detrkit.modeling.pretrained import NameTable
from projects.dino.checkpoint import detrex_dino_names
from tests.random_scenes import MODELS, image_batch, tiny_dino, tiny_dino_node

DATA = Path(__file__).parent / "data"


def detrex_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of detrex's dino_r50_4scale_12ep, aliases included."""
    lines = (line.split() for line in (DATA / "detrex_dino_r50_4scale_12ep.txt").read_text().splitlines())
    return {name: tuple(int(side) for side in shape.split("x")) for name, shape in lines}


@pytest.fixture(scope="module")
def dino_r50() -> nn.Module:
    node = LazyConfig.load(str(MODELS / "dino_r50.py")).model
    node.backbone.pretrained = False
    with torch.device("meta"):
        return instantiate(node)


@pytest.fixture
def table() -> NameTable:
    return detrex_dino_names()


def test_every_name_of_detrex_is_one_of_ours_with_the_same_shape(dino_r50, table):
    ours = {name: tuple(tensor.shape) for name, tensor in dino_r50.state_dict().items()}
    reached = {}
    for name, shape in detrex_shapes().items():
        native = table.native_name(name)
        assert native in ours, name
        assert ours[native] == shape, name
        reached.setdefault(native, []).append(name)
    assert set(reached) == set(ours)
    aliased = {native for native, names in reached.items() if len(names) > 1}
    assert all(len(names) <= 2 for names in reached.values())
    assert aliased == {name for name in ours if "class_head" in name or "box_head" in name}


def test_every_name_of_ours_gives_back_all_of_detrexs(dino_r50, table):
    found = [theirs for name in dino_r50.state_dict() for theirs in table.foreign_names(name)]
    assert len(found) == len(set(found)) == 634
    assert set(found) == set(detrex_shapes())


def test_the_number_of_parameters_is_detrexs(dino_r50):
    """Parameters, heads counted once; the constants of frozen batch norms are buffers here as there."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in dino_r50.parameters()]
    assert sum(size for size, _ in sizes) == 47_650_316
    assert sum(size for size, learns in sizes if learns) == 47_640_908  # without the stem's convolution


def test_a_checkpoint_goes_to_detrex_and_back(table):
    """With another number of stages, and so another number for the encoder's heads."""
    table = detrex_dino_names(num_layers=2)
    detector = tiny_dino()
    state = {name: value for name, value in detector.state_dict().items() if not name.startswith("backbone.")}
    theirs = table.to_foreign(state)
    assert theirs["class_embed.2.weight"] is theirs["transformer.decoder.class_embed.2.weight"]
    assert theirs["class_embed.2.weight"] is state["queries.class_head.weight"]
    assert theirs["bbox_embed.1.layers.0.bias"] is state["decoder.box_heads.1.layers.0.bias"]
    back = table.to_native(theirs)
    assert set(back) == set(state)
    other = tiny_dino().eval()
    other.load_state_dict({**detector.state_dict(), **back})
    batch = image_batch(1)
    assert other(batch)[0].scores.equal(detector.eval()(batch)[0].scores)


def test_our_own_names_stay():
    """Renaming a module would orphan everyone's checkpoints: give the old name a rule before changing this list."""
    names = set()
    for name in instantiate(tiny_dino_node()).state_dict():
        assert not name.startswith("backbone.") or name.startswith("backbone.body.")
        if not name.startswith("backbone."):
            names.add(re.sub(r"\.\d+\.", ".{i}.", re.sub(r"\.\d+\.", ".{i}.", name)))
    assert sorted(names) == (DATA / "native_names.txt").read_text().splitlines()
