"""The perturbation: when it is drawn, what it does to contents and boxes, and where it may be put."""

import pytest
import torch
from crossstage.projects.deqdet.modeling.noise import BranchNoise, Perturbation, PerturbationNoise

from crossstage.layers.position_vector import corners_to_vectors, overlap_with_row, vectors_to_corners
from crossstage.modeling.decoders.mixer import BoxState
from crossstage.structures import StageOutputs
from tests.projects.deqdet.small import detector_of
from tests.random_scenes import image_batch
from tests.tiny_models import decoder_inputs

DOUBLE = torch.float64


def state_of(queries: int = 5) -> BoxState:
    sizes = torch.rand(2, queries, 2, dtype=DOUBLE) * 20 + 4
    low = torch.rand(2, queries, 2, dtype=DOUBLE) * 30
    vectors = corners_to_vectors(torch.cat([low, low + sizes], dim=-1))
    return BoxState(torch.randn(2, queries, 16, dtype=DOUBLE), vectors)


def test_probabilities_of_0_and_1_are_never_and_always():
    never, always = (
        Perturbation(content_probability=0, position_probability=0),
        Perturbation(content_probability=1, position_probability=1),
    )
    for index in range(1, 200):
        assert never.draw(state_of(), index) == PerturbationNoise(None, None)
        noise = always.draw(state_of(), index)
        assert noise.content.shape == (2, 5, 16) and noise.position.shape == (2, 5, 4)
        assert noise.content.dtype == noise.position.dtype == DOUBLE
    with pytest.raises(ValueError, match=r"content_probability=20: expected a number in \[0, 1\]"):
        Perturbation(content_probability=20)


def test_the_decisions_are_drawn_even_where_the_probability_is_0():
    torch.manual_seed(0)
    uniforms = torch.rand(6)
    torch.manual_seed(0)
    perturbation = Perturbation(content_probability=0, position_probability=0)
    for index in range(1, 4):
        perturbation.draw(state_of_zeros, index)
    assert torch.rand(()).item() != uniforms[0].item()
    torch.manual_seed(0)
    torch.rand(6)
    following = torch.rand(())
    torch.manual_seed(0)
    for index in range(1, 4):
        perturbation.draw(state_of_zeros, index)
    assert torch.rand(()).equal(following)


state_of_zeros = BoxState(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))


def test_content_noise_is_as_large_as_the_querys_content():
    state, noise = state_of(), torch.randn(2, 5, 16, dtype=DOUBLE)
    perturbation = Perturbation(content_scale=0.1)
    found = perturbation.apply(state, PerturbationNoise(content=noise), step=None)
    norms = state.content.square().sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(found.content, 0.9 * state.content + 0.1 * norms * noise)
    assert found.vectors is state.vectors and found.corners is None


def test_swapped_corners_stay_swapped_for_the_attention_and_are_sorted_in_the_vectors():
    step, state = detector_of().decoder.refinement, state_of()
    noise = torch.zeros(2, 5, 4, dtype=DOUBLE)
    noise[0, 0] = torch.tensor([3.0, 0, -3.0, 0])  # times 10 pixels: x1 passes x2
    found = Perturbation(position_scale=10).apply(state, PerturbationNoise(position=noise), step)
    assert found.content is state.content
    x1, y1, x2, y2 = found.corners[0, 0]
    assert x1 > x2 and y1 < y2
    torch.testing.assert_close(found.corners, vectors_to_corners(state.vectors) + 10 * noise)
    sorted_corners = torch.stack([x2, y1, x1, y2])
    torch.testing.assert_close(vectors_to_corners(found.vectors)[0, 0], sorted_corners, rtol=1e-6, atol=1e-6)
    assert not overlap_with_row(found.corners)[0, 0].any(), "a box of negative width covers nothing"
    again = step.noised(found, -noise, 10.0)
    torch.testing.assert_close(again.corners, vectors_to_corners(state.vectors))


def outputs_of(seed: int, **decoder: object) -> StageOutputs:
    torch.manual_seed(5)
    detector = detector_of(steps=6, supervised=[1, 3, 6], **decoder).train()
    with torch.no_grad():
        inputs = decoder_inputs(detector, image_batch(2, 1))
        torch.manual_seed(seed)
        return detector.decoder(*inputs)


ALWAYS = {"content_probability": 1.0, "position_probability": 1.0, "position_scale": 3.0}


def node(cls: type, **options: object) -> dict:
    return {"_target_": f"{cls.__module__}.{cls.__name__}", **options}


def changed(first: StageOutputs, second: StageOutputs) -> list[str]:
    """The stages whose predictions differ."""
    same = [a.equal(b) for a, b in zip(first.logits, second.logits, strict=True)]
    return [name for name, equal in zip(first.names, same, strict=True) if not equal]


def test_the_same_seed_gives_the_same_noise_and_the_chain_before_has_none():
    noisy = {"perturbation": node(Perturbation, **ALWAYS)}
    assert changed(outputs_of(1, **noisy), outputs_of(1, **noisy)) == []
    branches = ["iter1", "iter3", "iter6"]
    assert changed(outputs_of(1, **noisy), outputs_of(2, **noisy)) == branches
    assert changed(outputs_of(1, **noisy), outputs_of(1, perturbation=None)) == branches


@pytest.mark.parametrize("steps_before", [0, 1])
def test_noise_of_a_branch_stays_in_it(steps_before: int):
    noise = node(BranchNoise, perturbation=node(Perturbation, **ALWAYS), steps_before=steps_before)
    clean, noisy = outputs_of(1, perturbation=None), outputs_of(1, perturbation=None, branch_noise=noise)
    assert changed(clean, noisy) == ["iter1", "iter3", "iter6"]
    silent = {"content_probability": 0.0, "position_probability": 0.0}
    noise["perturbation"] = node(Perturbation, **silent)
    assert changed(clean, outputs_of(1, perturbation=None, branch_noise=noise)) == []


def test_a_branch_takes_noise_at_its_start_or_one_step_before():
    with pytest.raises(ValueError, match="steps_before=2: expected 0 or 1"):
        BranchNoise(Perturbation(), steps_before=2)
