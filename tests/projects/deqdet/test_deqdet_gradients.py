"""What the branches' gradients are: those of a fixed point, cheap in memory, and the same when computed again."""

from itertools import pairwise

import pytest
import torch
from crossstage.projects.deqdet.modeling.equilibrium import EquilibriumDecoder
from torch import Tensor

from benchmarks.measure import saved_bytes
from crossstage.modeling.detector import Detector
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.structures import Levels, Queries, QueryGroup
from tests.projects.deqdet.contraction import WIDTH, Contraction
from tests.projects.deqdet.small import detector_of
from tests.random_scenes import image_batch
from tests.tiny_models import decoder_inputs


def bias_gradient(step: Contraction, gradient_steps: int, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's gradient of <direction, y> by the bias, and y."""
    decoder = EquilibriumDecoder(
        initial=None,
        refinement=step,
        steps=60,
        supervised=(60,),
        extra_supervised=0,
        gradient_steps=gradient_steps,
    )
    content = torch.zeros(1, 1, WIDTH, dtype=torch.float64)
    queries = Queries(content, content[..., :4], (QueryGroup("matching", 1),))
    found = decoder(queries, unpadded_memory(content, Levels.of([(1, 1)], like=content))).states[-1, 0, 0]
    (gradient,) = torch.autograd.grad(found @ direction, step.bias)
    return gradient, found.detach()


@torch.no_grad()
def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def test_each_step_with_gradient_brings_it_nearer_to_that_of_the_fixed_point():
    torch.manual_seed(0)
    step, direction = Contraction(), torch.randn(WIDTH, dtype=torch.float64)
    errors = []
    for gradient_steps in (1, 2, 3, 4):
        gradient, point = bias_gradient(step, gradient_steps, direction)
        errors.append(relative_error(gradient, step.implicit_gradient(point, direction)))
    assert errors[0] < 0.2
    assert all(after < before / 5 for before, after in pairwise(errors)), errors


def test_one_step_with_gradient_is_the_gradient_of_one_application_at_the_fixed_point():
    torch.manual_seed(0)
    step, direction = Contraction(), torch.randn(WIDTH, dtype=torch.float64)
    gradient, point = bias_gradient(step, 1, direction)
    (expected,) = torch.autograd.grad((step.weight @ point + step.bias).tanh() @ direction, step.bias)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def gradients(detector: Detector) -> dict[str, Tensor]:
    torch.manual_seed(1)  # for batch and noise
    batch = image_batch(3, 2)
    detector.zero_grad()
    detector.train()(batch).total.backward()
    return {name: value.grad for name, value in detector.named_parameters() if value.requires_grad}


def test_recomputed_branches_have_the_same_gradients_bit_for_bit():
    expected, found = (gradients(detector_of(recompute=recompute)) for recompute in (False, True))
    assert [name for name, gradient in expected.items() if not gradient.equal(found[name])] == []


def kept_bytes(**options: object) -> int:
    """What a training step of the decoder keeps for the backward pass, without parameters."""
    detector = detector_of(num_queries=20, perturbation=None, **options).train()
    queries, memory = decoder_inputs(detector, image_batch(3, 2))
    return saved_bytes(lambda: detector.decoder(queries, memory), *detector.parameters())


@pytest.mark.parametrize("more", [{"steps": 40}, {"supervised": list(range(1, 13))}], ids=["steps", "branches"])
def test_memory_depends_neither_on_the_steps_nor_on_the_branches(more: dict):
    base = {"steps": 20, "supervised": [3, 20]}
    assert kept_bytes(**(base | more)) == pytest.approx(kept_bytes(**base), rel=0.02)
    assert kept_bytes(**base, recompute=False) > 1.5 * kept_bytes(**base)


def test_the_way_to_the_fixed_point_and_the_boxes_carry_no_gradient():
    detector = detector_of(extra_supervised=0, perturbation=None).train()
    queries, memory = decoder_inputs(detector, image_batch(2, 1))
    outputs = detector.decoder(queries, memory)
    parameters = list(detector.decoder.initial.parameters())
    of_branches = outputs.logits[1:].sum() + outputs.boxes[1:].sum()
    later = torch.autograd.grad(of_branches, parameters, retain_graph=True)
    assert not any(gradient.any() for gradient in later), "the branches begin with detached states"
    own = torch.autograd.grad(outputs.logits[0].sum() + outputs.boxes[0].sum(), parameters)
    assert any(gradient.any() for gradient in own)
