"""detrex's DINO and ours are the same tensors under two names, and our own names stay as they are."""

import re
from pathlib import Path

import pytest
import torch
from crossstage.projects.dino.checkpoint import detrex_dino_names
from torch import nn

from crossstage.checkpoints.load import load_model
from crossstage.checkpoints.names import NameTable
from crossstage.config import instantiate
from crossstage.errors import InputError
from dca import with_dca
from tests.foreign_names import detector_and_table, foreign_shapes, parameter_counts, reached_names
from tests.random_scenes import image_batch, tiny_dino, tiny_dino_node

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dino_r50_4scale_12ep", (47_650_316, 47_640_908)),  # without the stem's convolution, which is frozen
        ("dino_r50_5scale_12ep", (48_012_940, 48_003_532)),
        ("dino_swin_tiny_224_4scale_12ep", (48_193_350, 48_193_350)),
    ],
)
def test_every_name_of_detrex_is_one_of_ours_and_back(name: str, parameters: tuple[int, int]):
    """The heads lie at the top and in the decoder there; all else has one name."""
    detector, table = detector_and_table(f"dino/configs/{name}.py")
    reached = reached_names(detector, table, foreign_shapes(DATA / f"detrex_{name}.txt"))
    times = {native: len(names) for native, names in reached.items()}
    assert times == {native: 2 if "class_head" in native or "box_head" in native else 1 for native in times}
    assert parameter_counts(detector) == parameters


def test_a_checkpoint_goes_to_detrex_and_back():
    """With another number of stages, and so another number for the encoder's heads."""
    table = detrex_dino_names(num_layers=2)
    detector = tiny_dino()
    state = {name: value for name, value in detector.state_dict().items() if not name.startswith("backbone.")}
    theirs = table.to_foreign(state)
    assert theirs["class_embed.2.weight"] is theirs["transformer.decoder.class_embed.2.weight"]
    assert theirs["class_embed.2.weight"] is state["queries.source.class_head.weight"]
    assert theirs["bbox_embed.1.layers.0.bias"] is state["decoder.box_heads.1.layers.0.bias"]
    back = table.to_native(theirs)
    assert set(back) == set(state)
    other = tiny_dino().eval()
    other.load_state_dict({**detector.state_dict(), **back})
    batch = image_batch(1)
    assert other(batch)[0].scores.equal(detector.eval()(batch)[0].scores)


@pytest.fixture
def doubled() -> nn.Module:
    """A tiny DINO with dual cross-attention, as `with_dca` makes it."""
    return instantiate(with_dca(tiny_dino_node()))


@pytest.mark.parametrize("foreign", [False, True])
def test_plain_weights_start_a_model_with_dca_whose_second_attention_is_new(foreign, doubled, tmp_path, caplog):
    plain = tiny_dino().state_dict()
    table = NameTable([*detrex_dino_names(num_layers=2).rules, ("backbone.{p}", "backbone.{p}")])
    torch.save({"model": table.to_foreign(plain) if foreign else plain}, tmp_path / "plain.pth")
    before = {name: tensor.clone() for name, tensor in doubled.state_dict().items()}
    load_model(doubled, tmp_path / "plain.pth", names=table if foreign else None, fine_tuning=True)
    new = []
    for name, tensor in doubled.state_dict().items():
        theirs = plain.get(name.replace(".cross_attn.first.", ".cross_attn."))
        new += [name] if theirs is None else []
        assert tensor.equal(before[name] if theirs is None else theirs), name
    assert new and all(".cross_attn.second." in name or ".cross_attn.norm." in name for name in new)
    (record,) = caplog.records
    assert (
        f"plain.pth: weights of a plain model; {len(new)} tensors keep their initialisation: {new[0]}, "
        in record.message
    )


def test_plain_weights_are_not_evaluated_with_dca(doubled, tmp_path):
    torch.save(tiny_dino().state_dict(), tmp_path / "plain.pth")
    with pytest.raises(InputError, match=r"missing \(decoder.layers.0.cross_attn.first"):
        load_model(doubled, tmp_path / "plain.pth")


def test_weights_with_dca_load_as_they_are_and_must_be_complete(doubled, tmp_path, caplog):
    state = {name: torch.full_like(tensor, 0.5) for name, tensor in doubled.state_dict().items()}
    torch.save(state, tmp_path / "doubled.pth")
    load_model(doubled, tmp_path / "doubled.pth", fine_tuning=True)
    assert all(tensor.equal(state[name]) for name, tensor in doubled.state_dict().items()) and not caplog.records
    del state["decoder.layers.1.cross_attn.second.value_proj.bias"]
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(InputError, match=r"1 missing \(decoder.layers.1.cross_attn.second.value_proj.bias\)"):
        load_model(doubled, tmp_path / "broken.pth", fine_tuning=True)


def test_our_own_names_stay():
    """Renaming a module would orphan everyone's checkpoints: give the old name a rule before changing this list."""
    names = set()
    for name in instantiate(tiny_dino_node()).state_dict():
        assert not name.startswith("backbone.") or name.startswith("backbone.body.")
        if not name.startswith("backbone."):
            names.add(re.sub(r"\.\d+\.", ".{i}.", re.sub(r"\.\d+\.", ".{i}.", name)))
    assert sorted(names) == (DATA / "native_names.txt").read_text().splitlines()
