"""csla.detrex around a stand-in that calls itself as detrex's SetCriterion does; runs without detrex."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detrex_stand_ins import (
    CLASSES,
    QUERIES,
    STAGES,
    AsksForOtherTargets,
    Matcher,
    StandIn,
    WithExtraLoss,
    WithOwnClassLoss,
    adapted,
    scene,
    stage,
)
from omegaconf import OmegaConf
from torch import Tensor, nn

from crossstage.config import LazyCall as L
from crossstage.config import instantiate
from csla import CrossStageLabels
from csla.detrex import CrossStageCriterion, with_csla

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("stand_in_detrex")


def positives(losses_of_class: Tensor, logits: Tensor) -> list[int]:
    """Queries whose class 2 is asked for: a positive's logit falls by a step of descent against its gradient."""
    (gradient,) = torch.autograd.grad(losses_of_class, logits, retain_graph=True)
    return (gradient[0, :, 2] < 0).nonzero().flatten().tolist()


def test_a_stage_learns_the_matches_of_the_next_ones_and_of_one_before():
    outputs, targets = scene()
    losses = adapted(StandIn())(outputs, targets)
    stages = [outputs["aux_outputs"][0], outputs["aux_outputs"][1], outputs]
    names = ["loss_class_0", "loss_class_1", "loss_class"]
    found = [positives(losses[name], stage["pred_logits"]) for name, stage in zip(names, stages, strict=True)]
    assert found == [[0, 1, 2], [0, 1, 2], [1, 2]]


def test_names_order_and_box_losses_are_the_wrapped_criterion_s():
    outputs, targets = scene()
    plain, ours = StandIn()(outputs, targets), adapted(StandIn())(outputs, targets)
    assert list(ours) == list(plain)
    for name in plain:
        assert torch.equal(ours[name], plain[name]) == ("bbox" in name), name


def test_a_model_may_multiply_each_loss_in_place_by_its_weight():
    """As detrex's models do. Autograd refuses this for some views."""
    outputs, targets = scene()
    losses = adapted(StandIn())(outputs, targets)
    for name in losses:
        losses[name] *= 2.0
    sum(losses.values()).backward()
    assert all(stage["pred_logits"].grad.abs().sum() > 0 for stage in (outputs, *outputs["aux_outputs"]))


def test_each_stage_is_matched_once():
    criterion = StandIn()
    outputs, targets = scene()
    adapted(criterion)(outputs, targets)
    assert criterion.matcher.calls == STAGES


def test_a_subclass_keeps_its_extra_losses():
    outputs, targets = scene()
    losses = adapted(WithExtraLoss(losses=("class", "boxes", "count")))(outputs, targets)
    assert [losses[name].item() for name in ("loss_count", "loss_count_0", "loss_count_1")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("groups", "own"),
    [(("matching",), ["encoder", "denoising"]), (("matching", "denoising"), ["encoder"]), (("proposals",), "all else")],
)
def test_only_the_groups_that_are_named_leave_the_wrapped_class_loss(groups, own):
    outputs, targets = scene()
    outputs["enc_outputs"], denoising = stage(3), {"output_known_lbs_bboxes": stage(0)}
    criterion = StandIn()
    adapted(criterion, groups=groups)(outputs, targets, denoising)
    assert criterion.matcher.calls == STAGES + 1, "denoising queries know their object; the encoder is matched once"
    parts = {"encoder": outputs["enc_outputs"], "denoising": denoising["output_known_lbs_bboxes"]}
    asked = {id(logits) for logits in criterion.own_class_losses}
    if own == "all else":
        assert id(parts["encoder"]["pred_logits"]) not in asked and len(asked) == STAGES + 1
    else:
        assert asked == {id(parts[name]["pred_logits"]) for name in own}


def test_h_detr_s_second_call_is_its_one_to_many_branch():
    """It comes with the tensors that the first call had under other names, and repeated objects."""
    outputs, targets = scene()
    many = stage(0, 1)
    outputs["pred_logits_one2many"] = many["pred_logits"]
    repeated = [{name: torch.cat([value, value]) for name, value in target.items()} for target in targets]
    for groups, own_calls in ((("matching",), 1), (("matching", "one_to_many"), 0)):
        criterion = StandIn()
        adapter = adapted(criterion, groups=groups)
        adapter(outputs, targets)
        assert criterion.own_class_losses == []
        adapter(many, repeated)
        assert len(criterion.own_class_losses) == own_calls


