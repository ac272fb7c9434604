"""LazyConfig.save and to_py: what is stored loads back; what cannot be stored says so."""

import dataclasses
import datetime
import enum
import itertools
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, instantiate
from crossstage.config.names import dotted_name, locate
from crossstage.errors import InputError


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Inner:
    x: int = 2


@dataclasses.dataclass
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    items: list[int] = dataclasses.field(default_factory=lambda: [3])


def shout(text: str = "") -> str:
    return text.upper()


def node(**values):
    return DictConfig(values, flags={"allow_objects": True})


def reloaded(cfg, folder: Path):
    LazyConfig.save(cfg, folder / "saved.yaml")
    assert sorted(path.name for path in folder.iterdir()) == ["saved.yaml"]  # nothing was left to a pickle
    return LazyConfig.load(folder / "saved.yaml")


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text().filter(lambda s: "${" not in s)
)
values = st.recursive(
    scalars.filter(lambda value: value != "???"),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(min_size=1), children, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(min_size=1), values, max_size=3))
def test_plain_values_come_back_with_their_types(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("plain")
    back = OmegaConf.to_container(reloaded(OmegaConf.create(content), folder))
    assert back == content
    assert repr(back) == repr(content)


def test_every_kind_of_value_comes_back(tmp_path):
    cfg = node(
        kind=torch.nn.ReLU,
        function=torch.nn.functional.relu,
        compiled=torch.relu,
        own=shout,
        dtype=torch.float32,
        colour=Colour.RED,
        some={1, 2},
        raw=b"x",
        day=datetime.date(2020, 1, 1),
        number=numpy.float64(0.1),
        text="1e-4",
        lr=1e-4,
        many=["yes", "null", "3", None, True],
        classes=[torch.nn.ReLU, {"x": shout}],
    )
    back = reloaded(cfg, tmp_path)
    for key in cfg:
        assert back[key] == cfg[key], key
    assert back.classes[0] is torch.nn.ReLU
    assert back.own("a") == "A"
    assert "_object_: torch.nn.ReLU" in (tmp_path / "saved.yaml").read_text()
    assert reloaded(node(path=Path("/x/y")), tmp_path).path == "/x/y"


def test_nodes_and_dataclasses_come_back(tmp_path):
    cfg = node(a=L(dict)(outer=Outer(Inner(5)), f=shout, flags=L(itertools.count)(start=3)))
    back = reloaded(cfg, tmp_path)
    assert back.a._target_ == "builtins.dict"
    assert back.a.flags._target_ == "itertools.count"
    built = instantiate(back).a
    assert built["outer"] == Outer(Inner(5))
    assert next(built["flags"]) == 3
    assert built["f"] is shout


def test_interpolations_stay_interpolations(tmp_path):
    cfg = node(model=L(dict)(n=1, decoder=L(dict)(n="${..n}", text="${model.n}/x")), hole="???", absent="${nowhere}")
    back = reloaded(cfg, tmp_path)
    assert "n: ${..n}" in (tmp_path / "saved.yaml").read_text()
    back.model.n = 7
    assert (back.model.decoder.n, back.model.decoder.text) == (7, "7/x")
    assert OmegaConf.is_missing(back, "hole")
    part = reloaded(cfg.model.decoder, tmp_path)  # a part refers to what is no longer there, and is stored as it is
    assert OmegaConf.to_container(part)["n"] == "${..n}"


def test_saving_again_changes_nothing_and_is_deterministic(tmp_path):
    cfg = node(b=L(dict)(x=1.5, a=torch.nn.ReLU, f=lambda: 3), a=[1, {"z": None}])
    LazyConfig.save(cfg, tmp_path / "1.yaml")
    LazyConfig.save(LazyConfig.load(tmp_path / "1.yaml"), tmp_path / "2.yaml")
    assert (tmp_path / "1.yaml").read_text() == (tmp_path / "2.yaml").read_text()
    assert list(LazyConfig.load(tmp_path / "1.yaml")) == ["b", "a"]
    assert " at 0x" not in (tmp_path / "1.yaml").read_text()


def test_what_yaml_cannot_hold_goes_next_to_it(tmp_path, caplog):
    file = tmp_path / "c.yaml"
    cfg = node(optim=L(dict)(f=lambda name: len(name), lr=1.0), model=L(dict)(x=1))
    with caplog.at_level(logging.WARNING):
        LazyConfig.save(cfg, file)
    assert "c.yaml: YAML cannot hold optim.f: pickled next to it in c.yaml.pkl" in caplog.text
    back = LazyConfig.load(file)
    assert instantiate(back.model) == {"x": 1}
    for use in (lambda: back.optim.f("abc"), lambda: instantiate(back), lambda: instantiate(back.optim)):
        with pytest.raises(
            InputError, match=r"c\.yaml: optim\.f \(function .*<lambda>\) cannot be stored in YAML; if you"
        ) as e:
            use()
        assert "LazyConfig.load_pickle" in str(e.value)
    assert LazyConfig.load_pickle(f"{file}.pkl").optim.f("abc") == 3
    LazyConfig.save(node(a=1), file)
    assert os.listdir(tmp_path) == ["c.yaml"]  # a stale pickle would be of another config


def test_what_cannot_even_be_pickled_is_named_and_the_rest_is_stored(tmp_path, caplog):
    cfg = node(model={"x": 1})
    cfg.lock = threading.Lock()
    LazyConfig.save(cfg, tmp_path / "c.yaml")
    assert "neither as YAML nor as pickle: lock" in caplog.text
    assert LazyConfig.load(tmp_path / "c.yaml").model.x == 1


def test_a_pickle_is_never_read_unasked(tmp_path):
    LazyConfig.save(node(f=lambda: 1, a=2), tmp_path / "c.yaml")
    (tmp_path / "c.yaml.pkl").write_bytes(b"not a pickle: reading it would raise")
    assert LazyConfig.load(tmp_path / "c.yaml").a == 2


def test_an_object_that_cannot_be_imported_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text("a:\n  b:\n  - _object_: torch.nn.RelU\n")
    with pytest.raises(
        InputError, match=r"c\.yaml: a\.b\[0\]: _object_ 'torch\.nn\.RelU' cannot be imported: .*Did you mean"
    ):
        LazyConfig.load(tmp_path / "c.yaml")


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    file = tmp_path / "new/folder/c.yaml"
    LazyConfig.save(node(a=1), file)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match=r"c\.yaml: cannot be written \(No space left on device\)"):
        LazyConfig.save(node(a=2), file)
    assert LazyConfig.load(file).a == 1
    assert [path.name for path in file.parent.iterdir()] == ["c.yaml"]


