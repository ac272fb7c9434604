"""The small copies of golden folders: every bit comes back, and numbers that do not are noticed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden.folder import GoldenFolder, read_tensors
from tests.golden.recipe import FILE
from tests.golden.slim import main, slim


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder as the recording scripts leave it: a seeded stream with an unrecorded draw in it, an alias, zeros."""
    folder = tmp_path / "dino_small"
    folder.mkdir()
    generator = torch.Generator().manual_seed(4321)
    weight, _, scale = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (600, 5, 32))
    weights = {"a.weight": (weight.view(20, 30) / 30**0.5).float(), "norm.weight": (1 + 0.2 * scale).float()}
    save_file(
        weights | {"b.weight": weights["a.weight"].clone(), "step": torch.tensor(3)}, folder / "weights.safetensors"
    )
    save_file({"x": torch.rand(50), "labels": torch.tensor([1, 2])}, folder / "inputs.safetensors")
    gradient = torch.randn(40, 40, dtype=torch.float64).relu()
    gradient[0, 0] = -0.0
    expected = {"grad": gradient, "targets": (torch.rand(9, 30) > 0.5).double(), "exact": torch.rand(30).double()}
    save_file(expected, folder / "expected.safetensors")
    (folder / "meta.json").write_text(json.dumps({"keys": {"weights": {}}, "seed": 1}))
    return folder


def test_every_bit_comes_back(recorded: Path, tmp_path: Path):
    assert main([str(recorded), "--to", str(tmp_path / "data")]) == 0
    before, after = GoldenFolder(recorded), GoldenFolder(tmp_path / "data" / "dino_small")
    assert after.cases == before.cases == [""]
    assert after.meta == {"seed": 1}
    for ours, theirs in (
        (after.weights, before.weights),
        (after.inputs(), before.inputs()),
        (after.expected(), before.expected()),
    ):
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].dtype == tensor.dtype, name
            assert torch.equal(ours[name], tensor) and torch.equal(ours[name].signbit(), tensor.signbit()), name


def test_only_what_does_not_come_back_is_stored(recorded: Path, tmp_path: Path):
    slim(recorded, tmp_path / "copy")
    assert set(load_file(tmp_path / "copy" / "weights.safetensors")) == {"step"}
    stored = load_file(tmp_path / "copy" / "expected.safetensors")
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "grad~values": torch.float64,
        "grad~where": torch.uint8,
        "targets": torch.uint8,
        "exact": torch.float32,
    }
    assert 700 < stored["grad~values"].numel() < 900


def test_other_draws_than_the_recorded_ones_are_noticed(recorded: Path, tmp_path: Path):
    slim(recorded, tmp_path / "copy")
    path = tmp_path / "copy" / FILE
    path.write_text(path.read_text().replace('"seed":4321', '"seed":4322'))
    with pytest.raises(RuntimeError, match="draws other normal numbers"):
        read_tensors(tmp_path / "copy")


def test_a_copy_of_a_copy_is_the_same(recorded: Path, tmp_path: Path):
    slim(recorded, tmp_path / "once")
    slim(tmp_path / "once", tmp_path / "twice")
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes()
