"""LazyConfig.apply_overrides: the grammar, unknown keys, values that do not fit."""

import re

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig
from crossstage.errors import InputError


@pytest.fixture
def cfg():
    decoder = L(dict)(layer=L(dict)(width=8, activation=torch.nn.ReLU), num_layers=6)
    train = {"lr": 1e-4, "max_iter": 10, "amp": {"enabled": False}, "seed": None, "name": "x", "hole": "???"}
    root = {"model": {"decoder": decoder}, "train": train, "sizes": [1, 2], "linked": "${train.max_iter}", "free": {}}
    return DictConfig(root, flags={"allow_objects": True})


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("model.decoder.num_layers=3", "model.decoder.num_layers", 3),
        ("train.name='a b'", "train.name", "a b"),
        ("train.name=123", "train.name", 123),
        ("train.name=./out/run-1/x.pth", "train.name", "./out/run-1/x.pth"),
        ("train.name=", "train.name", ""),
        ("train.name=~/data", "train.name", "~/data"),
        ("train.name=/home/josé/Zellen & Kerne (2)", "train.name", "/home/josé/Zellen & Kerne (2)"),
        ("train.name=細胞", "train.name", "細胞"),
        ("train.name='é'", "train.name", "é"),
        ("sizes=[~/a.json,'é.json',ü.json]", "sizes", ["~/a.json", "é.json", "ü.json"]),
        ("+train.amp={dtype:é}", "train.amp", {"enabled": False, "dtype": "é"}),
        ("train.max_iter=1e4", "train.max_iter", 10000),
        ("train.max_iter=0.5", "train.max_iter", 0.5),
        ("train.max_iter='abc'", "train.max_iter", "abc"),
        ("train.lr=1", "train.lr", 1.0),
        ("train.lr=inf", "train.lr", float("inf")),
        ("train.amp.enabled=true", "train.amp.enabled", True),
        ("train.amp.enabled=1", "train.amp.enabled", True),
        ("train.amp={enabled:true}", "train.amp", {"enabled": True}),
        ("train.amp=null", "train.amp", None),
        ("train.seed=3", "train.seed", 3),
        ("train.seed={a:[1,'b']}", "train.seed", {"a": [1, "b"]}),
        ("train.hole=3", "train.hole", 3),
        ("sizes=[3,4,5]", "sizes", [3, 4, 5]),
        ("sizes.1=7", "sizes", [1, 7]),
        ("linked=5", "linked", 5),
        ("train.max_iter=${train.seed}", "train.max_iter", None),
        ("model.decoder.layer={_target_:builtins.list}", "model.decoder.layer", {"_target_": "builtins.list"}),
        ("model.decoder.layer._target_=builtins.list", "model.decoder.layer._target_", "builtins.list"),
        ("model.decoder.layer.activation=torch.nn.GELU", "model.decoder.layer.activation", torch.nn.GELU),
        ("+free.a.b=1", "free", {"a": {"b": 1}}),
        ("+new='text'", "new", "text"),
        ("+train.amp={dtype:'bf16'}", "train.amp", {"enabled": False, "dtype": "bf16"}),
        ("++train.lr=2.0", "train.lr", 2.0),
        ("+train.seed.x=1", "train.seed", {"x": 1}),
    ],
)
def test_what_an_override_makes(cfg, override, key, value):
    assert LazyConfig.apply_overrides(cfg, [override]) is cfg
    found = OmegaConf.select(cfg, key)
    assert found == value
    assert isinstance(value, dict | list) or type(found) is type(value)


def test_overrides_come_in_their_order_and_delete(cfg):
    LazyConfig.apply_overrides(cfg, ["+a=1", "a=2", "~train.seed", "~free"])
    assert cfg.a == 2
    assert "seed" not in cfg.train
    assert "free" not in cfg