@pytest.mark.parametrize(("localisation", "regressed"), [(False, [1, 1, 1]), (True, [3, 2, 1])])
def test_localisation_regresses_the_queries_of_later_stages_too(localisation, regressed):
    """The boxes are moved off the object a little, so that each regressed query costs something."""
    outputs, targets = scene()
    stages = [*outputs["aux_outputs"], outputs]
    for one in stages:
        one["pred_boxes"] = one["pred_boxes"] - torch.tensor([0.0, 0.0, 0.1, 0.0])
    options = {"look_ahead": None, "look_back": 0}
    model = with_csla(L(dict)(criterion=L(StandIn)()), localisation=localisation, **options)
    losses = instantiate(model.criterion)(outputs, targets)
    counts = [losses[name].item() / 0.05 for name in ("loss_bbox_0", "loss_bbox_1", "loss_bbox")]
    assert counts == pytest.approx(regressed, abs=1e-4)


def test_the_matches_of_other_targets_are_asked_for():
    outputs, targets = scene()
    assert adapted(AsksForOtherTargets())(outputs, targets)["loss_bbox"] == 0


@pytest.mark.parametrize("matcher", [Matcher(), Matcher().forward])
def test_nothing_is_left_behind_in_the_criterion_even_after_an_error(matcher):
    criterion = StandIn(matcher)
    adapter = adapted(criterion)
    before = dict(vars(criterion))
    outputs, targets = scene()
    adapter(outputs, targets)
    with pytest.raises(KeyError):
        adapter({"pred_logits": outputs["pred_logits"]}, targets)
    assert dict(vars(criterion)) == before
    assert adapter.weight_dict is criterion.weight_dict
    assert copy.deepcopy(adapter)(outputs, targets).keys() == adapter(outputs, targets).keys()


def test_a_class_loss_that_takes_multi_hot_labels_stands_in():
    seen = []

    def class_loss(logits: Tensor, labels: Tensor, *, normalizer: float) -> Tensor:
        seen.append((tuple(logits.shape), labels.dtype, normalizer))
        return logits.flatten(1).sum(-1)

    adapter = CrossStageCriterion(WithOwnClassLoss(), labels=CrossStageLabels(), class_loss=class_loss)
    outputs, targets = scene()
    losses = adapter(outputs, targets)
    assert seen == [((STAGES, 1, QUERIES, CLASSES), torch.bool, 2.0)]
    assert losses["loss_class_1"] == outputs["aux_outputs"][1]["pred_logits"].sum()


def node() -> Any:
    return L(dict)(criterion=L(StandIn)(losses=["class"]), hidden=7, dn_number=5)


def test_the_node_keeps_its_keys_and_the_input_stays_as_it_is():
    model = node()
    before = OmegaConf.to_container(model)
    edited = with_csla(with_csla(model, look_back=3), iou_threshold=0.25, groups=("matching", "denoising"))
    assert OmegaConf.to_container(model) == before
    edited.criterion.losses = ["class", "boxes"]  # as a detrex config goes on to do
    adapter = instantiate(edited.criterion)
    assert (adapter.criterion.losses, adapter.groups) == (["class", "boxes"], ("matching", "denoising"))
    assert (adapter.labels.iou_threshold, adapter.labels.look_back) == (0.25, 1)
    assert isinstance(adapter.criterion, StandIn)


def test_without_detrex_or_with_an_old_one_the_error_says_what_to_install(monkeypatch):
    edited = with_csla(node())
    monkeypatch.setattr(sys.modules["detrex.modeling.criterion"], "SetCriterion", nn.Module)
    with pytest.raises(ImportError, match=r"0\.3 or newer.*readthedocs.*older"):
        instantiate(edited.criterion)
    monkeypatch.setitem(sys.modules, "detrex.modeling.criterion", None)
    with pytest.raises(ImportError, match=r"detrex.readthedocs.*detectron2.readthedocs"):
        instantiate(edited.criterion)


def test_a_package_that_detrex_itself_needs_is_named(monkeypatch):
    class Missing:
        """detrex is there, but one of its imports fails."""

        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name == "detrex.modeling.criterion":
                raise ModuleNotFoundError("No module named 'fairscale'", name="fairscale")

    edited = with_csla(node())
    monkeypatch.delitem(sys.modules, "detrex.modeling.criterion")
    sys.modules["detrex.modeling"].__path__ = []
    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    with pytest.raises(ImportError, match="detrex needs the package fairscale, which is not installed"):
        instantiate(edited.criterion)


def test_imports_bring_no_foreign_package_and_the_check_fails_in_one_line():
    code = (
        "import sys; sys.modules.update(detrex=None, detectron2=None, transformers=None)\n"
        "import csla, csla.detrex, csla.transformers, dca.detrex, crossstage.interop.detectron2 as interop\n"
        "try: interop.registered_dataset('coco_2017_val')\n"
        "except interop.MissingPackageError as error: assert 'detectron2.readthedocs.io' in str(error)\n"
        "else: raise SystemExit('no error')\n"
        "from csla.detrex_check import main; main(['--check'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Installation" in done.stderr
