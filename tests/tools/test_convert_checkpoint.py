"""tools/convert_checkpoint.py as people start it: there and back, fewer classes, and one line for what is wrong."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossstage.checkpoints.classes import COCO_CLASSES
from crossstage.checkpoints.load import load_model, read_checkpoint
from crossstage.config import LazyConfig, instantiate

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/convert_checkpoint.py"
CONFIG = ROOT / "projects/dino/configs/dino_swin_tiny_224_4scale_12ep.py"
SMALL = [
    "model.embed_dim=32",
    "model.queries.source.num_queries=10",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=2",
    "model.neck.in_channels=[12,24,48]",
    "+model.backbone.options.embed_dim=6",
    "+model.backbone.options.num_heads=[1,1,2,2]",
    "+model.backbone.options.depths=[1,1,1,1]",
]


def small_config():
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG), SMALL)
    cfg.model.backbone.pretrained = False
    return cfg


@pytest.fixture(scope="module")
def native() -> dict[str, Tensor]:
    state = instantiate(small_config().model).state_dict()
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


@pytest.fixture(scope="module")
def theirs(native: dict[str, Tensor]) -> dict[str, Tensor]:
    return instantiate(small_config().train.checkpoint_names).to_foreign(native)


@pytest.fixture
def work(theirs, tmp_path, monkeypatch) -> Path:
    """The working directory: detrex.pth with what detrex saves besides."""
    torch.save({"model": theirs, "trainer": {"iteration": 9}, "iteration": 9}, tmp_path / "detrex.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(*arguments: str) -> int:
    spec = importlib.util.spec_from_file_location("convert_checkpoint_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(["--config-file", str(CONFIG), *arguments, *SMALL])


def start(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), "--config-file", str(CONFIG), *arguments, *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    bits = {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in state.items()}
    return bits == {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in other.items()}


def test_a_checkpoint_of_detrex_becomes_ours_and_comes_back_bit_by_bit(work, native, theirs, capsys):
    done = start("--from", "detrex", "detrex.pth", "ours.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert same(read_checkpoint("ours.safetensors"), native)
    numbers = sum(tensor.numel() for tensor in native.values())
    assert f"detrex.pth: {len(native)} tensors, {numbers:,} numbers" in done.stdout
    heads = [name for name in native if "_head" in name]
    assert f"left out  {len(heads)} further names of the same tensors" in done.stdout
    assert (
        "left out  4 tensors that the model computes or never reads: backbone.layers.0.blocks.0.attn.rel" in done.stdout
    )
    assert "left out  no weights, or weights that were not asked for: trainer, iteration\n" in done.stdout
    load_model(instantiate(small_config().model), "ours.safetensors")

    assert convert("--to", "detrex", "ours.safetensors", "back.pth") == 0
    assert f"to detrex's {len(theirs)} names" in capsys.readouterr().out
    back = read_checkpoint("back.pth")
    assert back.keys() == {"model"} and same(back["model"], theirs)
    assert convert("--to", "detrex", "ours.safetensors", "back.safetensors") == 0
    assert same(read_checkpoint("back.safetensors"), theirs)
    assert not list(work.glob(".*"))


def test_some_of_cocos_classes_by_name(work, native, capsys):
    (work / "mine.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}],
                "annotations": [],
                "categories": [{"id": 5, "name": "car"}, {"id": 2, "name": "traffic light"}],
            }
        )
    )
    assert convert("--from", "detrex", "--classes", "traffic light, car", "detrex.pth", "two.pth") == 0
    assert "classes   80 to 2, in 7 tensors: traffic light, car" in capsys.readouterr().out
    assert convert("--from", "detrex", "--classes-from", "mine.json", "detrex.pth", "mine.pth") == 0
    two, mine = read_checkpoint("two.pth"), read_checkpoint("mine.pth")
    assert two["class_names"] == mine["class_names"] == ["traffic light", "car"]
    assert same(two["model"], mine["model"])
    for name, tensor in two["model"].items():
        whole = native[name]
        assert tensor.equal(whole if whole.shape == tensor.shape else whole[[9, 2]]), name
    cfg = small_config()
    cfg.model.num_classes = 2
    load_model(instantiate(cfg.model), "two.pth")
    # names that the file itself holds count, not COCO's
    assert convert("--to", "detrex", "--classes", "car", "two.pth", "one.pth", "model.num_classes=2") == 0
    assert read_checkpoint("one.pth")["model"]["label_enc.weight"].equal(native[LABELS][[2]])


LABELS = "queries.extra.denoising.label_embed.weight"


def test_averaged_weights_on_request_and_names_are_kept(work, native):
    names = [f"class {number}" for number in range(80)]
    average = {name: tensor + 1 for name, tensor in native.items()}
    torch.save({"model": native, "ema_state": average, "class_names": names}, "run.pth")
    assert convert("--ema", "run.pth", "average.pth") == 0
    read = read_checkpoint("average.pth")
    assert same(read["model"], average) and read["class_names"] == names


def test_a_file_is_replaced_only_on_request(work):
    (work / "ours.pth").write_text("precious")
    done = start("--from", "detrex", "detrex.pth", "ours.pth")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: ours.pth: exists already; choose another name, or add --overwrite to replace a file\n"
    )
    assert (work / "ours.pth").read_text() == "precious"
    assert convert("--from", "detrex", "--overwrite", "detrex.pth", "ours.pth") == 0
    assert "model" in read_checkpoint("ours.pth")


def write_code(path: Path, theirs: dict[str, Tensor]) -> None:
    path.write_bytes(pickle.dumps({"model": {}, "run": subprocess.run}))


def write_truncated(path: Path, theirs: dict[str, Tensor]) -> None:
    torch.save(theirs, path)
    path.write_bytes(path.read_bytes()[:5000])


def write_other(path: Path, theirs: dict[str, Tensor]) -> None:
    state = {name: tensor for name, tensor in theirs.items() if not name.startswith("neck.convs.")}
    state |= {f"extra.{number}": torch.zeros(1) for number in range(12)} | {"label_enc.weight": torch.zeros(91, 32)}
    torch.save(state, path)


def write_torn(path: Path, theirs: dict[str, Tensor]) -> None:
    torch.save(theirs | {"class_embed.0.bias": torch.zeros(80)}, path)


BAD_FILES = {
    "code.pkl": (write_code, "refused, it contains subprocess.run"),
    "truncated.pth": (write_truncated, "truncated, damaged or not a file of weights"),
    "other.pth": (
        write_other,
        "weights of another model: 12 missing (neck.convs.0.conv.weight, ",
        "12 unexpected (extra.0, extra.1, extra.2, extra.3, extra.4, extra.5, extra.6, extra.7, extra.8, extra.9, ...)",
        f"1 of another shape ({LABELS} 91x32 for 80x32)",
    ),
    "torn.pth": (write_torn, "should be the same tensor as the one already read for decoder.class_heads.0.bias"),
    "absent.pth": (lambda path, theirs: None, "no such file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_line_and_nothing_is_written(name, work, theirs, capsys):
    write, *expected = BAD_FILES[name]
    write(work / name, theirs)
    assert convert("--from", "detrex", name, "out.pth") == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {name}: ") and line.count("\n") == 1
    assert all(part in line for part in expected), line
    assert not list(work.glob("*out.pth*"))


MISTAKES = {
    "suffix": (
        ["--from", "detrex", "detrex.pth", "out.bin"],
        "out.bin: expected a file name that ends in .pth or .saf",
    ),
    "folder": (["--from", "detrex", "detrex.pth", "no/out.pth"], "no/out.pth: no is not a folder that can be written"),
    "library": (["--from", "mmdet", "detrex.pth", "out.pth"], "--from mmdet: "),
    "no table": (
        ["--to", "detrex", "detrex.pth", "out.pth", "train.checkpoint_names=null"],
        "knows no other library's",
    ),
    "ours": (["--from", "detrex", "ours.pth", "out.pth"], "ours.pth: has no names of detrex; leave out --from"),
    "no from": (["detrex.pth", "out.pth"], "detrex.pth: weights of another model"),
    "classes": (["--from", "detrex", "--classes", "cra", "detrex.pth", "out.pth"], "80 classes: cra (near: c"),
    "two ways": (["--classes", "car", "--classes-from", "a.json", "ours.pth", "out.pth"], "expected one of them"),
    "no json": (["--classes-from", "absent.json", "ours.pth", "out.pth"], "absent.json"),
    "nameless": (["--classes", "car", "seven.pth", "out.pth", "model.num_classes=7"], "names no classes, the config's"),
    "ema": (["--ema", "ours.pth", "out.pth"], "ours.pth: has no averaged weights"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(mistake, work, native, capsys):
    arguments, expected = MISTAKES[mistake]
    torch.save({"model": native}, "ours.pth")
    cut = {
        name: t[:7] if t.shape[:1] == (80,) and ("class" in name or "label" in name) else t
        for name, t in native.items()
    }
    torch.save({"model": cut}, "seven.pth")
    assert convert(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and captured.out == ""
    assert expected in captured.err
    assert not list(work.glob("*out*"))


WITH_DCA = """
from dca import with_dca
from crossstage.projects.dino.configs.dino_swin_tiny_224_4scale_12ep import model, train

model = with_dca(model)
"""


def test_a_plain_models_weights_are_not_half_a_model_with_dca(work, capsys):
    (work / "dca.py").write_text(WITH_DCA)
    assert convert("--config-file", "dca.py", "--from", "detrex", "detrex.pth", "out.pth") == 2
    line = capsys.readouterr().err
    assert line.startswith(
        "error: detrex.pth: weights of a plain model; dca.py has 20 more tensors (decoder.layers.0.cross_"
    )
    assert "train.init_checkpoint" in line and not (work / "out.pth").exists()


def test_help_names_the_formats_and_gives_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        convert("--help")
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "--from detrex --config-file" in text and ".safetensors" in text and "--classes" in text
    assert COCO_CLASSES[9] in text
