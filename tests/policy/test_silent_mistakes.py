"""Mistakes in a config or a part that once trained without a word: each is now an error, or has its intended effect."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.errors import InputError
from crossstage.modeling.decoders.deformable import DeformableDecoder
from crossstage.modeling.queries.learned import LearnedQueries
from crossstage.structures import Assignment, Memory, PaddedTargets, Queries, QueryGroup, StageOutputs
from csla import with_csla
from tests.policy.test_policy_readmes import PRINTED
from tests.random_scenes import image_batch, tiny_dino, tiny_dino_node


def toy(name: str) -> DictConfig:
    """The model of one of our configs for the generated data set."""
    return LazyConfig.load(find_config(name)).model


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def overridden(node: DictConfig, *overrides: str) -> DictConfig:
    config = DictConfig({"model": node}, flags={"allow_objects": True})
    return LazyConfig.apply_overrides(config, list(overrides)).model


def test_every_stage_of_a_decoder_has_parameters_of_its_own_without_a_flag_in_the_config():
    """The small DINO's decoder had 148 404 parameters where the config forgot `_recursive_=False`: one shared layer."""
    decoder = toy("dino_toy").decoder
    assert "_recursive_" not in decoder
    built = instantiate(decoder)
    assert parameters(built) == 389_148
    own = {parameter.data_ptr() for parameter in built.layers.parameters()}
    assert len(own) == 3 * len(list(built.layers[0].parameters()))


def test_a_built_layer_in_place_of_a_node_is_a_type_error():
    """All stages would have shared it."""
    model = toy("dino_toy")
    built = instantiate(model.decoder.layer)
    with pytest.raises(TypeError, match=r"DeformableDecoder: layer is a built .*TransformerLayer.*give a config node"):
        instantiate({**model, "decoder": {**model.decoder, "layer": built}})


class Undeclared(DeformableDecoder):
    """A decoder that forgot to declare what it builds per stage."""

    per_stage = ()


def test_a_decoder_that_declares_nothing_is_a_type_error():
    """It would have been given one built layer for all stages."""
    model = toy("dino_toy")
    model.decoder._target_ = Undeclared
    with pytest.raises(TypeError, match=r"Undeclared: layer is a built .*TransformerLayer"):
        instantiate(model.decoder)


def test_the_points_of_a_sampler_differ_between_stages_without_a_stage_in_the_config():
    """Without `stage=0` in the node, every stage once had the points of the first one."""
    decoder = overridden(
        toy("adamixer_toy"),
        "model.decoder.layer.sampler.num_points=[16,9]",
        "model.decoder.layer.mixing.num_points=[16,9]",
    ).decoder
    assert "stage" not in decoder.layer.sampler
    assert [layer.sampler.num_points for layer in instantiate(decoder).layers] == [16, 9, 9, 9]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.criterion.groups.maching.weights.class=1", r"no such key\. .*Did you mean .*matching"),
        ("+model.criterion.groups.matching.weights.gious=1", r"weights\.gious: there is no such loss.*mean giou\?"),
        ("+model.criterion.groups.matching.weights.loss_bbox=1", r"weights\.loss_bbox: .*Did you mean bbox\?"),
    ],
)
def test_an_unknown_name_in_the_criterion_is_an_error_with_the_nearest_name(override: str, message: str):
    """A loss weight of an unknown name was ignored, and the loss kept its weight."""
    with pytest.raises((ValueError, InputError), match=message):
        instantiate(overridden(tiny_dino_node(), override))


def test_a_query_group_without_supervision_is_an_error_with_the_nearest_name():
    """A group of which the criterion knew nothing took part in attention and was never taught."""
    node = tiny_dino_node()
    node.criterion.groups.denoisng = node.criterion.groups.pop("denoising")
    with pytest.raises(ValueError, match=r"no supervision for the query group 'denoising'.*Did you mean denoisng\?"):
        instantiate(node)


def test_csla_of_an_unknown_group_is_an_error_with_the_nearest_name():
    """`with_csla(model, groups=["maching"])` trained the baseline."""
    with pytest.raises(ValueError, match=r"no query group 'maching'.*Did you mean matching\?"):
        with_csla(tiny_dino_node(), groups=["maching"])


