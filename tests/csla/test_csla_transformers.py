"""`csla.transformers` against the losses of transformers, and against the sentence of the rule with loops."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossstage.structures import PaddedTargets, Target
from csla import cross_stage_scores
from csla.detrex_stages import as_matches
from csla.transformers import CrossStageLoss, with_csla
from csla.transformers_families import UnsupportedModelError
from tests import tiny_hugging_face as tiny
from tests.cross_stage_loops import scores_by_loops
from tests.tiny_hugging_face import CLASSES, GROUPS, LAYERS, NAMES, Call, transformers

FOCAL = {"DeformableDetr", "ConditionalDetr", "DabDetr"}
GROUPED = {"LwDetr", "RfDetr"}
pytestmark = pytest.mark.filterwarnings("ignore:.*before transformers 5.18")
OWN_STAGE = {"look_back": 0, "look_ahead": 0, "iou_threshold": 0.0}


def gradients(call: Call, total: Tensor) -> Tensor:
    """The gradient of all parameters as one vector."""
    parameters = [parameter for parameter in call.model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([torch.zeros(0), *(gradient.flatten() for gradient in found if gradient is not None)])


@pytest.mark.parametrize("counts", [(3, 0), (0, 0), (20, 2)], ids=["an empty image", "all empty", "too many objects"])
@pytest.mark.parametrize("name", NAMES)
def test_with_the_labels_of_the_own_stage_all_losses_and_gradients_are_the_plain_ones(name: str, counts):
    call = tiny.call_of(name, *counts)
    plain_total, plain = call.losses()
    total, ours = call.losses(CrossStageLoss(call.plain, OWN_STAGE))
    assert list(ours) == list(plain)
    tolerance = 0.0 if name in FOCAL else 1e-6
    for term in plain:
        torch.testing.assert_close(ours[term], plain[term], rtol=tolerance, atol=tolerance, msg=term)
    expected, found = gradients(call, plain_total), gradients(call, total)
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= 2 * tolerance * expected.abs().max()


def near_objects(call: Call, seed: int) -> Call:
    """The same call with random logits and with boxes that lie near random objects of their image."""
    generator = torch.Generator().manual_seed(seed)
    arguments = dict(call.arguments)
    by_image = images_first(call)
    coordinates = arguments["outputs_coord"].detach().clone()
    for image, target in enumerate(arguments["labels"]):
        boxes = coordinates[image] if by_image else coordinates[:, image]
        if len(target["boxes"]):
            chosen = torch.randint(len(target["boxes"]), boxes.shape[:-1], generator=generator)
            noise = 0.05 * torch.randn(boxes.shape, generator=generator)
            boxes.copy_((target["boxes"][chosen] + noise).clamp(0.05, 0.95))
    logits = torch.randn(arguments["outputs_class"].shape, generator=generator)
    last = (slice(None), -1) if by_image else (-1,)
    for all_stages, name, value in (("outputs_class", "logits", logits), ("outputs_coord", "pred_boxes", coordinates)):
        tail = value[last]
        arguments |= {all_stages: value, name: tail[:, -arguments[name].shape[1] :]}
    return dataclasses.replace(call, arguments=arguments)


def images_first(call: Call) -> bool:
    """Whether outputs of all stages are [B, S, N, ...], as in RT-DETR and its kin, and not [S, B, N, ...]."""
    return "enc_topk_logits" in call.arguments


def stages_of(call: Call) -> tuple[Tensor, Tensor]:
    """logits [S, B, N, K] and boxes [S, B, N, 4] of the decoder's stages that transformers supervises.

    D-FINE and DEIMv2 give one stage more than they have layers, and drop the last but one.
    """
    found = []
    for name in ("outputs_class", "outputs_coord"):
        value = call.arguments[name].detach()
        value = value.transpose(0, 1) if images_first(call) else value
        found.append(value[[*range(LAYERS - 1), -1]][:, :, call.denoising :])
    return found[0], found[1]


def matches_of(call: Call, name: str, logits: Tensor, boxes: Tensor) -> Tensor:
    """The matches of each stage by transformers' matcher, int64 [S, B, N]."""
    from transformers.loss import loss_deformable_detr, loss_rt_detr

    config, further = call.model.config, ()
    if images_first(call):
        matcher: Any = loss_rt_detr.RTDetrHungarianMatcher(config)
    else:
        costs = (config.class_cost, config.bbox_cost, config.giou_cost)
        matcher = loss_deformable_detr.DeformableDetrHungarianMatcher(*costs)
        if name in GROUPED:
            from transformers.loss.loss_lw_detr import LwDetrHungarianMatcher

            matcher, further = LwDetrHungarianMatcher(*costs), (GROUPS,)
    stages = [{"logits": one, "pred_boxes": other} for one, other in zip(logits, boxes, strict=True)]
    return as_matches([matcher(stage, call.arguments["labels"], *further) for stage in stages], boxes)


