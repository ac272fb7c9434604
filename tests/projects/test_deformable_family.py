"""Deformable-DETR and H-DETR built tiny from their configs: what holds for each of them, whatever its queries."""

import pytest
import torch
from torch import nn

from crossstage.config import LazyConfig, instantiate
from crossstage.modeling.detector import Detector
from crossstage.structures import PaddedTargets
from csla import with_csla
from dca import with_dca
from tests.foreign_names import PROJECTS
from tests.random_scenes import alone, image_batch

DEFORMABLE = ("deformable_detr_r50", "deformable_detr_r50_with_box_refinement", "deformable_detr_r50_two_stage")
HYBRID = ("h_detr_r50", "h_detr_r50_one_stage")
MODELS = (*DEFORMABLE, *HYBRID)
TWO_STAGE = ("deformable_detr_r50_two_stage", "h_detr_r50")


def tiny_node(name: str):
    """The node of a config at a small size: 8 queries, 12 more in the hybrid branch, 2 stages, 2 levels, 8 classes."""
    project = "h_detr" if name in HYBRID else "deformable_detr"
    node = LazyConfig.load(str(PROJECTS / f"{project}/configs/models/{name}.py")).model
    node.num_classes, node.embed_dim, node.queries.source.num_queries = 8, 16, 8
    node.backbone.update(name="resnet18", pretrained=False, strides=[8, 16], options={"channels": [8, 8, 8, 8]})
    node.backbone.update(frozen_norm=False, frozen_stages=0)
    node.neck.update(in_channels=[8, 8], num_levels=2, groups=4)
    node.encoder.num_layers, node.decoder.num_layers, node.encoder.position.num_features = 1, 2, 8
    for layer in (node.encoder.layer, node.decoder.layer):
        layer.ffn.update(feedforward_dim=16, dropout=0.0)
        layer.self_attn.update(num_heads=2, dropout=0.0)
    node.decoder.layer.cross_attn.update(num_heads=2, dropout=0.0)
    if name in HYBRID:
        node.queries.source.extra_queries = 12
        node.criterion.groups.one_to_many.matcher.copies = 3
    return node


def tiny(name: str) -> Detector:
    """The detector with random parameters: none waits for a zero-initialised one to learn first."""
    detector = instantiate(tiny_node(name))
    for parameter in detector.parameters():
        nn.init.normal_(parameter, std=0.2)
    return detector


def gradients(detector: Detector, *counts: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor | None]]:
    losses = detector.train()(image_batch(*counts)).terms
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in detector.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("counts", [(1,), (3, 1), (0, 2), (40, 1)])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(name: str, counts: tuple[int, ...]):
    losses, found = gradients(tiny(name), *counts)
    assert all(loss.isfinite() for loss in losses.values())
    for parameter, gradient in found.items():
        assert gradient.isfinite().all(), parameter
        assert gradient.count_nonzero() > 0, parameter


@pytest.mark.parametrize("name", MODELS)
def test_without_any_object_the_same_losses_are_finite_and_every_parameter_has_a_gradient(name: str):
    detector = tiny(name)
    expected = list(detector.train()(image_batch(2, 1)).terms)
    losses, found = gradients(detector, 0, 0)
    assert list(losses) == expected
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_called_as_in_detrex(name: str):
    suffixes = {"", "_0"} | ({"_enc"} if name in TWO_STAGE else set())
    suffixes |= {"_one2many", "_0_one2many"} if name in HYBRID else set()
    losses = tiny(name).train()(image_batch(2, 1)).terms
    assert set(losses) == {f"loss_{kind}{suffix}" for kind in ("class", "bbox", "giou") for suffix in suffixes}


@pytest.mark.parametrize("name", MODELS)
def test_images_of_a_batch_are_predicted_as_alone(name: str):
    detector, batch = tiny(name).double().eval(), image_batch(1, 1)
    with torch.no_grad():
        for image, found in enumerate(detector(batch)):
            (expected,) = detector(alone(batch, image))
            assert found.labels.equal(expected.labels)
            torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", HYBRID)
