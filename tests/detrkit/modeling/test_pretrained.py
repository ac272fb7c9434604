"""Name tables: templates that rename both ways, aliases included."""

import pytest
import torch

from detrkit.errors import InputError
from detrkit.modeling.pretrained import NameTable, detectron2_resnet_rules

TABLE = NameTable(
    [
        ("head.9.{p}", "proposals.{p}"),
        ("head.{i}.{p}", "heads.{i}.{p}"),
        ("copy.head.{i}.{p}", "heads.{i}.{p}"),
        ("a.b", "c"),
    ]
)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("head.9.weight", "proposals.weight"),  # the first rule that fits
        ("head.10.layers.0.bias", "heads.10.layers.0.bias"),
        ("a.b", "c"),
        ("aXb", None),  # a dot is a dot
        ("head.x.weight", None),
        ("my.head.1.weight", None),
    ],
)
def test_native_names(theirs, ours):
    assert TABLE.native_name(theirs) == ours


def test_foreign_names_include_aliases():
    assert TABLE.foreign_names("heads.3.weight") == ["head.3.weight", "copy.head.3.weight"]
    assert TABLE.foreign_names("unknown") == []


def test_a_state_dict_goes_there_and_back():
    ours = {"heads.0.weight": torch.rand(2), "c": torch.rand(1)}
    theirs = TABLE.to_foreign(ours)
    assert sorted(theirs) == ["a.b", "copy.head.0.weight", "head.0.weight"]
    assert TABLE.to_native(theirs) == ours


def test_names_without_a_rule_stay_to_be_reported_and_cannot_be_saved():
    state = {"surprise": torch.zeros(1)}
    assert TABLE.to_native(state) == state
    with pytest.raises(InputError, match="no name for surprise in the other library's checkpoints"):
        TABLE.to_foreign(state)


def test_aliases_that_differ_are_refused():
    with pytest.raises(
        InputError, match=r"copy.head.0.w should be the same tensor as the one already read for heads.0.w"
    ):
        TABLE.to_native({"head.0.w": torch.zeros(1), "copy.head.0.w": torch.ones(1)})


def test_resnet_names():
    table = NameTable(detectron2_resnet_rules())
    pairs = {
        "backbone.stem.conv1.weight": "backbone.body.conv1.weight",
        "backbone.stem.conv1.norm.running_var": "backbone.body.bn1.running_var",
        "backbone.res2.0.shortcut.weight": "backbone.body.layer1.0.downsample.0.weight",
        "backbone.res2.0.shortcut.norm.bias": "backbone.body.layer1.0.downsample.1.bias",
        "backbone.res5.2.conv3.norm.weight": "backbone.body.layer4.2.bn3.weight",
        "backbone.res4.5.conv1.weight": "backbone.body.layer3.5.conv1.weight",
    }
    assert {name: table.native_name(name) for name in pairs} == pairs
    assert {table.foreign_names(name)[0]: name for name in pairs.values()} == pairs
