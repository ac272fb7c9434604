"""Nodes: every plain default is listed, a new target brings its own, and `${up:key}` finds a value from any depth."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, instantiate
from crossstage.config.instantiate import BuildError
from crossstage.config.override import OverrideValueError

MARK = object()


def everything(
    needed,
    positional=1,
    nothing=None,
    flag=True,
    text="x",
    sizes=(1, (2.5, "y")),
    table={"a": [1]},  # noqa: B006 (a default like any other)
    kind=torch.nn.ReLU,
    dtype=torch.float32,
    mark=MARK,
    listed_mark=(1, MARK),
    keyed={1: 2},  # noqa: B006
    link="${train.lr}",
    hole="???",
    *others,
    keyword=0.5,
    stage=0,
    **options,
):
    return locals()


class Old:
    def __init__(self, width, depth=2, scale=1.0, sizes=(1, 2)):
        self.values = (width, depth, scale, sizes)


class New:
    def __init__(self, width, depth=5, *, offset=0.5):
        self.values = (width, depth, offset)


def points(number: int | Sequence[int] = 4, sizes: "list[int] | float" = 0.5, width: int = 2, loose=3):
    return number, sizes, width, loose


def forwards(width, **options):
    return Old(width, **options)


def config(**values) -> DictConfig:
    return DictConfig(values, flags={"allow_objects": True})


PLAIN = {
    "positional": 1,
    "nothing": None,
    "flag": True,
    "text": "x",
    "sizes": [1, [2.5, "y"]],
    "table": {"a": [1]},
    "keyword": 0.5,
}


@pytest.mark.parametrize("target", [everything, f"{__name__}.everything"])
def test_plain_defaults_are_listed_after_what_is_given(target):
    node = OmegaConf.to_container(L(target)(text="mine", needed=3))
    assert list(node) == ["_target_", "text", "needed", *(name for name in PLAIN if name != "text")]
    assert node == {"_target_": target, "needed": 3, **PLAIN, "text": "mine"}
    assert repr(node["sizes"]) == repr(PLAIN["sizes"])


def test_listing_defaults_changes_no_call():
    built = instantiate(L(everything)(needed=3))
    plain = everything(3)
    for name, value in plain.items():
        assert list(built[name]) == [1, [2.5, "y"]] if name == "sizes" else built[name] == value, name


def test_defaults_of_one_node_are_not_those_of_another():
    first, second = L(everything)(needed=1), L(everything)(needed=1)
    first.sizes.append(3)
    first.table.a = 4
    assert (len(second.sizes), second.table.a, everything(1)["table"]) == (2, [1], {"a": [1]})


@pytest.mark.parametrize("target", [len, dict, "no.such.Module", "torch.nn", L(everything)(needed=1)])
def test_targets_without_a_signature_list_nothing(target):
    assert list(L(target)()) == ["_target_"]


def test_positional_only_arguments_cannot_be_given_and_are_not_listed():
    assert list(L(itertools.chain)()) == list(L(lambda a=1, /: a)()) == ["_target_"]


def test_a_default_is_overridden_without_a_plus_and_is_stored(tmp_path):
    cfg = config(model=L(Old)(width=1))
    LazyConfig.apply_overrides(cfg, ["model.depth=7", "model.sizes.1=9"])
    LazyConfig.save(cfg, tmp_path / "c.yaml")
    assert "scale: 1.0" in (tmp_path / "c.yaml").read_text()
    assert instantiate(LazyConfig.load(tmp_path / "c.yaml").model).values == (1, 7, 1.0, [1, 9])


@pytest.mark.parametrize(
    ("overrides", "values"),
    [
        ([f"model._target_={__name__}.New"], {"width": 3, "depth": 2, "offset": 0.5}),
        ([f"model._target_={__name__}.New", "model.offset=1"], {"width": 3, "depth": 2, "offset": 1.0}),
        (["model.scale=3", f"model._target_={__name__}.New"], {"width": 3, "depth": 2, "scale": 3.0, "offset": 0.5}),
        ([f"model._target_={__name__}.forwards"], {"width": 3, "depth": 2, "scale": 1.0, "sizes": [1, 2]}),
        ([f"model={{_target_:{__name__}.New,width:1}}"], {"width": 1, "depth": 5, "offset": 0.5}),
        ([f"+other._target_={__name__}.New"], None),
    ],
)
def test_a_new_target_brings_its_defaults_and_removes_those_of_the_old_one(overrides, values):
    cfg = LazyConfig.apply_overrides(config(model=L(Old)(width=3)), overrides)
    if values is None:
        assert OmegaConf.to_container(cfg.other) == {"_target_": f"{__name__}.New", "depth": 5, "offset": 0.5}
    else:
        assert {name: value for name, value in cfg.model.items() if name != "_target_"} == values


def test_a_value_that_the_new_target_lacks_is_an_error_where_it_was_given():
    cfg = LazyConfig.apply_overrides(config(a=L(Old)(width=3, scale=2.0)), [f"a._target_={__name__}.New"])
    with pytest.raises(
        BuildError, match=r"^a\.scale: .*New has no argument 'scale'\. It takes: width, depth, offset\."
    ):
        instantiate(cfg)


def test_a_list_fits_a_number_where_the_annotation_says_so():
    cfg = LazyConfig.apply_overrides(config(a=L(points)()), ["a.number=[8,4]", "a.sizes=[1]"])
    assert instantiate(cfg.a) == ([8, 4], [1], 2, 3)
    for override in ("a.width=[8,4]", "a.loose=[8,4]", "a.number=text", "a.number={x:1}"):
        with pytest.raises(OverrideValueError, match="expects a number"):
            LazyConfig.apply_overrides(config(a=L(points)()), [override])


TREE = {
    "lr": 0.1,
    "neck": {"levels": 4, "deep": {"er": 5}},
    "model": {"width": 8, "empty": None, "strides": [4, 8], "layer": {"width": 16, "part": {}, "list": [{}]}},
}


@pytest.mark.parametrize(
    ("place", "written", "value"),
    [
        ("model.layer.part.probe", "${up:width}", 16),
        ("model.layer.width", "${up:width}", 8),  # never itself
        ("model.layer.probe", "${up:width}", 8),  # nor a sibling
        ("model.layer.part.probe", "${up:neck.levels}", 4),
        ("model.layer.part.probe", "${up:neck.deep.er}", 5),
        ("model.layer.part.probe", "${up:model.width}", 8),
        ("model.layer.part.probe", "${up:lr}", 0.1),
        ("model.layer.part.probe", "${up:empty}", None),
        ("model.layer.part.probe", "${up:strides}", [4, 8]),
        ("model.layer.part.probe", "w${up:width} of ${up:lr}", "w16 of 0.1"),
        ("model.layer.list[0].probe", "${up:width}", 16),
        ("model.layer.list[0]", "${up:width}", 8),  # the list belongs to the layer
        ("neck.probe", "${up:model.layer.width}", 16),
    ],
)
def test_up_finds_the_nearest_value_above(place, written, value):
    cfg = OmegaConf.create(TREE)
    OmegaConf.update(cfg, place, written)
    assert OmegaConf.select(cfg, place) == value
    assert OmegaConf.to_container(cfg, resolve=True)["lr"] == 0.1


def test_up_follows_later_changes_and_moves():
    cfg = config(width=1, layer=L(dict)(part=L(dict)(x="${up:width}")))
    cfg.width = 2
    assert instantiate(cfg.layer)["part"]["x"] == 2
    cfg.layer = L(dict)(deeper=cfg.layer)
    assert instantiate(cfg.layer)["deeper"]["part"]["x"] == 2
    cfg.layer.width = 3
    assert instantiate(cfg.layer)["deeper"]["part"]["x"] == 3


def test_up_may_lead_to_a_node_which_is_built_again_where_it_stands():
    cfg = config(width=4, part=L(dict)(x="${up:width}"), layer=L(dict)(width=5, part="${up:part}"))
    assert instantiate(cfg.layer)["part"]["x"] == 4


def test_up_survives_saving(tmp_path):
    LazyConfig.save(config(width=4, layer=L(dict)(x="${up:width}")), tmp_path / "c.yaml")
    cfg = LazyConfig.load(tmp_path / "c.yaml")
    cfg.width = 5
    assert cfg.layer.x == 5
    assert LazyConfig.to_py(cfg) == "cfg.width = 5\ncfg.layer = builtins.dict(x=5)\n"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("${up:widht}", r"^model\.layer\.x: \$\{up:widht\}: no mapping above has 'widht'\. Did you mean width\?$"),
        ("${up:neck.levles}", r"^model\.layer\.x: \$\{up:neck\.levles\}: no mapping above has 'neck\.levles'\."),
        ("${up:lr.x}", r"^model\.layer\.x: \$\{up:lr\.x\}: no mapping above has"),
        ("${up:broken}", r"^model\.layer\.x: .*nowhere"),
        ("${up:hole}", r"^model\.layer\.x: .*hole"),
    ],
)
def test_up_without_a_value_names_path_and_key(value, words):
    node = {"width": 1, "broken": "${nowhere}", "hole": "???", "layer": L(dict)(x=value)}
    cfg = config(lr=1, broken=3, hole=3, neck={"levels": 1}, model=node)
    with pytest.raises(BuildError, match=words) as caught:
        instantiate(cfg.model.layer)
    assert "\n" not in str(caught.value)