def test_keys_beside_a_replaced_one_stay(cfg):
    LazyConfig.apply_overrides(cfg, ["model.decoder={num_layers:1}"])
    assert cfg.model.decoder.layer.width == 8
    assert cfg.model.decoder.num_layers == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "model.decoder.num_layer=3",
            "model.decoder.num_layer=3: no such key. model.decoder has: layer, num_layers. "
            "Did you mean model.decoder.num_layers? (+model.decoder.num_layer=3 adds one)",
        ),
        ("modle.decoder.num_layers=3", "The config has: model, train, sizes, linked, free. Did you mean model?"),
        ("num_layers=3", "There is model.decoder.num_layers."),
        ("train.amp={enabledd:true}", "train.amp has: enabled. Did you mean train.amp.enabled?"),
        (
            "~train.sed",
            "~train.sed: no such key. train has: lr, max_iter, amp, seed, name, hole. Did you mean train.seed?",
        ),
        ("train.lr.x=1", "train.lr.x=1: train.lr is 0.0001, not a mapping: it has no keys"),
        ("+train.lr.x=1", "it has no keys"),
        ("train.seed.x=1", "train.seed is None, not a mapping"),
        ("sizes.2=1", "sizes is a list of 2, '2' is not an index of it"),
        ("free.x=1", "free has: nothing."),
    ],
)
def test_unknown_keys_are_key_errors_that_help(cfg, override, words):
    before = OmegaConf.to_container(cfg)
    with pytest.raises(KeyError) as caught:
        LazyConfig.apply_overrides(cfg, [override])
    assert isinstance(caught.value, InputError)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert OmegaConf.to_container(cfg) == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_iter=abc", "train.max_iter=abc: train.max_iter expects a number, of type int (it is 10)"),
        ("train.max_iter=true", "expects a number"),
        ("train.max_iter=[1]", "expects a number"),
        ("train.lr={a:1}", "expects a number, of type float (it is 0.0001)"),
        ("linked=abc", "linked expects a number"),
        ("train.amp=True", "train.amp is a mapping; set one of its keys, e.g. train.amp.enabled=VALUE"),
        ("train.amp='text'", "train.amp is a mapping"),
        ("train.amp={enabled:maybe}", "train.amp.enabled expects true or false (it is False)"),
        ("train.amp.enabled=maybe", "train.amp.enabled expects true or false (it is False)"),
        ("train.amp.enabled=2", "expects true or false"),
        (
            "model.decoder.layer=3",
            "model.decoder.layer is a mapping; set one of its keys, e.g. model.decoder.layer.width",
        ),
        ("model.decoder.layer.activation=torch.nn.GLEU", "torch.nn has no 'GLEU'. Did you mean torch.nn."),
        ("train.name=a=b", "train.name=a=b: is not an override ("),
        ("train.name", "train.name: is not an override (missing EQUAL"),
        ("=3", "=3: names no key; write key=value"),
        ("train.lr=1,2", "gives several values; a list is written [a,b]"),
    ],
)
def test_values_that_do_not_fit(cfg, override, words):
    with pytest.raises(ValueError) as caught:
        LazyConfig.apply_overrides(cfg, [override])
    assert isinstance(caught.value, InputError)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["a=${z.y}", "a=${missing}/x", "+new=${missing}", "a=${missing:x}"])
def test_a_reference_to_nothing_is_told_with_its_override(override: str):
    """Else it would fail where the value is read, perhaps after the data have been loaded."""
    with pytest.raises(InputError, match=re.escape(f"{override}: ") + ".*write .{KEY}"):
        LazyConfig.apply_overrides(OmegaConf.create({"a": 1}), [override])


def test_a_reference_may_be_to_what_a_later_override_adds():
    config = LazyConfig.apply_overrides(OmegaConf.create({"a": 1}), ["a=${b}", "+b=2"])
    assert config.a == 2


def test_an_override_below_an_interpolation_changes_that_place_alone():
    """Else `b.x=2` would change `a` too, without a word."""
    config = OmegaConf.create({"a": {"x": 1, "y": "${up:z}"}, "b": "${a}", "z": 3})
    LazyConfig.apply_overrides(config, ["b.x=2"])
    assert (config.a.x, config.b.x, config.b.y) == (1, 2, 3)
