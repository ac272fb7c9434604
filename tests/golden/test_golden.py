"""The reference's tensors, met to 1e-9: in this process for each folder, and through the command that users type."""

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
    assert {command.kind_of(DATA / name) for name in FOLDERS} - {None} == set(command.KINDS)


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


def test_a_tensor_that_nobody_compares_fails(tmp_path: Path):
    folder = tmp_path / "csla_two_classes"
    shutil.copytree(DATA / "csla_two_classes", folder)
    expected = load_file(folder / "expected.safetensors") | {"something.new": torch.zeros(1)}
    save_file(expected, folder / "expected.safetensors")
    torch.set_default_dtype(torch.float64)
    assert [row.name for row in command.compare(folder) if not row.ok] == ["something.new (not compared)"]
