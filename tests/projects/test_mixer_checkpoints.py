"""mmdetection's AdaMixer and StageInteractor and ours are the same tensors under two names; and how many they are."""

from pathlib import Path

import pytest
import torch
from crossstage.projects.adamixer.checkpoint import mmdet_adamixer_names
from crossstage.projects.stage_interactor.checkpoint import mmdet_stage_interactor_names
from omegaconf import DictConfig
from torch import nn

from crossstage.checkpoints.names import NameTable
from crossstage.config import LazyConfig, instantiate
from crossstage.structures import GroupOutputs, PaddedTargets, QueryGroup
from tests.golden.folder import GoldenFolder
from tests.random_scenes import objects_of, predictions

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/data"
FILES = {
    "adamixer": ROOT / "projects/adamixer/configs/models/adamixer_r50.py",
    "stageinteractor": ROOT / "projects/stage_interactor/configs/models/stage_interactor_r50.py",
}
NOTHING_READS = "subbox_score_list"
UNREAD_PARAMETERS = (1 + 2 + 3 + 4) * (256 * 128 + 128)  # for each filter that a stage reuses


def node_of(name: str) -> DictConfig:
    node = LazyConfig.load(str(FILES[name])).model
    node.backbone.pretrained = False
    return node


def on_meta(node: DictConfig) -> nn.Module:
    with torch.device("meta"):
        return instantiate(node)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("folder", "table"),
    [
        ("adamixer", mmdet_adamixer_names()),
        ("stageinteractor", mmdet_stage_interactor_names()),
        ("stageinteractor_ablation_static_channel", mmdet_stage_interactor_names()),
        ("stageinteractor_ablation_vanilla_sampling_groupinit", mmdet_stage_interactor_names(free_sampler=True)),
    ],
)
def test_every_name_of_the_reference_is_one_of_ours_and_back(folder: str, table: NameTable):
    golden = GoldenFolder(GOLDEN / folder)
    theirs = [*golden.weights, *(f"neck.{name}" for name in GoldenFolder(GOLDEN / "neck_channel_mapping").weights)]
    node = node_of(folder.split("_")[0])
    node.decoder.num_layers = golden.meta["hyper_parameters"]["num_stages"]
    if "vanilla" in folder:
        node.decoder.layer.sampler["_target_"] = (
            "crossstage.projects.stage_interactor.modeling.grouped_sampler.ungrouped_sampler"
        )
    ours = {name for name in on_meta(node).state_dict() if not name.startswith("backbone.")}
    natives = {name: table.native_name(name) for name in theirs}
    assert {name for name in theirs if natives[name] not in ours} == {name for name in theirs if NOTHING_READS in name}
    mapped = {native: name for name, native in natives.items() if native in ours}
    assert mapped.keys() == ours
    assert {native: table.foreign_names(native) for native in mapped} == {n: [name] for n, name in mapped.items()}


@pytest.mark.parametrize("table", [mmdet_adamixer_names(), mmdet_stage_interactor_names()])
def test_a_resnet_keeps_its_names(table: NameTable):
    for name in ("conv1.weight", "layer1.0.downsample.1.running_var", "layer4.2.bn3.bias"):
        assert table.native_name(f"backbone.{name}") == f"backbone.body.{name}"
        assert table.foreign_names(f"backbone.body.{name}") == [f"backbone.{name}"]


def test_adamixer_has_as_many_parameters_as_the_paper_says():
    model = on_meta(node_of("adamixer"))
    assert count(model) == 134_790_504  # the paper: 134 M, or 135
    assert count(model.decoder) == 110_272_296


@pytest.mark.parametrize(
    ("reuse", "parameters"),
    [
        ({}, 112_759_048 - UNREAD_PARAMETERS),  # of the released code, less what nothing reads
        ({"channel_filters": 0, "spatial_filters": 0}, 114_014_216),
    ],
)
def test_stage_interactor_has_as_many_parameters_as_the_released_code(reuse: dict, parameters: int):
    node = node_of("stageinteractor")
    node.decoder.layer.mixing.reuse.update(reuse)
    assert count(on_meta(node.decoder)) == parameters


@pytest.mark.parametrize("name", FILES)
def test_a_batch_without_objects_has_a_finite_loss(name: str):
    """The released code divides by 0 there."""
    criterion = instantiate(node_of(name).criterion)
    outputs = predictions(3, 2, 5)
    losses = criterion([GroupOutputs(QueryGroup("matching", 5), outputs)], PaddedTargets.of(objects_of(0, 0)))
    assert all(loss.isfinite() for loss in losses.values())
    assert all((loss > 0) == key.startswith("loss_class") for key, loss in losses.items())
    sum(losses.values()).backward()
    assert outputs.logits.grad.isfinite().all()
    assert outputs.boxes.grad.count_nonzero() == 0


def test_a_query_is_no_positive_of_an_object_that_it_hardly_overlaps_but_learns_its_box():
    """StageInteractor's labels are cross-stage ones from the start; the divisor counts what is more."""
    node = node_of("stageinteractor")
    criterion, own = instantiate(node.criterion), instantiate(node_of("adamixer").criterion)
    outputs, targets = predictions(3, 1, 5), PaddedTargets.of(objects_of(2))
    groups = [GroupOutputs(QueryGroup("matching", 5), outputs)]
    found, expected = (one(groups, targets) for one in (criterion, own))
    assert found.keys() == expected.keys()
    assert [key for key in found if not found[key].equal(expected[key])] == [k for k in found if "class" in k]
