"""The equilibrium decoder: which predictions it returns, when it stops, and what it refuses."""

import copy

import pytest
import torch
from crossstage.projects.deqdet.modeling.equilibrium import EquilibriumDecoder
from crossstage.projects.deqdet.modeling.steps import MixerStep
from crossstage.projects.stage_interactor.modeling.mixing import CascadeMixing
from torch import nn

from crossstage.structures import Memory, PaddedTargets, Queries
from csla import CrossStageLabels
from tests.projects.deqdet.small import detector_of
from tests.random_scenes import image_batch
from tests.tiny_models import decoder_inputs

NO_NOISE = {"perturbation": None}


def inputs_of(detector: nn.Module, *counts: int) -> tuple[Queries, Memory]:
    torch.manual_seed(3)
    return decoder_inputs(detector, image_batch(*counts))


def test_training_returns_the_supervised_predictions_in_the_order_of_their_depth():
    detector = detector_of(steps=9, supervised=[1, 4, 9], extra_supervised=2, gradient_steps=3, **NO_NOISE).train()
    queries, memory = inputs_of(detector, 2, 1)
    with torch.no_grad():
        found = detector.decoder(queries, memory)
        every, _ = detector.decoder.trace(queries, memory, 12)
    assert found.names == ("init", "init1", "init2", "iter1", "iter4", "iter9")
    depths = [0, 1, 2, 1 + 3, 4 + 3, 9 + 3]  # applications after the initial step
    torch.testing.assert_close(found.logits, every.logits[depths], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.boxes, every.boxes[depths], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.states, every.states[depths], rtol=1e-9, atol=1e-9)


def test_evaluation_returns_the_last_prediction_alone():
    detector = detector_of(steps=9, supervised=[9], eval_steps=5, perturbation=None).eval()
    queries, memory = inputs_of(detector, 2, 1)
    with torch.no_grad():
        found = detector.decoder(queries, memory)
        every, residuals = detector.decoder.trace(queries, memory, 5)
    assert every.names == ("init", "iter1", "iter2", "iter3", "iter4", "iter5")
    assert found.logits.equal(every.logits[5:]) and found.boxes.equal(every.boxes[5:])
    change = (every.states[1:] - every.states[:-1]).flatten(2).norm(dim=2)
    torch.testing.assert_close(residuals, change / every.states[1:].flatten(2).norm(dim=2))


def test_without_steps_it_is_a_chain_with_gradient_whose_last_prediction_is_that_of_evaluation():
    detector = detector_of(steps=0, supervised=[], extra_supervised=4)
    queries, memory = inputs_of(detector, 2, 1)
    chain = detector.decoder.train()(queries, memory)
    with torch.no_grad():
        last = detector.decoder.eval()(queries, memory)
    assert chain.names == ("init", "init1", "init2", "init3", "init4")
    torch.testing.assert_close(chain.logits[-1:], last.logits, rtol=1e-9, atol=1e-9)
    content_weight = detector.decoder.initial.layer.ffn.layers[0].weight
    (gradient,) = torch.autograd.grad(chain.logits[-1].sum(), content_weight)
    assert gradient.any(), "gradient goes from the last step to the first through the contents"


def test_without_an_initial_step_the_iteration_begins_with_the_queries():
    detector = detector_of(initial=None, steps=3, supervised=[3], extra_supervised=1, **NO_NOISE).train()
    queries, memory = inputs_of(detector, 2, 1)
    found = detector.decoder(queries, memory)
    assert found.names == ("init1", "iter3")
    state, logits = detector.decoder.refinement(detector.decoder.refinement.start(queries, memory), memory)
    assert found.logits[0].equal(logits) and found.states[0].equal(state.content)
    (gradient,) = torch.autograd.grad(found.logits[0].sum(), detector.queries.source.content.weight, retain_graph=True)
    assert gradient.any()


def test_without_recomputation_or_with_it_the_outputs_are_the_same():
    outputs = []
    for recompute in (False, True):
        detector = detector_of(recompute=recompute).train()
        inputs = inputs_of(detector, 2, 1)
        torch.manual_seed(4)
        outputs.append(detector.decoder(*inputs))
    assert outputs[0].logits.equal(outputs[1].logits) and outputs[0].boxes.equal(outputs[1].boxes)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"supervised": [1, 21]}, r"supervised=\(1, 21\): expected increasing numbers of steps from 1 to steps=20"),
        ({"supervised": [0, 3]}, "expected increasing numbers"),
        ({"supervised": [3, 1]}, "expected increasing numbers"),
        ({"supervised": [3, 3]}, "expected increasing numbers"),
        ({"steps": 0}, "expected increasing numbers"),
        ({"gradient_steps": 0}, "gradient_steps=0 must be at least 1"),
        ({"extra_supervised": -1}, "extra_supervised=-1 at least 0"),
        ({"initial": None, "supervised": [], "extra_supervised": 0}, "nothing to predict"),
        ({"initial": None, "eval_steps": 0}, "nothing to predict"),
    ],
)
def test_numbers_that_do_not_fit_are_an_error(options: dict, complaint: str):
    step = detector_of().decoder.refinement
    with pytest.raises(ValueError, match=complaint):
        EquilibriumDecoder(**({"initial": step, "refinement": step} | options))


def test_a_mixing_that_reuses_filters_of_other_stages_is_an_error():
    layer = copy.deepcopy(detector_of().decoder.refinement.layer)
    layer.mixing = CascadeMixing.__new__(CascadeMixing)
    nn.Module.__init__(layer.mixing)
    with pytest.raises(ValueError, match=r"CascadeMixing, which reuses filters .* Use AdaptiveMixing"):
        MixerStep(layer=layer, class_head=nn.Identity(), box_head=nn.Identity())


def test_cross_stage_labels_count_supervised_outputs_not_applications():
    detector = detector_of(steps=6, supervised=[1, 6], **NO_NOISE).train()
    batch = image_batch(4, 3)
    targets = PaddedTargets.of(batch.targets)
    with torch.no_grad():
        _, (group,) = detector.predict(batch, targets)
        (matches,) = detector.criterion.match([group], targets)
        matching = detector.criterion.supervision("matching")
        matching.labels = CrossStageLabels(look_back=1, look_ahead=0, iou_threshold=0.0)
        labels = matching.assign(group, targets, matches).labels
    assert group.outputs.names == ("init", "init1", "init2", "iter1", "iter6")
    expected = torch.zeros_like(labels, dtype=torch.bool)
    for stage in range(5):
        for heard in {stage, max(stage - 1, 0)}:  # iter6 hears iter1, seven applications before
            image, query = (matches[heard] >= 0).nonzero(as_tuple=True)
            expected[stage, image, query, targets.labels[image, matches[heard, image, query]]] = True
    assert labels.bool().equal(expected)