def test_the_hybrid_branch_exists_in_training_alone_and_nobody_sees_it(name: str):
    detector, batch = tiny(name).double().train(), image_batch(2, 1)
    targets = PaddedTargets.of(batch.targets)
    queries, groups = detector.predict(batch, targets)
    assert [(part.group.name, part.group.size) for part in groups] == [("matching", 8), ("one_to_many", 12)]
    assert queries.attention_mask[:8, 8:].all() and queries.attention_mask[8:, :8].all()
    assert not queries.attention_mask[:8, :8].any() and not queries.attention_mask[8:, 8:].any()
    _, (matching,) = detector.predict(batch)
    torch.testing.assert_close(groups[0].outputs.logits, matching.outputs.logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(groups[0].outputs.boxes, matching.outputs.boxes, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", TWO_STAGE)
def test_padding_is_supervised_as_a_proposal_and_never_becomes_a_query(name: str):
    detector = tiny(name).eval()
    batch = image_batch(1, 1, sizes=((64, 96), (24, 32)))
    queries, _ = detector.predict(batch)
    proposals = queries.proposals.outputs.boxes[0]
    assert proposals.shape[1] == 8 * 12 + 4 * 6
    padding = (proposals == 1).all(dim=-1)
    assert padding[1].sum() >= 96 - 12 and not padding[0].any()
    assert not (queries.references == 1).all(dim=-1).any()
    assert not queries.references.requires_grad


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_autocast_keeps_boxes_and_losses_in_float32(name: str):
    detector, batch = tiny(name), image_batch(3, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector.train()(batch).terms
        _, groups = detector.predict(batch)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(part.outputs.boxes.dtype == part.outputs.logits.dtype == torch.float32 for part in groups)


@pytest.mark.parametrize("name", MODELS)
def test_csla_of_the_own_stage_alone_is_the_baseline(name: str):
    node = tiny_node(name)
    other = with_csla(node, look_back=0, look_ahead=0, iou_threshold=0.0)
    detector, changed = instantiate(node), instantiate(other)
    changed.load_state_dict(detector.state_dict())
    losses, expected = (one.train()(image_batch_once()).terms for one in (changed, detector))
    assert all(loss.equal(expected[key]) for key, loss in losses.items())


@pytest.mark.parametrize("name", MODELS)
def test_csla_and_dca_commute(name: str):
    losses = []
    for node in (with_dca(with_csla(tiny_node(name))), with_csla(with_dca(tiny_node(name)))):
        torch.manual_seed(0)
        losses.append(instantiate(node).train()(image_batch_once()).terms)
    assert all(loss.isfinite() and loss.equal(losses[1][key]) for key, loss in losses[0].items())


def image_batch_once():
    torch.manual_seed(3)
    return image_batch(3, 1)


def test_without_refinement_all_stages_start_from_the_learned_points():
    detector, batch = tiny("deformable_detr_r50").eval(), image_batch(1)
    queries, (matching,) = detector.predict(batch)
    assert queries.references.shape == (1, 8, 2)
    assert matching.outputs.references.equal(queries.references.expand(2, -1, -1, -1))
    assert len(detector.decoder.box_heads) == len(detector.decoder.class_heads) == 1


def test_the_first_boxes_of_learned_points_are_small_and_later_heads_change_nothing():
    node = tiny_node("deformable_detr_r50_with_box_refinement")
    node.decoder.num_layers = 3
    detector = instantiate(node).eval()
    queries, (matching,) = detector.predict(image_batch(1))
    for boxes in matching.outputs.boxes:
        torch.testing.assert_close(boxes[..., :2], queries.references)
        torch.testing.assert_close(boxes[..., 2:], torch.full_like(boxes[..., 2:], -2.0).sigmoid())


@pytest.mark.parametrize("name", ["deformable_detr_r50_with_box_refinement", "h_detr_r50_one_stage"])
def test_learned_points_learn_from_the_first_stage_alone_unless_boxes_look_forward_twice(name: str):
    detector = tiny(name).train()
    _, groups = detector.predict(image_batch(1))
    groups[0].outputs.boxes[1].sum().backward()
    gradient = detector.decoder.box_heads[0].layers[-1].weight.grad
    assert (gradient is not None and bool(gradient.count_nonzero())) == (name == "h_detr_r50_one_stage")
