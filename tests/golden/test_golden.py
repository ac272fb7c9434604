"""The reference's tensors, met to 1e-9: in this process for each folder, and through the command that users type."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden import __main__ as command
from tests.golden.folder import GoldenFolder

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(path.name for path in DATA.iterdir() if path.is_dir())
BUDGET = 15e6  # bytes, of all projects together


def run_command(*folders: Path) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "tests.golden", *map(str, folders)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


def perturbed_copy(name: str, to: Path, *, tensor: str, by: float) -> Path:
    folder = to / name
    shutil.copytree(DATA / name, folder)
    expected = load_file(folder / "expected.safetensors")
    expected[tensor] = expected[tensor].double()
    expected[tensor].view(-1)[0] += by
    save_file(expected, folder / "expected.safetensors")
    return folder


def test_the_copies_cover_every_kind():
    without_copy = {"rnndet"}  # a DEQDet without steps: its calls are the first ones of the folder `deqdet`
    assert {command.kind_of(DATA / name) for name in FOLDERS} - {None} == set(command.KINDS) - without_copy


def test_the_copies_stay_small():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < BUDGET


@pytest.mark.parametrize("name", FOLDERS)
def test_every_tensor_of_the_reference_is_met(name: str):
    if command.kind_of(DATA / name) is None:
        pytest.skip("nobody knows this kind yet")
    torch.set_default_dtype(torch.float64)
    rows = command.compare(DATA / name)
    folder = GoldenFolder(DATA / name)
    assert len(rows) >= max(1, sum(len(folder.expected(case)) for case in folder.cases))
    assert [row for row in rows if not row.ok] == []


def test_the_command_prints_a_row_for_each_tensor_and_succeeds():
    done = run_command(DATA / "csla_two_classes")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "folder | tensor | max abs error | tolerance | ok"
    assert all(line.count(" | ") == 4 for line in lines)
    assert lines[-1].endswith("| ok")
    assert any("eta0.5.im1_L.targets" in line for line in lines)


def test_an_unknown_kind_is_named_and_fails_without_hiding_the_other_folders(tmp_path: Path):
    unknown = tmp_path / "centernet"
    unknown.mkdir()
    done = run_command(unknown, DATA / "csla_two_classes")
    assert done.returncode == 1
    assert "centernet | unknown kind" in done.stdout
    assert "csla_two_classes | 132 tensors" in done.stdout
    assert done.stderr == ""


def test_a_suffix_does_not_change_the_kind_but_a_prefix_of_the_name_does():
    kinds = [command.kind_of(Path(name)) for name in ("dino_empty_images", "csla_x", "dinosaur", "layers", "my_dino")]
    assert kinds == ["dino", "csla", None, "layers", None]


@pytest.mark.parametrize(("tensor", "by"), [("eta0.5.im1_L.loss_cls", 1e-7), ("eta0.5.im1_L.targets", 1.0)])
def test_one_changed_number_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], tensor: str, by: float):
    folder = perturbed_copy("csla_two_classes", tmp_path, tensor=tensor, by=by)
    assert command.main([str(folder), "--quiet"]) == 1
    failing = [line for line in capsys.readouterr().out.splitlines() if line.endswith("| NO")]
    assert failing[0].startswith(f"csla_two_classes | {tensor} | ")
    assert failing[1].startswith("csla_two_classes | 132 tensors | ")


def changed_copy(name: str, to: Path, *, meta: dict, **tensors: dict[str, torch.Tensor]) -> Path:
    """A copy of a folder with other entries in meta.json, and other tensors in <file>.safetensors."""
    folder = to / name
    shutil.copytree(DATA / name, folder)
    (folder / "meta.json").write_text(json.dumps(GoldenFolder(folder).meta | meta))
    for file, changed in tensors.items():
        save_file(load_file(folder / f"{file}.safetensors") | changed, folder / f"{file}.safetensors")
    return folder


@pytest.mark.parametrize("activation", ["GELU", "Tanh", "PReLU"])
def test_the_activation_of_a_feed_forward_block_is_the_one_that_meta_names(tmp_path: Path, activation: str):
    torch.set_default_dtype(torch.float64)
    stored = GoldenFolder(DATA / "layers")
    module = getattr(torch.nn, activation)()
    shared = [f"ffn.{name}.weight" for name in ("activation", "layers.0.1", "layers.1.1")]  # one parameter, three names
    slopes = {name: parameter.detach().clone() for name in shared for parameter in module.parameters()}
    query = hidden = stored.inputs()["block.query"]
    for layer in ("0.0", "1.0", "2"):
        weight, bias = (stored.weights[f"ffn.layers.{layer}.{part}"] for part in ("weight", "bias"))
        hidden = torch.nn.functional.linear(hidden, weight, bias)
        hidden = hidden if layer == "2" else module(hidden).detach()
    expected = {"ffn.output": query + hidden, "ffn.output_with_identity": stored.inputs()["block.query_pos"] + hidden}
    meta = {"ffn": stored.meta["ffn"].replace("ReLU", activation)}
    folder = changed_copy("layers", tmp_path, meta=meta, expected=expected, weights=slopes)
    assert [row for row in command.compare(folder) if not row.ok] == []


def test_an_unknown_activation_is_an_error(tmp_path: Path):
    torch.set_default_dtype(torch.float64)
    folder = changed_copy("layers", tmp_path, meta={"ffn": "3 linear layers, activation Snake"})
    with pytest.raises(ValueError, match="activation Snake': expected the name of an activation"):
        command.compare(folder)


def test_unweighted_losses_of_the_one_to_many_branch_hold_its_lambda(tmp_path: Path):
    """As in detrex, which multiplies them by lambda before and divides nothing by it afterwards."""
    torch.set_default_dtype(torch.float64)
    stored = GoldenFolder(DATA / "h_deformable_detr")
    changed = {}
    for case in stored.cases:
        branch = {name: 2.5 * loss for name, loss in stored.expected(case).items() if name.endswith("_one2many")}
        weighted = sum(loss for name, loss in branch.items() if name.startswith("loss_weighted"))
        changed[f"expected{case}"] = branch | {"total_loss": stored.expected(case)["total_loss"] + 0.6 * weighted}
    meta = {"hyper_parameters": stored.meta["hyper_parameters"] | {"lambda_one2many": 2.5}}
    rows = command.compare(changed_copy("h_deformable_detr", tmp_path, meta=meta, **changed))
    losses = [row for row in rows if "loss" in row.name]
    assert len([row for row in losses if "one2many" in row.name]) == 2 * 2 * 9
    assert [row for row in losses if not row.ok] == []


def test_a_tensor_that_nobody_compares_fails(tmp_path: Path):
    folder = tmp_path / "csla_two_classes"
    shutil.copytree(DATA / "csla_two_classes", folder)
    expected = load_file(folder / "expected.safetensors") | {"something.new": torch.zeros(1)}
    save_file(expected, folder / "expected.safetensors")
    torch.set_default_dtype(torch.float64)
    assert [row.name for row in command.compare(folder) if not row.ok] == ["something.new (not compared)"]