def class_losses(name: str, logits: Tensor, scores: Tensor) -> Tensor:
    """The class losses before their normaliser, [S]: all are weighted binary cross-entropies. In float64."""
    probability, overlap = logits.double().sigmoid(), scores.double().clamp(min=0)
    if name in FOCAL:
        target, weight, negative = torch.ones_like(overlap), 0.25 * (1 - probability) ** 2, 0.75
    elif name in GROUPED:
        target, weight, negative = (probability**0.25 * overlap**0.75).clamp(min=0.01), torch.ones_like(overlap), 1
    elif name == "Deimv2":
        target, weight, negative = overlap**2, torch.ones_like(overlap), 1
    else:
        target, weight, negative = overlap, overlap, 0.75
    positives = weight * -(target * probability.log() + (1 - target) * (1 - probability).log())
    negatives = negative * probability**2 * -(1 - probability).log()
    return torch.where(scores >= 0, positives, negatives).flatten(1).sum(-1)


def names_of_class_losses(name: str) -> list[str]:
    """The class losses of the decoder's stages, in order."""
    if name in FOCAL | GROUPED:
        return [*(f"loss_ce_{stage}" for stage in range(LAYERS - 1)), "loss_ce"]
    kind = "loss_mal" if name == "Deimv2" else "loss_vfl"
    return [*(f"{kind}_aux_{stage}" for stage in range(LAYERS - 1)), kind]


def check_against_loops(name: str, call: Call, **options: Any) -> tuple[int, int]:
    """The class losses are those of the sentence, all others plain. Returns positives and queries with many labels."""
    plain, ours = call.losses()[1], call.losses(CrossStageLoss(call.plain, options))[1]
    class_terms = names_of_class_losses(name)
    for term in plain.keys() - set(class_terms):
        assert ours[term].equal(plain[term]), term
    logits, boxes = stages_of(call)
    targets = [Target(one["class_labels"], one["boxes"]) for one in call.arguments["labels"]]
    padded = PaddedTargets.of(targets)
    matches = matches_of(call, name, logits, boxes)
    scene = (matches, boxes.double(), padded.labels, padded.boxes.double())
    scores = scores_by_loops(scene, num_classes=CLASSES, **options)
    objects = padded.num_objects * (GROUPS if name in GROUPED else 1)
    expected = class_losses(name, logits, scores) / objects
    found = torch.stack([ours[term] for term in class_terms]).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    labels = scores >= 0
    assert not torch.stack([plain[term] for term in class_terms]).allclose(found.float(), rtol=1e-3)
    return int(labels.sum()), int((labels.sum(-1) > 1).sum())


@pytest.mark.parametrize("name", NAMES)
def test_the_class_losses_are_those_of_the_sentence_and_all_others_are_plain(name: str):
    call = tiny.call_of(name, 6, 0)
    found = [check_against_loops(name, near_objects(call, seed)) for seed in range(6)]
    assert min(positives for positives, _ in found) > 10
    assert sum(several for _, several in found) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"look_back": None, "look_ahead": 0, "iou_threshold": 0.3},
        {"filter_own": False, "iou_threshold": 0.4},
        {"plain_last_stages": 1},
    ],
    ids=str,
)
def test_each_option_is_passed_on(options):
    model = with_csla(tiny.tiny("RTDetr"), **options)
    check_against_loops("RTDetr", near_objects(tiny.call_of("RTDetr", 6, 0), seed=1), **model.loss_function.options)


def test_the_model_uses_it_and_a_second_call_replaces_the_options():
    call, model = tiny.call_of("RTDetr", 3, 0), tiny.tiny("RTDetr")
    assert with_csla(model, look_back=None) is model
    assert with_csla(model).loss_function.plain is call.plain
    torch.manual_seed(0)
    labels = tiny.annotations(3, 0)
    found = model(pixel_values=tiny.pixels(), labels=labels)
    expected, _ = call.losses(CrossStageLoss(call.plain, {}))
    assert found.loss.equal(expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GROUPED])
