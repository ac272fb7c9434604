"""Name tables: templates that rename both ways, aliases included."""

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm, unfold

from crossstage.checkpoints.load import load_model
from crossstage.checkpoints.mmdet_names import mmdet_mixer_names
from crossstage.checkpoints.names import (
    NameTable,
    detectron2_resnet_rules,
    detrex_swin_derived,
    detrex_swin_rules,
    with_current_names,
)
from crossstage.errors import InputError
from crossstage.modeling.backbone import TimmBackbone
from tests.random_scenes import tiny_dino

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
    with pytest.raises(InputError, match="no name for surprise in detrex's checkpoints"):
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


def test_what_they_compute_is_dropped_when_reading_and_made_when_writing():
    table = NameTable(
        [("body.{p}", "backbone.{p}")],
        derived=[("body.{i}.pairs", "backbone.{i}.bias", lambda bias: bias + 1)],
        unread=["body.{i}.statistics"],
    )
    ours = {"backbone.0.bias": torch.tensor([1.0]), "backbone.0.weight": torch.tensor([2.0])}
    theirs = table.to_foreign(ours)
    assert {name: tensor.item() for name, tensor in theirs.items()} == {
        "body.0.bias": 1,
        "body.0.weight": 2,
        "body.0.pairs": 2,
    }
    assert table.to_native(theirs | {"body.3.statistics": torch.zeros(1)}) == ours
    assert table.native_name("body.0.pairs") is None and table.is_left_out("body.0.pairs")


@pytest.fixture(scope="module")
def swin() -> TimmBackbone:
    options = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 3}
    return TimmBackbone(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        frozen_norm=False,
        frozen_stages=0,
        output_norm=True,
        options=options,
    )


def detrex_merging(state: dict[str, torch.Tensor], stage: int, tokens: torch.Tensor) -> torch.Tensor:
    """Patch merging as Swin's authors write it down, [1, H, W, C] -> [1, H/2, W/2, 2C]: rows alternate first."""
    prefix = f"backbone.layers.{stage}.downsample."
    corners = [tokens[:, 0::2, 0::2], tokens[:, 1::2, 0::2], tokens[:, 0::2, 1::2], tokens[:, 1::2, 1::2]]
    merged = torch.cat(corners, dim=-1)
    shape = merged.shape[-1:]
    normed = nn.functional.layer_norm(merged, shape, state[prefix + "norm.weight"], state[prefix + "norm.bias"])
    return normed @ state[prefix + "reduction.weight"].T


def test_detrexs_swin_merges_the_same_neighbours(swin: TimmBackbone):
    table = NameTable(detrex_swin_rules(), derived=detrex_swin_derived())
    for parameter in swin.parameters():
        nn.init.normal_(parameter)
    theirs = table.to_foreign({f"backbone.{name}": tensor for name, tensor in swin.state_dict().items()})
    for stage, merging in enumerate((swin.body.layers_1, swin.body.layers_2, swin.body.layers_3)):
        tokens = torch.randn(1, 4, 6, 12 * 2**stage)
        torch.testing.assert_close(merging.downsample(tokens), detrex_merging(theirs, stage, tokens))


def mmdet_merging(tokens: torch.Tensor, norm: nn.LayerNorm, reduction: nn.Linear) -> torch.Tensor:
    """Patch merging of [B, H, W, C] by nn.Unfold, as mmdetection's Swin does it: [B, H/2, W/2, 2C]."""
    merged = unfold(tokens.permute(0, 3, 1, 2), kernel_size=2, stride=2).transpose(1, 2)  # [B, H/2 * W/2, C * 4]
    reduced = reduction(layer_norm(merged, merged.shape[-1:], norm.weight, norm.bias))
    return reduced.unflatten(1, (tokens.shape[1] // 2, tokens.shape[2] // 2))


@pytest.mark.parametrize("prefix", ["backbone.", ""])  # the file of a backbone alone lacks it
def test_mmdets_swin_merges_patches_in_another_order(swin: TimmBackbone, prefix: str):
    norm, reduction, merging = nn.LayerNorm(48), nn.Linear(48, 24, bias=False), swin.body.layers_1.downsample
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    parts = nn.ModuleDict({"norm": norm, "reduction": reduction}).state_dict()
    theirs = {f"{prefix}stages.0.downsample.{name}": tensor for name, tensor in parts.items()}
    table = mmdet_mixer_names([])
    ours = table.to_native(theirs)
    merging.load_state_dict({name.removeprefix("backbone.body.layers_1.downsample."): t for name, t in ours.items()})
    tokens = torch.randn(2, 4, 6, 12)
    torch.testing.assert_close(merging(tokens), mmdet_merging(tokens, norm, reduction))
    back = table.to_foreign(ours)
    assert all(back[f"backbone.stages.0.downsample.{name}"].equal(tensor) for name, tensor in parts.items())


def test_detrexs_swin_numbers_the_pairs_of_a_window_as_timms(swin: TimmBackbone):
    """So the rows of the bias table mean the same, and what we write with it is what its attention looks up."""
    table = NameTable(detrex_swin_rules(), derived=detrex_swin_derived())
    theirs = table.to_foreign({f"backbone.{name}": tensor for name, tensor in swin.state_dict().items()})
    pairs = theirs["backbone.layers.2.blocks.0.attn.relative_position_index"]
    assert pairs.equal(swin.body.layers_2.blocks[0].attn.relative_position_index)
    assert pairs.dtype == torch.int64 and pairs[0, 0] == 12 and pairs[0, 1] == 11 and pairs[0, 3] == 7
    assert sum(name.endswith("relative_position_index") for name in theirs) == 4
    assert "backbone.norm1.weight" in theirs and "backbone.norm0.weight" not in theirs


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("queries.content.weight", "queries.source.content.weight"),
        ("queries.denoising.label_embed.weight", "queries.extra.denoising.label_embed.weight"),
        ("queries.source.content.weight", "queries.source.content.weight"),
        ("queries.extra.denoising.label_embed.weight", "queries.extra.denoising.label_embed.weight"),
        ("decoder.layers.0.queries.weight", "decoder.layers.0.queries.weight"),
    ],
)
def test_former_names_of_our_own_become_todays(former, current):
    assert list(with_current_names({former: torch.zeros(1)})) == [current]


def test_a_checkpoint_of_before_the_joined_queries_still_loads(tmp_path):
    """Its names are those of `former`; nothing is missing and nothing is left over."""
    detector = tiny_dino()
    state = detector.state_dict()
    former = {name.replace(".source.", ".").replace("queries.extra.", "queries."): t for name, t in state.items()}
    assert any(name.startswith("queries.denoising.") for name in former) and former.keys() != state.keys()
    torch.save({"model": former}, tmp_path / "former.pth")
    other = tiny_dino()
    load_model(other, tmp_path / "former.pth")
    assert all(tensor.equal(state[name]) for name, tensor in other.state_dict().items())