class ProbedQueries(nn.Module):
    """The queries of a source, followed by a group that only looks: what a study of attention would add."""

    group_names = ("matching",)

    def __init__(self, queries: nn.Module) -> None:
        super().__init__()
        self.queries = queries

    def forward(self, memory: Memory, targets: PaddedTargets | None = None) -> Queries:
        own = self.queries(memory, targets)
        return Queries(
            content=torch.cat([own.content, own.content[:, :3] + 5], dim=1),
            references=torch.cat([own.references, own.references[:, :3].flip(-1)], dim=1),
            groups=(*own.groups, QueryGroup("probe", 3)),
        )


def test_a_group_appended_after_the_matching_one_does_not_become_the_detections():
    """Detections were those of the last group on the query axis."""
    detector, batch = tiny_dino().eval(), image_batch(2)
    detector.queries = ProbedQueries(detector.queries)
    with torch.no_grad():
        _, (matching, probe) = detector.predict(batch)
        (found,), (expected,) = detector(batch), detector.postprocess(matching.outputs, batch)
        (wrong,) = detector.postprocess(probe.outputs, batch)
    assert found.boxes_xyxy.equal(expected.boxes_xyxy)
    assert not found.boxes_xyxy[:3].equal(wrong.boxes_xyxy[:3])


def test_dino_without_query_positions_is_an_error():
    """It trained with queries that did not know where they are."""
    model = instantiate(overridden(tiny_dino_node(), "model.decoder.query_positions=null"))
    with pytest.raises(ValueError, match=r"query positions\. Give the decoder query_positions=BoxQueryPositions"):
        model(image_batch(1))


def with_learned_queries() -> DictConfig:
    node = tiny_dino_node()
    node.queries = {**node.queries, "extra": []}
    node.queries.source = L(LearnedQueries)(num_queries=12, embed_dim="${up:embed_dim}")
    return node


def test_positions_from_boxes_with_a_source_of_points_is_an_error_that_says_what_to_set():
    """It said "mat1 and mat2 shapes cannot be multiplied"."""
    with pytest.raises(ValueError, match=r"reference points \[1, 12, 2\]\. Set model\.decoder\.query_positions=null"):
        instantiate(with_learned_queries())(image_batch(1))
    repaired = overridden(with_learned_queries(), "model.decoder.query_positions=null")
    assert instantiate(repaired)(image_batch(1)).total.isfinite()


class HalfLabels:
    """A label rule whose labels are numbers: every positive counts half."""

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        return replace(assignment, labels=0.5 * assignment.labels)


@pytest.mark.parametrize("group", ["matching", "denoising", "proposals"])
def test_a_label_rule_may_return_numbers(group: str):
    """Float labels met code for bool ones: "size of tensor a (4) must match the size of tensor b (16)"."""
    node = tiny_dino_node()
    node.criterion.groups[group].adjustments.append(L(HalfLabels)())
    losses = instantiate(node)(image_batch(3, 1))
    losses.total.backward()
    assert losses.total.isfinite()


class OneLabelPerQuery:
    """A label rule that forgets the axis of classes."""

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        return replace(assignment, labels=(assignment.matches >= 0).float())


def test_labels_without_the_axis_of_classes_are_an_error():
    """With as many queries as classes the labels [S, B, N] would broadcast with the logits [S, B, N, K]."""
    node = tiny_dino_node()
    node.queries.source.num_queries = node.num_classes
    node.criterion.groups.matching.labels = L(OneLabelPerQuery)()
    with pytest.raises(ValueError, match=r"OneLabelPerQuery returned labels of shape \(2, 1, 8\); expected .*8, 8\)"):
        instantiate(node)(image_batch(1))


def test_the_overrides_that_the_readmes_print_are_among_those_that_tests_execute():
    """8 of 14 were refused; `test_policy_readmes` executes all that it finds."""
    printed = {override for example in PRINTED for override in example.overrides}
    assert "model.criterion.groups.matching.labels.iou_threshold=0.6" in printed
    assert len(printed) >= 14
