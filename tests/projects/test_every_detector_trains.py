"""What holds for the training of every detector in `projects`, built tiny from its config."""

import copy
import re
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyConfig, instantiate
from crossstage.structures import GroupOutputs, PaddedTargets, Queries
from csla import with_csla
from dca import with_dca
from tests.random_scenes import image_batch
from tests.tiny_models import baselines, decoder_inputs, models, plain, random_detector, randomised

# Gradients that are zero by construction: of which models, which parameters, with which numbers of objects; and why
ANY, NO_OBJECTS = {(0, 0), (1,), (15, 2)}, {(0, 0)}
ZERO_GRADIENTS = [
    (r".", r"box_heads?\.", NO_OBJECTS),  # boxes are compared with objects alone
    (r"^dino", r"denoising\.label_embed\.weight", NO_OBJECTS),  # of no class is there a copy
    (r"^(dab|dn)_detr", r"key_(content|pos)_proj\.bias", ANY),  # the same added to all keys: softmax takes it out
    # first self-attention of DAB-DETR: without patterns all contents are 0, so that all values are equal
    (r"^dab_detr(?!.*(patterns|paq))", r"decoder\.layers\.0\.self_attn\.(query|key)_", ANY),
    (r"^dab_detr(?!.*(patterns|paq))", r"decoder\.layers\.0\.self_attn\.value_proj\.weight", ANY),
    # with patterns values depend on the pattern alone, of which every anchor has each
    (r"^dab_detr.*patterns", r"decoder\.layers\.0\.self_attn\.key_pos_proj\.weight", ANY),
    # the same in DN-DETR, whose queries all have one content if there are no copies of objects
    (r"^dn_detr(?!.*paq)", r"decoder\.layers\.0\.self_attn\.(query|key)_", NO_OBJECTS),
    # the first boxes are all equal
    (r"^(adamixer|stage_interactor|ffndet)", r"layers\.0\.attention\.overlap_scale", ANY),
    (r"^(deqdet|rnndet)", r"initial\.layer\.attention\.overlap_scale", ANY),
]


def loss_and_gradients(name: str, counts: tuple[int, ...]) -> tuple[dict, dict]:
    """Losses, and the largest gradient of each parameter that learns (None: it takes no part)."""
    detector = random_detector(name).train()
    detector.zero_grad()
    losses = detector(image_batch(*counts)).terms
    sum(losses.values()).backward()
    learning = {key: parameter.grad for key, parameter in detector.named_parameters() if parameter.requires_grad}
    return losses, {key: None if grad is None else grad.abs().max().item() for key, grad in learning.items()}


BATCHES = [(name, (15, 2)) for name in models()] + [(name, few) for name in baselines() for few in ((0, 0), (1,))]


@pytest.mark.parametrize(("name", "counts"), BATCHES)
def test_losses_are_finite_float64_and_every_parameter_learns(name: str, counts: tuple[int, ...]):
    losses, largest = loss_and_gradients(name, counts)
    assert all(loss.isfinite() and loss.dtype == torch.float64 for loss in losses.values())
    assert [key for key, grad in largest.items() if grad is None or not grad < float("inf")] == []
    rules = [pattern for kind, pattern, when in ZERO_GRADIENTS if re.search(kind, name) and counts in when]
    expected = [key for key in largest if any(re.search(pattern, key) for pattern in rules)]
    assert [key for key, grad in largest.items() if grad < 1e-13 * max(largest.values())] == expected


def with_other_queries(queries: Queries, start: int, stop: int) -> Queries:
    """Queries that differ between two places of the query axis."""
    inside = torch.zeros(queries.content.shape[1], 1, dtype=torch.bool)
    inside[start:stop] = True
    changed = {"content": queries.content.neg(), "references": queries.references * 0.5 + 0.2}
    if queries.positions is not None:
        changed["positions"] = queries.positions.neg()
    return replace(queries, **{key: torch.where(inside, new, getattr(queries, key)) for key, new in changed.items()})


SEVERAL_GROUPS = [name for name, node in baselines().items() if node.queries.extra]


@pytest.mark.parametrize("name", SEVERAL_GROUPS)
def test_no_query_sees_one_of_another_group_but_copies_see_those_that_are_matched(name: str):
    detector, batch = random_detector(name).train(), image_batch(3, 1)
    with torch.no_grad():
        queries, memory = decoder_inputs(detector, batch, PaddedTargets.of(batch.targets))
        before = detector.decoder(queries, memory)
        ends = list(accumulate(group.size for group in queries.groups))
        assert len(ends) == 2
        for group, end in zip(queries.groups, ends, strict=True):
            block = group.block or group.size
            after = detector.decoder(with_other_queries(queries, end - block, end), memory)
            changed = ((after.boxes - before.boxes).abs() > 1e-9).any(dim=3).any(dim=0).any(dim=0)
            own = torch.arange(len(changed))
            own = (own >= end - block) & (own < end)
            if group.name == "matching" and queries.groups[0].name == "denoising":
                own[: queries.groups[0].size] = True
            assert changed.equal(own), group.name


