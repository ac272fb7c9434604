"""csla.detrex and dca.detrex refuse, with the remedy, whatever they cannot do; runs without detrex."""

import copy
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from detrex_stand_ins import (
    STAGES,
    OfAnotherFamily,
    PastTheHooks,
    StandIn,
    WithOwnClassLoss,
    adapted,
    scene,
    stage,
)
from omegaconf import OmegaConf
from torch import nn

import csla
import dca
from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, instantiate
from csla.detrex import with_csla
from dca.detrex import with_dca

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("stand_in_detrex")


def node(**keys: Any) -> Any:
    """A model of detrex's form."""
    decoder = L(dict)(num_layers=3, embed_dim=8)
    return L(dict)(transformer=L(dict)(decoder=decoder), criterion=L(StandIn)(), dn_number=0, **keys)


def native() -> Any:
    """A model of crossstage."""
    return LazyConfig.load(ROOT / "projects/dino/configs/dino_toy.py").model


def config(*overrides: str, **options: Any) -> Any:
    """A config with a detrex model as `LazyConfig.apply_overrides` changes it."""
    whole = OmegaConf.create({"model": with_csla(node(), **options)}, flags={"allow_objects": True})
    return LazyConfig.apply_overrides(whole, list(overrides))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: with_csla(node(), iou=0.5), TypeError, "iou"),
        (lambda: with_csla(node(), groups=("decoder",)), ValueError, "expected some of matching"),
        (lambda: with_csla(node(), groups="matching"), ValueError, r"expected a list.*\[matching\]"),
        (lambda: with_csla(L(dict)()), ValueError, "`criterion`"),
        (lambda: with_csla(L(dict)(model=node())), ValueError, r"whole config.*with_csla\(config.model\)"),
        (lambda: csla.with_csla(L(dict)(model=native())), ValueError, r"whole config.*with_csla\(config.model\)"),
        (lambda: with_csla(L(dict)(criterion=StandIn())), ValueError, "is a node.*object of StandIn"),
        (lambda: with_csla(native()), ValueError, "from csla import with_csla"),
        (lambda: csla.with_csla(node()), ValueError, r"from csla\.detrex import with_csla"),
        (lambda: csla.with_csla(with_csla(node())), ValueError, r"from csla\.detrex import with_csla"),
        (lambda: with_csla(L(dict)(criterion=L(nn.Identity)())), TypeError, "loss_labels, loss_boxes, get_loss"),
        (lambda: with_csla(L(dict)(criterion=L(StandIn)(loss_class_type="ce_loss"))), TypeError, "focal_loss"),
        (lambda: with_dca(L(dict)()), ValueError, r"transformer\.decoder"),
        (lambda: with_dca(native()), ValueError, "from dca import with_dca"),
        (lambda: dca.with_dca(node()), ValueError, r"from dca\.detrex import with_dca"),
        (lambda: with_dca(node(), norm="layer"), TypeError, "norm"),
    ],
)
def test_mistakes_are_told_where_the_line_stands(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.criterion.groups=matching", r"expected a list.*\[matching\]"),
        ("model.criterion.groups=[matchng]", "Did you mean matching"),
        ("model.criterion.groups=[matching,denoising]", "no group 'denoising'. It has: matching"),
        ("model.criterion.groups=[one_to_many]", "no group 'one_to_many'. It has: matching"),
        ("model.criterion.loss_class_type=ce_loss", "focal_loss"),
    ],
)
def test_wrong_overrides_fail_when_the_model_is_built(override, message):
    with pytest.raises((ValueError, TypeError), match=message):
        instantiate(config(override).model.criterion)


def test_the_groups_of_a_model_follow_its_keys():
    both = config("model.criterion.groups=[matching,denoising]", "model.dn_number=5").model
    assert instantiate(both.criterion).groups == ("matching", "denoising")
    two_stage = with_csla(node(as_two_stage=False), groups=["proposals"])
    with pytest.raises(ValueError, match="no group 'proposals'"):
        instantiate(two_stage.criterion)
    two_stage.as_two_stage = True
    assert instantiate(two_stage.criterion).groups == ("proposals",)


def test_a_group_that_is_not_in_the_outputs_is_an_error():
    outputs, targets = scene()
    with pytest.raises(RuntimeError, match="the outputs have no denoising; they have: matching"):
        adapted(StandIn(), groups=("matching", "denoising"))(outputs, targets)
    nothing = [{name: value[:0] for name, value in target.items()} for target in targets]
    adapted(StandIn(), groups=("matching", "denoising"))(outputs, nothing)  # detrex makes no denoising queries then