def test_a_file_in_place_of_the_folder_is_an_input_error(tmp_path):
    (tmp_path / "folder").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        LazyConfig.save(node(a=1), tmp_path / "folder/c.yaml")


def test_a_saved_config_builds_in_another_process(tmp_path):
    LazyConfig.save(node(layer=L(torch.nn.Linear)(in_features=2, out_features="${.in_features}")), tmp_path / "c.yaml")
    code = "from crossstage.config import *; print(instantiate(LazyConfig.load('c.yaml').layer))"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout == "Linear(in_features=2, out_features=2, bias=True)\n", run.stderr


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (torch.nn.Linear, "torch.nn.Linear"),
        (torch.optim.AdamW, "torch.optim.AdamW"),
        (torch.bfloat16, "torch.bfloat16"),
        (len, "builtins.len"),
        (DictConfig, "omegaconf.DictConfig"),
        (instantiate, "crossstage.config.instantiate"),
        (lambda: 1, None),
        (torch.nn.Linear(1, 1), None),
        ("text", None),
    ],
)
def test_names_are_short_and_lead_back(value, name):
    assert dotted_name(value) == name
    if name:
        assert locate(name) is value


def test_a_module_that_a_function_hides_is_still_found():
    assert locate("crossstage.config.instantiate.BuildError").__name__ == "BuildError"


def test_to_py_is_laid_out_as_black_does():
    cfg = node(
        train={"lr": 1e-4, "amp": {"enabled": False}, "empty": {}, "odd key": 'say "x"'},
        model=L(torch.nn.Linear)(in_features="${train.lr}", out_features=3, name="n" * 40, kind=torch.nn.ReLU),
        long=["a" * 36, "b" * 36],
    )
    assert LazyConfig.to_py(cfg, prefix="c.") == (
        "c.train.lr = 0.0001\n"
        "c.train.amp.enabled = False\n"
        "c.train.empty = {}\n"
        'c.train["odd key"] = "say \\"x\\""\n'
        "c.model = torch.nn.Linear(\n"
        "    in_features=0.0001,\n"
        "    out_features=3,\n"
        f'    name="{"n" * 40}",\n'
        "    kind=torch.nn.ReLU,\n"
        "    bias=True,\n"
        "    device=None,\n"
        "    dtype=None,\n"
        ")\n"
        f'c.long = [\n    "{"a" * 36}",\n    "{"b" * 36}",\n]\n'
    )
    call = L(dict)(first="a" * 35, second="b" * 30)
    text = f'first="{"a" * 35}", second="{"b" * 30}"'
    assert LazyConfig.to_py(node(some_name=call)) == f"cfg.some_name = builtins.dict(\n    {text}\n)\n"


def test_to_py_of_an_unfinished_config_leaves_interpolations():
    assert LazyConfig.to_py(node(a="${nowhere}", b="???")) == 'cfg.a = "${nowhere}"\ncfg.b = "???"\n'
