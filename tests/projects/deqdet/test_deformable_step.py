"""A layer of Deformable-DETR as a step: the arithmetic of `DeformableDecoder`, and what noise does to its boxes."""

from dataclasses import replace

import pytest
import torch
from crossstage.projects.deqdet.modeling.steps import DeformableStep, ReferenceState
from torch import nn

from crossstage.config import LazyConfig
from crossstage.layers.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from crossstage.modeling.decoders.deformable import DeformableDecoder
from crossstage.modeling.detector import Detector
from crossstage.structures import Memory, Queries
from tests.random_scenes import boxes_inside, image_batch
from tests.tiny_models import ROOT, decoder_inputs, randomised, tiny

FILE = ROOT / "projects/deqdet/configs/models/deq_deformable_toy.py"
DOUBLE = torch.float64


def detector() -> Detector:
    return randomised(tiny(LazyConfig.load(str(FILE)).model)).eval()


def inputs(model: Detector) -> tuple[Queries, Memory]:
    torch.manual_seed(1)
    with torch.no_grad():
        return decoder_inputs(model, image_batch(1, 1, sizes=((64, 96), (48, 64))))


def as_stages(step: DeformableStep, count: int) -> DeformableDecoder:
    """A decoder whose stages all have the parts of one step."""
    decoder = DeformableDecoder.__new__(DeformableDecoder)
    nn.Module.__init__(decoder)
    decoder.layers, decoder.class_heads, decoder.box_heads = (
        nn.ModuleList([part] * count) for part in (step.layer, step.class_head, step.box_head)
    )
    decoder.query_positions, decoder.norm = step.query_positions, step.norm
    decoder.look_forward_twice, decoder.refine = False, True
    return decoder


def test_steps_are_the_stages_of_the_deformable_decoder_with_one_set_of_weights():
    model = detector()
    queries, memory = inputs(model)
    step = model.decoder.refinement
    step.norm = nn.Identity()
    state, states, logits = step.start(queries, memory), [], []
    with torch.no_grad():
        for _ in range(3):
            state, scores = step(state, memory)
            states.append(state)
            logits.append(scores)
        expected = as_stages(step, 3)(queries, memory)
    torch.testing.assert_close(torch.stack(logits), expected.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.boxes(states, memory), expected.boxes, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.stack([s.content for s in states]), expected.states, rtol=1e-12, atol=1e-12)


def test_both_heads_read_through_the_norm_and_the_content_goes_on_without_it():
    model = detector()
    queries, memory = inputs(model)
    step = model.decoder.refinement
    with torch.no_grad():
        state, logits = step(step.start(queries, memory), memory)
        expected = as_stages(step, 1)(queries, memory)
    torch.testing.assert_close(logits, expected.logits[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.references, expected.boxes[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.norm(state.content), expected.states[0], rtol=1e-12, atol=1e-12)


def test_gradients_go_from_step_to_step_through_the_content_alone():
    model = detector()
    queries, memory = inputs(model)
    content, references = queries.content.clone().requires_grad_(), queries.references.clone().requires_grad_()
    state = ReferenceState(content, references, memory.image_sizes)
    state, logits = model.decoder.refinement(state, memory)
    of_content, of_boxes = torch.autograd.grad(
        logits.sum() + state.references.sum(), (content, references), allow_unused=True
    )
    assert of_content.any() and of_boxes is None


def test_noise_counts_the_pixels_of_each_image_and_boxes_stay_in_it():
    step = detector().decoder.refinement
    sizes = torch.tensor([[100.0, 50.0], [200.0, 400.0]], dtype=DOUBLE)
    references = xyxy_to_cxcywh(torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=DOUBLE)).expand(2, 3, 4)
    noise = torch.zeros(2, 3, 4, dtype=DOUBLE)
    noise[:, 0, 0], noise[:, 1, 3] = 1, -1  # 10 pixels to the right; 10 up
    noise[0, 2] = torch.tensor([6.0, 0, -1, 1])  # left edge to 0.8, right edge to 0.5; lower edge to 1.1
    found = step.noised(ReferenceState(torch.randn(2, 3, 16), references, sizes), noise, 10.0)
    corners = cxcywh_to_xyxy(found.references)
    expected = [
        [[0.3, 0.4, 0.6, 0.9], [0.2, 0.4, 0.6, 0.7], [0.5, 0.4, 0.8, 1.0]],
        [[0.25, 0.4, 0.6, 0.9], [0.2, 0.4, 0.6, 0.875], [0.2, 0.4, 0.6, 0.9]],
    ]
    torch.testing.assert_close(corners, torch.tensor(expected, dtype=DOUBLE))
    wild = step.noised(replace(found, references=boxes_inside(2, 3, dtype=DOUBLE)), torch.randn(2, 3, 4) * 9, 100.0)
    corners = cxcywh_to_xyxy(wild.references)
    assert corners.ge(-1e-12).all() and corners.le(1 + 1e-12).all() and wild.references[..., 2:].ge(0).all()


def test_points_and_learned_boxes_cannot_be_refined():
    model = detector()
    queries, memory = inputs(model)
    for references, complaint in (
        (queries.references[..., :2], r"this decoder refines boxes \[B, N, 4\]"),
        (queries.references.clone().requires_grad_(), "learned boxes would never change"),
    ):
        with pytest.raises(ValueError, match=complaint):
            model.decoder.refinement.start(replace(queries, references=references), memory)


def test_the_losses_are_called_after_the_steps_and_the_proposals():
    model = detector().train()
    terms = model(image_batch(2, 1)).terms
    suffixes = ("_init", "_init1", "_init2", "_iter1", "_iter3", "_iter6", "", "_enc")
    assert terms.keys() == {f"loss_{kind}{suffix}" for suffix in suffixes for kind in ("class", "bbox", "giou")}
