"""Weights from files: every format, no code, and one line for what does not fit."""

import argparse
import datetime
import logging
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crossstage.checkpoints.files import UnsafeFileError
from crossstage.checkpoints.load import load_model, read_checkpoint
from crossstage.checkpoints.save import Checkpointer
from crossstage.checkpoints.tensor_file import write_tensors
from crossstage.errors import InputError
from tests.crossstage.engine.engine_standin import TinyDetector
from tests.mmengine_files import write_mmengine_file


class Bomb:
    """Creates the file `armed` when it is unpickled the usual way."""

    def __init__(self, armed: Path) -> None:
        self.armed = armed

    def __reduce__(self):
        return os.system, (f"touch {self.armed}",)


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.pkl", "bomb.pt", "old_format.pth", "raw_pickle.pth"])
def test_code_in_a_file_is_refused_named_and_not_run(name, tmp_path):
    armed, path = tmp_path / "armed", tmp_path / name
    content = {"model": {"weight": torch.zeros(1) if name != "bomb.pkl" else np.zeros(1)}, "extra": Bomb(armed)}
    if name in ("bomb.pkl", "raw_pickle.pth"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=name != "old_format.pth")
    with pytest.raises(UnsafeFileError) as caught:
        read_checkpoint(path)
    assert not armed.exists()
    message = str(caught.value)
    assert message.startswith(f"{path}: refused, it contains ") and "\n" not in message
    assert name == "raw_pickle.pth" or f"{os.system.__module__}.system" in message
    pickle.loads(pickle.dumps(content))
    assert armed.exists()  # it would have gone off


@pytest.mark.parametrize(
    "value", [datetime.date(2026, 1, 1), Path("x"), nn.Linear(1, 1)], ids=lambda v: type(v).__name__
)
def test_objects_are_refused_too(value, tmp_path):
    for path, write in ((tmp_path / "a.pkl", pickle.dumps), (tmp_path / "a.pth", None)):
        path.write_bytes(pickle.dumps({"x": value})) if write else torch.save({"x": value}, path)
        with pytest.raises(UnsafeFileError, match="refused"):
            read_checkpoint(path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_of_a_pkl_become_tensors(protocol, tmp_path):
    arrays = {
        "float": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "big_endian": np.arange(3, dtype=">f8"),
        "int": np.array(3, np.int64),
        "scalar": np.float32(0.5),
    }
    file = tmp_path / "r50.pkl"
    content = {"model": arrays, "__author__": "x", "matching_heuristics": True, "o": OrderedDict(a=(1, None))}
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_checkpoint(file)
    for name in ("float", "big_endian", "int"):
        assert isinstance(read["model"][name], torch.Tensor)
        np.testing.assert_array_equal(read["model"][name].numpy(), arrays[name])
    assert read["model"]["scalar"] == 0.5 and read["matching_heuristics"] is True and read["o"] == {"a": (1, None)}


def test_options_and_numpy_numbers_of_others_checkpoints_are_read(tmp_path):
    file = tmp_path / "detr.pth"
    args = argparse.Namespace(lr=1e-4)
    torch.save({"model": {"w": torch.ones(2)}, "args": args, "ap": np.float64(42.0), "a": np.arange(3)}, file)
    read = read_checkpoint(file)
    assert read["args"].lr == 1e-4 and read["ap"] == 42.0 and read["a"].tolist() == [0, 1, 2]


class MethodOf:
    """Unpickles as a method of `owner`, which the file gets by `getattr`."""

    def __init__(self, owner: type) -> None:
        self.owner = owner

    def __reduce__(self):
        return getattr, (self.owner, "__init__")


def test_logged_values_of_mmengine_become_empty_and_allow_nothing_else(tmp_path):
    path, armed, weights = tmp_path / "epoch_12.pth", tmp_path / "armed", {"w": torch.ones(2)}
    write_mmengine_file(path, weights)
    read = read_checkpoint(path)
    assert read["state_dict"]["w"].equal(weights["w"]) and read["meta"] == {"epoch": 12, "seed": 0}
    logged = read["message_hub"]["log_scalars"]["train/loss"]
    assert type(logged).__module__ == "crossstage.checkpoints.files" and vars(logged) == {}
    for payload, name in ((Bomb(armed), f"{os.system.__module__}.system"), (MethodOf(OrderedDict), "getattr")):
        write_mmengine_file(path, weights, payload=payload)
        with pytest.raises(UnsafeFileError, match=rf"refused, it contains {name}, which"):
            read_checkpoint(path)
    assert not armed.exists()


@pytest.fixture
def model() -> TinyDetector:
    torch.manual_seed(0)
    return TinyDetector(8)


def assert_loaded(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


def test_every_format_and_nesting_loads(model, tmp_path):
    state = {name: tensor.clone() for name, tensor in TinyDetector(8).state_dict().items()}
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"model": prefixed, "iteration": 3}, tmp_path / "ddp.pth")
    torch.save({"state_dict": state}, tmp_path / "lightning.ckpt")
    save_file(state, tmp_path / "safe.safetensors")
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    (tmp_path / "arrays.pkl").write_bytes(pickle.dumps({"model": arrays}))
    for file in tmp_path.iterdir():
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        load_model(model, file)
        assert_loaded(model, state)