def test_outputs_that_are_not_one_per_layer_are_an_error():
    """Recollected queries of SQR-DETR, or aux_loss=False, of which nothing could be learned across stages."""
    criterion = instantiate(config().model.criterion)
    outputs, targets = scene()
    criterion(outputs, targets)
    recollected = outputs | {"aux_outputs": [*outputs["aux_outputs"], stage(0)]}
    for wrong, stages in ((recollected, STAGES + 1), (stage(0), 1)):
        with pytest.raises(RuntimeError, match=rf"have {stages} stages, but the decoder has 3 layers.*SQR-DETR"):
            criterion(wrong, targets)
    assert instantiate(config("model.transformer.decoder.num_layers=4").model.criterion).num_stages == 4


def test_criteria_that_cannot_be_adapted_are_refused_with_a_reason():
    softmax = StandIn(loss_class_type="ce_loss")
    others = ((WithOwnClassLoss(), "class_loss"), (OfAnotherFamily(), "class_loss"), (nn.Identity(), "SetCriterion"))
    for criterion, reason in ((softmax, "focal"), *others):
        with pytest.raises(TypeError, match=reason):
            adapted(criterion)
    outputs, targets = scene()
    with pytest.raises(RuntimeError, match="0 of 3"):
        adapted(PastTheHooks())(outputs, targets)


def test_threshold_and_window_are_in_the_node_and_in_the_printed_model():
    model = with_csla(node(), localisation=True)
    assert (model.criterion.csla.iou_threshold, model.criterion.csla.look_back) == (0.5, 1)
    assert "look_ahead" in model.criterion.csla and "look_ahead" in model.criterion.csla_boxes
    printed = repr(instantiate(model.criterion))
    for text in (
        "groups=['matching']",
        "CrossStageLabels(iou_threshold=0.5, look_back=1, look_ahead=None",
        "BoxMatches(",
    ):
        assert text in printed


def test_targets_of_nodes_are_callables_as_those_of_detectron2():
    """detectron2's LazyConfig.to_py reads `__module__` and `__qualname__` of each."""
    decoder = L(nn.Identity)(embed_dim=8, num_layers=3)
    model = with_dca(
        with_csla(L(dict)(transformer=L(dict)(decoder=decoder), criterion=L(StandIn)()), localisation=True)
    )
    targets = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            targets.extend(value[key] for key in ("_target_",) if key in value)
            for item in value.values():
                collect(item)

    collect(OmegaConf.to_container(model, resolve=True))
    assert len(targets) == 7
    assert all(callable(target) and target.__module__ and target.__qualname__ for target in targets)
    again = with_dca(with_csla(model))  # the targets of the first call are known as such
    assert again.criterion.criterion_class == model.criterion.criterion_class
    assert again.transformer.decoder.decoder_class == "torch.nn.Identity"


def test_a_copy_of_the_step_s_criterion_is_independent():
    criterion = instantiate(config().model.criterion)
    outputs, targets = scene()
    losses = copy.deepcopy(criterion)(outputs, targets)
    assert all(torch.equal(losses[name], value) for name, value in criterion(outputs, targets).items())


@pytest.mark.parametrize("package", ["csla", "dca"])
def test_the_config_of_the_readme_evaluates_into_its_own_folder(package, monkeypatch):
    """detrex's baseline sets `dataloader.evaluator.output_dir` to the baseline's folder."""
    baseline = types.ModuleType("detrex_configs_of_dino.dino_r50_4scale_12ep")
    baseline.model, baseline.optimizer, baseline.lr_multiplier = node(), None, None
    baseline.train = OmegaConf.create({"output_dir": "./output/dino_r50_4scale_12ep"})
    baseline.dataloader = OmegaConf.create({"evaluator": {"output_dir": baseline.train.output_dir}})
    monkeypatch.setitem(sys.modules, "detrex_configs_of_dino", types.ModuleType("detrex_configs_of_dino"))
    monkeypatch.setitem(sys.modules, baseline.__name__, baseline)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / package / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "import dataloader" in block]
    names: dict[str, Any] = {"__package__": "detrex_configs_of_dino"}
    exec(block, names)
    assert names["model"].criterion.csla.iou_threshold == 0.5
    assert names["dataloader"].evaluator.output_dir == names["train"].output_dir != "./output/dino_r50_4scale_12ep"
