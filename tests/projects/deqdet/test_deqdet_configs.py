"""DEQDet's configs: numbers of parameters, the optimizer's groups, and the names of released checkpoints."""

import logging
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from crossstage.projects.deqdet.checkpoint import mmdet_deqdet_names
from omegaconf import DictConfig
from torch import nn

from crossstage.checkpoints.load import load_model
from crossstage.config import LazyConfig, instantiate
from crossstage.config.nodes import opaque
from tests.golden.folder import GoldenFolder
from tests.mmengine_files import write_mmengine_file
from tests.tiny_models import ROOT

CONFIGS = ROOT / "projects/deqdet/configs"
GOLDEN = ROOT / "tests/golden/data"


def config_of(name: str) -> DictConfig:
    return LazyConfig.load(str(CONFIGS / f"{name}.py"))


@cache
def on_meta(name: str) -> nn.Module:
    node = config_of(name).model
    node.backbone.pretrained = False
    with torch.device("meta"):
        return instantiate(node)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("deqdet_r50_12ep", 61.3),
        ("deqdet_r50_300q_24ep", 65.6),
        ("rnndet_r50_64points_300q_36ep", 69.9),
        ("deqdet_r50_64points_300q_24ep", 77.8),
    ],
)
def test_the_numbers_of_parameters_are_the_papers(name: str, millions: float):
    count = sum(parameter.numel() for parameter in on_meta(name).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)


def test_the_neck_of_the_released_weights_costs_as_much_as_its_convolutions():
    counts = [
        sum(p.numel() for p in on_meta(name).neck.parameters()) for name in ("deqdet_r50_12ep", "ffndet_r50_12ep")
    ]
    more = counts[1] - counts[0]
    assert more == 8 * 256 * (256 + 512 + 1024 + 2048)  # 9 taps instead of 1; 7.9 M
    with_32_points = sum(parameter.numel() for parameter in on_meta("deqdet_r50_12ep").parameters())
    assert (with_32_points + more) / 1e6 == pytest.approx(69.1, rel=0.005)


def optimizer_groups(name: str) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of each trained parameter."""
    optimizer, model = config_of(name).optimizer, on_meta(name)
    optimizer.params.model = opaque(model)
    groups = instantiate(optimizer).param_groups
    found = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    return {key: found[id(value)] for key, value in model.named_parameters() if value.requires_grad}


def test_the_decoder_learns_faster_and_decays_more_its_norms_included():
    groups = optimizer_groups("deqdet_r50_12ep")
    for name, (rate, decay) in groups.items():
        expected = (1e-4, 0.1) if name.startswith("decoder.") else (2.5e-5, 0.01)
        assert (rate, decay) == pytest.approx(expected), name
    assert len(Counter(groups.values())) == 2


def test_a_swins_norms_and_relative_positions_learn_slowly_and_do_not_decay():
    groups = optimizer_groups("deqdet_swin_small_300q_24ep")
    expected = {
        "backbone.body.patch_embed.norm.weight": (2.5e-6, 0.0),
        "backbone.body.layers_0.blocks.0.norm1.bias": (2.5e-6, 0.0),
        "backbone.body.layers_1.downsample.norm.weight": (2.5e-6, 0.0),
        "backbone.body.layers_1.downsample.reduction.weight": (2.5e-5, 0.01),
        "backbone.body.layers_0.blocks.0.attn.relative_position_bias_table": (2.5e-6, 0.0),
        "backbone.body.layers_0.blocks.0.attn.qkv.bias": (2.5e-5, 0.01),
        "backbone.norms.0.weight": (2.5e-6, 0.0),
        "neck.norm.weight": (2.5e-5, 0.0),
        "neck.convs.0.conv.weight": (2.5e-5, 0.01),
        "queries.source.content.weight": (2.5e-5, 0.01),
        "decoder.refinement.layer.ffn_norm.weight": (1e-4, 0.1),
    }
    assert {name: groups[name] for name in expected} == {name: pytest.approx(pair) for name, pair in expected.items()}


@pytest.mark.parametrize(
    ("folder", "config", "shared"), [("deqdet", "deqdet_r50_64points_12ep", True), ("ffndet", "ffndet_r50_12ep", False)]
)
def test_every_name_of_the_reference_is_one_of_ours_and_back(folder: str, config: str, shared: bool):
    table = mmdet_deqdet_names(shared_weights=shared)
    neck = [f"neck.{name}" for name in GoldenFolder(GOLDEN / "neck_channel_mapper_gn").weights]
    theirs = [*GoldenFolder(GOLDEN / folder).weights, *neck]
    mapped = {table.native_name(name): name for name in theirs}
    ours = {name for name in on_meta(config).state_dict() if not name.startswith("backbone.")}
    stages = ("layers.3", "layers.4", "layers.5", "heads.3", "heads.4", "heads.5")  # the folder has three
    assert mapped.keys() == {name for name in ours if not any(stage in name for stage in stages)}
    assert {native: table.foreign_names(native) for native in mapped} == {n: [name] for n, name in mapped.items()}


PARENT = "roi_head.bbox_head.{}.instance_interactive_conv"  # of the parent class there, which nothing calls


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize(
    ("name", "derived"),
    [("deqdet_r50_64points_300q_24ep", 0), ("deqdet_swin_small_64points_300q_24ep", 24)],  # the pairs of each window
)
def test_a_file_like_the_released_ones_loads_with_nothing_left_over(name, derived, tmp_path: Path, caplog):
    """Its tensors are views of one number, so that the file is small."""
    model, table = on_meta(name), instantiate(config_of(name).train.checkpoint_names)
    shapes = {key: tensor.shape for key, tensor in table.to_foreign(model.state_dict()).items()}
    shapes |= {f"{PARENT.format(i)}{rest}": (3, 2) for i in (0, 1) for rest in (".dynamic_layer.weight", "_norm.bias")}
    path = tmp_path / "epoch_24.pth"
    write_mmengine_file(path, {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()})
    with caplog.at_level(logging.INFO, "crossstage.checkpoints"):
        load_model(model, path, names=table)  # an InputError if anything else is missing or unexpected
    assert f"{4 + derived} tensors have no counterpart here" in caplog.text
    assert table.is_left_out(f"{PARENT.format(1)}.norm.weight") and not table.is_left_out(
        "roi_head.bbox_head.0.iof_tau"
    )