def test_averaged_weights_load_on_request(model, tmp_path):
    state, average = TinyDetector(8).state_dict(), TinyDetector(8).state_dict()
    torch.save({"model": state, "ema_state": average}, tmp_path / "ema.pth")
    assert load_model(model, tmp_path / "ema.pth", ema=True)["model"].keys() == state.keys()
    assert_loaded(model, average)


class Renamed:
    def is_left_out(self, name):
        return False

    def to_native(self, state):
        return {name.replace("theirs_", ""): tensor for name, tensor in state.items()}


def test_a_rename_table_is_applied(model, tmp_path):
    state = TinyDetector(8).state_dict()
    torch.save({"model": {f"theirs_{name}": tensor for name, tensor in state.items()}}, tmp_path / "theirs.pth")
    load_model(model, tmp_path / "theirs.pth", names=Renamed())
    assert_loaded(model, state)


def test_another_models_weights_are_one_line_that_lists_all_and_change_nothing(model, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = TinyDetector(5).state_dict()
    del state["box_head.weight"], state["steps"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(5)}
    torch.save({"model": state}, tmp_path / "other.pth")
    with pytest.raises(InputError) as caught:
        load_model(model, tmp_path / "other.pth")
    message = str(caught.value)
    assert message == (
        f"{tmp_path}/other.pth: weights of another model: 2 missing (steps, box_head.weight); "
        "5 unexpected (extra.0, extra.1, extra.2, ...); "
        "2 of another shape (class_head.weight 5x8 for 8x8, class_head.bias 5 for 8); "
        "expected those that this config's model saves"
    )
    assert_loaded(model, before)


def test_other_class_counts_need_permission_and_other_shapes_never_get_it(model, tmp_path, caplog):
    torch.save(TinyDetector(5).state_dict(), tmp_path / "five.pth")
    untouched = model.class_head.weight.detach().clone()
    with caplog.at_level(logging.INFO, logger="crossstage"):
        load_model(model, tmp_path / "five.pth", fine_tuning=True)
    assert [r.message.split(": ", 1)[1] for r in caplog.records] == [
        "has 5 classes, the model 8; these keep their initialisation: class_head.weight, class_head.bias"
    ]
    assert model.class_head.weight.equal(untouched)
    state = TinyDetector(8).state_dict()
    state["box_head.weight"] = torch.zeros(5, 8)
    torch.save(state, tmp_path / "box.pth")
    with pytest.raises(InputError, match="1 of another shape"):
        load_model(model, tmp_path / "box.pth", fine_tuning=True)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_alone_loads_into_the_backbone(prefix, model, tmp_path, caplog):
    backbone = TinyDetector(8).backbone.state_dict()
    extra = {} if prefix else {"fc.weight": torch.zeros(3)}
    torch.save({**{prefix + name: tensor for name, tensor in backbone.items()}, **extra}, tmp_path / "b.pth")
    with caplog.at_level(logging.INFO, logger="crossstage"):
        load_model(model, tmp_path / "b.pth")
    assert_loaded(model.backbone, backbone)
    (record,) = caplog.records
    assert "weights of the backbone alone, 4 tensors" in record.message and ("fc.weight" in record.message) == (
        not prefix
    )


def test_a_tensor_with_two_names_needs_one_of_them(tmp_path):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.second = self.first

    model = Shared()
    torch.save({"second.weight": torch.ones(2, 2), "first.bias": torch.ones(2)}, tmp_path / "one.pth")
    load_model(model, tmp_path / "one.pth")
    assert model.first.weight.eq(1).all() and model.first.bias.eq(1).all()


def write_truncated(path: Path) -> None:
    torch.save({"model": TinyDetector(8).state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-300])


BAD_FILES = {
    "truncated.pth": (write_truncated, "truncated, damaged or not a file of weights"),
    "empty.pth": (lambda path: path.write_bytes(b""), "truncated, damaged or not a file of weights"),
    "text.pth": (lambda path: path.write_text("hello"), "truncated, damaged or not a file of weights"),
    "page.safetensors": (lambda path: path.write_text("<html>"), "truncated, damaged or not a file of weights"),
    "half.pkl": (
        lambda path: path.write_bytes(pickle.dumps({"a": 1})[:-3]),
        "truncated, damaged or not a file of weights",
    ),
    "list.pth": (lambda path: torch.save([1], path), "holds a list; expected a dict"),
    "none.pth": (lambda path: torch.save({"iteration": 1}, path), "holds no weights"),
    "folder.pth": (Path.mkdir, "is a folder"),
    "absent.pth": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_line_that_names_them(name, model, tmp_path):
    write, expected = BAD_FILES[name]
    write(tmp_path / name)
    with pytest.raises(InputError) as caught:
        load_model(model, tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {expected}") and "\n" not in str(caught.value)


def test_unknown_prefixes_are_named():
    with pytest.raises(InputError, match="unknown prefix detectron2://; expected a local file or an http"):
        read_checkpoint("detectron2://ImageNetPretrained/R-50.pkl")


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    keeper = Checkpointer(tmp_path, max_to_keep=2)
    assert keeper.latest() is None
    for iteration in (9, 19, 29):
        keeper.save(f"model_{iteration:07d}", {"iteration": iteration})
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000019.pth", "model_0000029.pth"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        keeper.save("model_0000029", {"iteration": "half"})
    assert keeper.latest() == tmp_path / "model_0000029.pth"
    assert read_checkpoint(keeper.latest()) == {"iteration": 29}
    with pytest.raises(InputError, match=r"cannot be resumed from, it has no model, optimizer, random, sampler"):
        keeper.read(keeper.latest())


def test_safetensors_name_their_classes(tmp_path):
    file, shared = tmp_path / "w.safetensors", torch.arange(6.0).reshape(2, 3)
    write_tensors(
        file, {"a": shared, "b": shared, "c": shared.t()}, class_names=["cat", "Hündin"], category_ids=[7, None]
    )
    read = read_checkpoint(file)
    assert read["class_names"] == ["cat", "Hündin"] and read["category_ids"] == [7, None]
    assert read["model"]["b"].equal(shared) and read["model"]["c"].equal(shared.t())
    write_tensors(file, {"a": shared})
    assert set(read_checkpoint(file)) == {"a"}, "as others write such files"
    for wrong in ("[1]", "{", '"cat"'):
        save_file({"a": shared}, file, metadata={"class_names": wrong})
        with pytest.raises(InputError, match=r"w\.safetensors: truncated, damaged or not a file of weights"):
            read_checkpoint(file)
