"""A whole detector, tiny: what must hold for any batch, size, order, precision and device."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from crossstage.config import instantiate
from crossstage.errors import NonFiniteError
from crossstage.structures import PaddedTargets, Target
from tests.random_scenes import alone, image_batch, local_dino, tiny_dino, tiny_dino_node

SIZES = ((64, 96), (96, 64), (32, 32))


def doubled(detector: nn.Module) -> nn.Module:
    return detector.double().eval()


def step(detector: nn.Module, batch) -> dict[str, torch.Tensor]:
    detector.zero_grad()
    losses = detector.train()(batch).terms
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize("counts", [(1,), (3, 1), (0, 2), (60, 1)])
def test_every_parameter_learns(counts):
    detector = tiny_dino()
    losses = step(detector, image_batch(*counts))
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.count_nonzero() > 0, name


def test_without_any_object_losses_are_finite_and_every_parameter_has_a_gradient():
    """Otherwise the other processes of a distributed run wait for ever."""
    detector = tiny_dino()
    losses = step(detector, image_batch(0, 0))
    assert list(losses) == list(step(detector, image_batch(2, 1)))
    step(detector, image_batch(0, 0))
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (40, 104)])
def test_an_image_with_fewer_tokens_than_queries_trains_and_evaluates(size):
    node = tiny_dino_node()
    node.queries.source.num_queries = 200
    node.backbone.frozen_norm = True  # a batch norm itself cannot train on a single cell
    detector = instantiate(node)
    batch = image_batch(2, sizes=(size,))
    losses = step(detector, batch)
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        (found,) = detector.eval()(batch)
    assert len(found) <= 12
    queries, (matching,) = detector.predict(batch)
    assert matching.outputs.boxes.shape == (2, 1, 200, 4)
    assert queries.references.isfinite().all()


def test_a_batch_of_equal_sizes_gives_what_each_image_gives_alone():
    detector, batch = doubled(tiny_dino()), image_batch(1, 1)
    with torch.no_grad():
        together = detector(batch)
        for image, found in enumerate(together):
            (expected,) = detector(alone(batch, image))
            assert found.labels.equal(expected.labels)
            torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=1e-9)
            torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padded", [(96, 96), (160, 224)])
def test_detections_do_not_depend_on_padding(padded):
    """With features that do not either. (A real backbone reads across the border; DINO's query positions, and a
    GroupNorm, see the padded map: that is what the released weights were trained with.)"""
    detector = doubled(local_dino())
    batch = image_batch(1, 1, 1, sizes=SIZES, padded=padded)
    with torch.no_grad():
        for image, found in enumerate(detector(batch)):
            (expected,) = detector(alone(batch, image))
            assert len(found) > 0
            assert found.labels.equal(expected.labels)
            torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=1e-9)


def test_detrexs_evaluation_does_depend_on_padding():
    detector = doubled(local_dino())
    detector.eval_ignores_padding = True
    batch = image_batch(1, 1, sizes=SIZES[:2])
    with torch.no_grad():
        together, (expected,) = detector(batch), detector(alone(batch, 0))
        assert not torch.allclose(together[0].scores, expected.scores)
        full = detector(alone(batch, 1))
        detector.eval_ignores_padding = False
        assert detector(alone(batch, 1))[0].scores.equal(full[0].scores)  # where there is no padding they agree


def test_padding_in_training_changes_no_loss_of_the_matching_queries():
    detector = local_dino().double().train()
    detector.queries.extra.clear()
    batch = image_batch(2, sizes=(SIZES[0],))
    padded = image_batch(2, sizes=(SIZES[0],), padded=(128, 128))
    pixels = torch.zeros_like(padded.pixels)
    pixels[:, :, :64, :96] = batch.pixels
    losses = detector(batch).terms
    again = detector(replace(padded, pixels=pixels, targets=batch.targets)).terms
    for name, loss in losses.items():
        torch.testing.assert_close(again[name], loss, rtol=1e-9, atol=1e-9)


def test_permuted_queries_give_permuted_outputs():
    detector, batch = doubled(tiny_dino()), image_batch(1, 1)
    queries, (matching,) = detector.predict(batch)
    order = torch.randperm(12)
    permuted = replace(queries, content=queries.content[:, order], references=queries.references[:, order])
    memory = detector.encoder(detector.neck(detector.backbone(batch.pixels, batch.mask), batch.mask))
    outputs = detector.decoder(permuted, memory)
    torch.testing.assert_close(outputs.logits, matching.outputs.logits[:, :, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(outputs.boxes, matching.outputs.boxes[:, :, order], rtol=0, atol=1e-10)


def test_matching_queries_do_not_see_the_denoising_ones():
    detector, batch = tiny_dino().double().train(), image_batch(3, 1)
    outputs = []
    for boxes in (batch.targets, tuple(Target(t.labels, t.boxes.flip(-1)) for t in batch.targets)):
        _, groups = detector.predict(batch, PaddedTargets.of(boxes))
        assert [predicted.group.name for predicted in groups] == ["denoising", "matching"]
        outputs.append(groups[-1].outputs.logits)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


def test_training_losses_are_the_same_for_the_same_seed():
    detector, batch = tiny_dino(), image_batch(3, 1)
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        runs.append(detector.train()(batch).terms)
    assert all(loss.equal(runs[1][name]) for name, loss in runs[0].items())


def test_bfloat16_autocast_keeps_boxes_and_losses_in_float32():
    detector, batch = tiny_dino(), image_batch(3, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector.train()(batch).terms
        queries, groups = detector.predict(batch, PaddedTargets.of(batch.targets))
    sum(losses.values()).backward()
    assert queries.references.dtype == torch.float32
    assert all(part.outputs.boxes.dtype == part.outputs.logits.dtype == torch.float32 for part in groups)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = detector.eval()(batch)
    assert found[0].boxes_xyxy.dtype == torch.float32


def test_float64_runs_in_float64_throughout():
    losses = step(tiny_dino().double(), image_batch(3, 1))
    assert {loss.dtype for loss in losses.values()} == {torch.float64}


def test_it_builds_on_meta_without_memory():
    with torch.device("meta"):
        detector = instantiate(tiny_dino_node())
    assert {tensor.device.type for tensor in detector.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("part", ["decoder.box_heads.0.layers.2.bias", "decoder.class_heads.1.bias"])
def test_weights_that_are_not_finite_stop_the_step_with_stage_and_image(part):
    detector = tiny_dino().train()
    with torch.no_grad():
        detector.get_parameter(part).fill_(float("nan"))
    stage = part.split(".")[2]
    with pytest.raises(NonFiniteError, match=f"stage {stage}, image 0"):
        detector(image_batch(2, 1))


def test_training_without_targets_says_what_to_do():
    batch = replace(image_batch(1), targets=None)
    with pytest.raises(ValueError, match=r"needs targets; call model.eval\(\)"):
        tiny_dino().train()(batch)
    assert len(tiny_dino().eval()(batch)) == 1


def test_the_number_of_stages_is_one_value_of_the_config():
    node = tiny_dino_node()
    node.decoder.num_layers = 4
    losses = instantiate(node)(image_batch(2, 1))
    assert len(losses.terms) == 3 * (4 + 4 + 1)


def test_each_stage_starts_from_weights_of_its_own():
    first, second = instantiate(tiny_dino_node()).decoder.layers
    assert not first.ffn.layers[0].weight.equal(second.ffn.layers[0].weight)