def test_the_rule_holds_in_evaluation_too(name: str):
    """D-FINE and DEIMv2 have one stage there. (LW-DETR and RF-DETR match 13 groups in one group's queries there.)"""
    model, labels = tiny.tiny(name).eval(), tiny.annotations(3, 0)
    plain = model(pixel_values=tiny.pixels(), labels=labels)
    own = with_csla(model, **OWN_STAGE)(pixel_values=tiny.pixels(), labels=labels)
    torch.testing.assert_close(own.loss, plain.loss, rtol=1e-6, atol=0)
    assert not with_csla(model)(pixel_values=tiny.pixels(), labels=labels).loss.equal(plain.loss)


@pytest.mark.parametrize("filter_own", [True, False])
def test_with_random_weights_no_own_match_reaches_the_threshold(filter_own: bool, monkeypatch: pytest.MonkeyPatch):
    """The cold start that csla/README.md tells of."""
    found: list[tuple[Tensor, Tensor]] = []

    def recorded(matches: Tensor, *arguments: Any, **options: Any) -> Tensor:
        found.append((matches, cross_stage_scores(matches, *arguments, **options)))
        return found[-1][1]

    monkeypatch.setattr("csla.transformers.cross_stage_scores", recorded)
    call = tiny.call_of("RTDetr", 6, 4)
    call.losses(CrossStageLoss(call.plain, {"filter_own": filter_own}))
    ((matches, scores),) = found
    assert (matches >= 0).sum() == LAYERS * 10
    assert (scores >= 0).sum() == (0 if filter_own else LAYERS * 10)


def test_stages_that_are_not_recognised_are_an_error(monkeypatch: pytest.MonkeyPatch):
    """If transformers copied the logits of the encoder's proposals, these would become a stage of the decoder."""
    call = tiny.call_of("RTDetr", 3, 0)
    stages = call.plain.__globals__["_set_aux_loss"]

    def copied(classes: Any, boxes: Any) -> list[dict[str, Tensor]]:
        return [stage | {"logits": stage["logits"].clone()} for stage in stages(classes, boxes)]

    monkeypatch.setitem(call.plain.__globals__, "_set_aux_loss", copied)
    with pytest.raises(RuntimeError, match="RTDetrLoss of this transformers gives its stages in a form"):
        call.losses(CrossStageLoss(call.plain, {}))


def with_loss_type(loss_type: str) -> Any:
    """A model for which transformers finds another loss function."""
    model = tiny.tiny("RTDetr")
    model.loss_type = loss_type
    return model


def with_own_loss() -> Any:
    model = tiny.tiny("RTDetr")
    model.loss_function = len
    return model


def without_auxiliary_losses() -> Any:
    model = tiny.tiny("ConditionalDetr")
    model.config.auxiliary_loss = False
    return model


def yolos() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.YolosForObjectDetection(transformers.YolosConfig(**sizes, image_size=[64, 64]))


REFUSED = {
    "softmax": (yolos, "its class loss is a softmax"),
    "words": (lambda: with_loss_type("GroundingDinoForObjectDetection"), "its classes are the words of a text"),
    "masks": (lambda: with_loss_type("ConditionalDetrForSegmentation"), "segmentation is not supported"),
    "no detector": (lambda: with_loss_type("ForCausalLM"), "its loss function is ForCausalLMLoss"),
    "a loss of one's own": (with_own_loss, "its loss function is len"),
    "one stage": (without_auxiliary_losses, "auxiliary_loss=True"),
    "compiled": (lambda: torch.compile(tiny.tiny("RTDetr")), "OptimizedModule is not a model.*on the model inside"),
    "a wrapper": (lambda: nn.DataParallel(tiny.tiny("RTDetr")), "DataParallel is not a model.*on the model inside"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_with_a_reason(build: Any, message: str):
    model = build()
    before = getattr(model, "loss_function", None)
    with pytest.raises(UnsupportedModelError, match=message):
        with_csla(model)
    assert getattr(model, "loss_function", None) is before


def test_impossible_options_and_old_versions_are_refused(monkeypatch: pytest.MonkeyPatch):
    model = tiny.tiny("RTDetr")
    with pytest.raises(ValueError, match="iou_threshold=2"):
        with_csla(model, iou_threshold=2)
    monkeypatch.setattr("transformers.__version__", "4.51.3")
    with pytest.raises(ImportError, match=r"needs transformers 4.52 or newer; found 4.51.3"):
        with_csla(model)


def test_versions_with_other_losses_of_the_last_stage_are_named(monkeypatch: pytest.MonkeyPatch, recwarn):
    monkeypatch.setattr("transformers.__version__", "5.17.0")
    with_csla(tiny.tiny("ConditionalDetr"))
    assert not recwarn
    with pytest.warns(UserWarning, match=r"RTDetrForObjectDetection: before transformers 5\.18"):
        with_csla(tiny.tiny("RTDetr"))