@pytest.mark.parametrize("name", baselines())
def test_a_groups_losses_are_the_same_whatever_the_others_predict(name: str):
    detector, batch = random_detector(name).train(), image_batch(3, 1)
    targets = PaddedTargets.of(batch.targets)
    with torch.no_grad():
        queries, groups = detector.predict(batch, targets)
        groups += [] if queries.proposals is None else [queries.proposals]
        alone = [detector.criterion([group], targets).terms for group in groups]
        before = detector.criterion(groups, targets).terms
        assert list(before) == [loss for losses in alone for loss in losses]
        for changed, part in enumerate(groups):
            other = replace(part.outputs, logits=part.outputs.logits.neg(), boxes=part.outputs.boxes * 0.5)
            others = [*groups[:changed], GroupOutputs(part.group, other), *groups[changed + 1 :]]
            after = detector.criterion(others, targets).terms
            differing = [loss for loss in before if not after[loss].equal(before[loss])]
            assert differing == list(alone[changed]), part.group.name


@pytest.mark.parametrize("name", baselines())
def test_csla_of_the_own_stage_alone_is_the_baseline(name: str):
    detector, batch = random_detector(name).train(), image_batch(3, 1)
    targets, node = PaddedTargets.of(batch.targets), baselines()[name]
    plugged = with_csla(node, look_back=0, look_ahead=0, iou_threshold=0.0)
    with torch.no_grad():
        _, groups = detector.predict(batch, targets)
        expected, found, papers = (
            instantiate(model.criterion)(groups, targets).terms for model in (node, plugged, with_csla(node))
        )
    assert all(loss.equal(expected[key]) for key, loss in found.items())
    assert found.keys() == expected.keys() == papers.keys()
    assert [key for key in papers if not papers[key].equal(expected[key])]


def doubles(node: DictConfig) -> bool:
    """Whether `with_dca` has something to double."""
    attention = OmegaConf.select(node, "decoder.layer.cross_attn")
    return attention is not None and "second" not in attention


@pytest.mark.parametrize("name", [name for name, node in baselines().items() if doubles(node)])
def test_csla_and_dca_commute(name: str):
    node = baselines()[name]
    one, other = with_dca(with_csla(node)), with_csla(with_dca(node))
    assert plain(one) == plain(other)
    detector = randomised(one)
    losses = detector.train()(image_batch(3, 1)).terms
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert [key for key, value in detector.named_parameters() if value.requires_grad and value.grad is None] == []
    added = re.compile(r"\.cross_attn\.(second|norm)\.")
    keys = [key.replace(".cross_attn.first.", ".cross_attn.") for key in detector.state_dict() if not added.search(key)]
    assert keys == list(random_detector(name).state_dict())


@pytest.mark.parametrize("name", baselines())
def test_autocast_keeps_boxes_and_losses_in_float32(name: str):
    detector, batch = copy.deepcopy(random_detector(name)).float().train(), image_batch(3, 1)
    targets = PaddedTargets.of(batch.targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        queries, groups = detector.predict(batch, targets)
        groups += [] if queries.proposals is None else [queries.proposals]
        losses = detector.criterion(groups, targets).terms
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(part.outputs.boxes.dtype == part.outputs.logits.dtype == torch.float32 for part in groups)
    learning = {key: value for key, value in detector.named_parameters() if value.requires_grad}
    assert [key for key, value in learning.items() if value.grad is None or not value.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", baselines())
def test_a_saved_config_builds_the_same_model(name: str, tmp_path: Path):
    config = OmegaConf.create({"model": models()[name]}, flags={"allow_objects": True})
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    loaded = randomised(LazyConfig.load(str(tmp_path / "config.yaml")).model)
    expected, found = (dict(detector.named_parameters()) for detector in (random_detector(name), loaded))
    assert list(found) == list(expected)
    assert [key for key, value in expected.items() if not value.equal(found[key])] == []


@pytest.mark.parametrize("kind", ["dino_r50", "dn_detr_r50", "stage_interactor_r50"])
def test_recomputed_layers_have_the_same_gradients_bit_for_bit_and_keep_less(kind: str):
    """`model.encoder.layer.recompute=True model.decoder.layer.recompute=True`."""
    name = next(name for name in models() if name.startswith(kind))
    detector, batch, results = copy.deepcopy(random_detector(name)).train(), image_batch(4, 2), []
    for recompute in (False, True):
        layers = [module for module in detector.modules() if hasattr(module, "recompute")]
        for layer in layers:
            layer.recompute = recompute
        kept: dict[int, int] = {}
        torch.manual_seed(3)  # of the denoising noise
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: (kept.setdefault(tensor.data_ptr(), tensor.numel()), tensor)[1], lambda t: t
        ):
            total = detector(batch).total
        detector.zero_grad()
        total.backward()
        gradients = {key: parameter.grad for key, parameter in detector.named_parameters() if parameter.requires_grad}
        results.append((sum(kept.values()), {"total": total.detach(), **gradients}))
    (most, plain_values), (least, values) = results
    assert len(layers) >= 3 and least < 0.8 * most
    assert [key for key, value in values.items() if not value.equal(plain_values[key])] == []
