"""`with_patterns` and `with_paq` over all hosts: only contents change, and the order of plug-ins plays no role."""

from functools import cache
from itertools import permutations

import pytest
import torch
from crossstage.projects.paq_detr.config import with_paq, with_patterns
from crossstage.projects.paq_detr.modeling.content import DenseWeights, PatternContent
from crossstage.projects.paq_detr.modeling.descriptors import MeanDescriptor
from crossstage.projects.paq_detr.patterns_config import DENSE_WEIGHTS, MEAN_DESCRIPTOR
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.errors import InputError
from crossstage.modeling.detector import Detector
from crossstage.structures import PaddedTargets
from csla import with_csla
from dca import with_dca
from tests.random_scenes import image_batch
from tests.tiny_models import decoder_inputs, plain, tiny

HOSTS = {
    "dino": "dino_toy",
    "deformable_one_stage": "deformable_detr_r50_with_box_refinement_50ep",
    "deformable_two_stage": "deformable_detr_toy",
    "dab_detr": "dab_detr_toy",
    "dn_detr": "dn_detr_toy",
    "h_detr": "h_detr_toy",
}


@cache
def host(name: str) -> DictConfig:
    """The tiny node of a host. Copy to change."""
    return tiny(LazyConfig.load(find_config(HOSTS[name])).model)


def small(model: DictConfig) -> DictConfig:
    """With patterns, in few channels."""
    model = with_patterns(model, num_patterns=5)
    model.queries.source.content.descriptor.width = 8
    return model


def with_shared_weights(node: DictConfig, other: Detector) -> Detector:
    """Build a detector with the parameters that another has too; of learned pairs, the positions."""
    detector, state = instantiate(node).double(), other.state_dict()
    for name, value in detector.state_dict().items():
        if name in state:
            value.copy_(state[name][tuple(slice(size) for size in value.shape)])
    return detector


@pytest.mark.parametrize("name", HOSTS)
def test_only_the_contents_of_the_hosts_queries_change(name: str):
    """In training, with all groups; dropped positions or another mask would train another detector."""
    plain_one = instantiate(host(name)).double().train()
    mixed_one = with_shared_weights(small(host(name)), plain_one).train()
    batch, found = image_batch(3, 1), []
    for detector in (plain_one, mixed_one):
        torch.manual_seed(0)  # the noise of denoising
        with torch.no_grad():
            queries, _ = decoder_inputs(detector, batch, PaddedTargets.of(batch.targets))
        found.append(queries)
    before, after = found
    assert [(group.name, group.size) for group in before.groups] == [(group.name, group.size) for group in after.groups]
    for field in ("references", "positions", "attention_mask"):
        old, new = getattr(before, field), getattr(after, field)
        assert (old is None and new is None) or new.equal(old), field
    sizes = [group.size for group in before.groups]
    for group, old, new in zip(
        before.groups, before.content.split(sizes, 1), after.content.split(sizes, 1), strict=True
    ):
        assert old.equal(new) == (group.name == "denoising"), group.name
    assert before.losses is None and list(after.losses.terms) == ["loss_diversity"]
    if name == "dn_detr":  # the indicator marks denoising queries alone
        assert after.content[:, sizes[0] :, -1].count_nonzero() == 0


@pytest.mark.parametrize("name", HOSTS)
def test_plug_ins_in_any_order_give_one_node_that_trains(name: str):
    plugs = (lambda node: with_paq(node, patterns={"num_patterns": 5}), with_csla, with_dca)
    nodes = []
    for order in permutations(plugs):
        node = host(name)
        for plug in order:
            node = plug(node)
        nodes.append(node)
    assert len(nodes) == 6 and all(plain(node) == plain(nodes[0]) for node in nodes)
    torch.manual_seed(0)
    nodes[0].queries.source.content.descriptor.width = 8
    detector, batch = instantiate(nodes[0]).train(), image_batch(3, 1)
    losses = detector(batch)
    losses.total.backward()
    assert all(loss.isfinite() for loss in losses.terms.values())
    assert losses.metrics.keys() >= {"pattern_overlap", "pattern_entropy", "query_cosine"}
    torch.testing.assert_close(losses.total, sum(losses.terms.values()))
    learning = {key: parameter.grad for key, parameter in detector.named_parameters() if parameter.requires_grad}
    assert [key for key, grad in learning.items() if grad is None] == []
    torch.optim.SGD(detector.parameters(), lr=1e-3).step()
    assert detector(batch).total.isfinite()


def test_the_node_that_went_in_stays_as_it_was_and_only_the_content_changes():
    node = host("dino")
    before = plain(node)
    after = plain(with_patterns(node))
    assert plain(node) == before
    assert after["queries"]["source"].pop("content") != before["queries"]["source"].pop("content")
    assert after == before


def test_the_last_call_decides():
    twice = with_patterns(with_patterns(host("dino"), num_patterns=7, diversity=0.0), num_patterns=3)
    assert plain(twice) == plain(with_patterns(host("dino"), num_patterns=3))


def test_options_and_parts_reach_the_module():
    node = with_patterns(
        host("dino"), descriptor=MEAN_DESCRIPTOR, weights=DENSE_WEIGHTS, num_patterns=4, diversity_scale=600.0
    )
    content = instantiate(node).queries.source.content
    assert isinstance(content, PatternContent)
    assert isinstance(content.descriptor, MeanDescriptor) and isinstance(content.weights, DenseWeights)
    assert content.weights.shape == (7, 4)
    assert (content.diversity_weight, content.patterns.shape) == (pytest.approx(120.0), (4, 16))


def test_sizes_follow_the_model():
    """Values given after the plug-in, on the command line say, reach all parts of the content."""
    config = OmegaConf.create({"model": with_patterns(host("h_detr"))}, flags={"allow_objects": True})
    LazyConfig.apply_overrides(
        config,
        [
            "model.queries.source.num_queries=9",
            "model.queries.source.extra_queries=4",
            "model.queries.source.content.num_patterns=6",
            "model.queries.source.content.descriptor.width=12",
            "model.neck.num_levels=4",
        ],
    )
    with torch.device("meta"):
        content = instantiate(config.model).queries.source.content
    assert content.weights.queries.shape[0] == 13
    assert content.weights.keys.shape[0] == content.patterns.shape[0] == 6
    assert content.weights.image.in_features == 12
    assert len(content.descriptor.extractors) == 4


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_paterns": 5}, "num_paterns"),
        ({"weights": "dense"}, r"weights='dense': expected a config node, such as those in .*patterns_config"),
        ({"descriptor": None}, r"descriptor=None: expected a config node"),
    ],
)
def test_a_wrong_option_fails_where_it_is_given(options, complaint):
    with pytest.raises(TypeError, match=complaint):
        with_patterns(host("dino"), **options)


def test_a_source_without_a_content_is_refused():
    node = tiny(LazyConfig.load(find_config("dino_toy")).model)
    del node.queries.source.content
    with pytest.raises(ValueError, match=r"needs a model node with a `queries\.source\.content`"):
        with_patterns(node)


def test_anchors_with_patterns_of_their_own_are_refused():
    node = with_patterns(host("dn_detr"))
    node.queries.source.num_patterns = 3
    with pytest.raises(InputError, match=r"queries\.source: .*num_patterns=3 with content"):
        instantiate(node)


def test_dense_weights_of_h_detr_are_refused_with_the_figure():
    node = with_patterns(LazyConfig.load(find_config("h_detr_r50_two_stage_12ep")).model, weights=DENSE_WEIGHTS)
    with torch.device("meta"), pytest.raises(InputError, match=r"1800 queries x 150 patterns need 69\.4 million"):
        instantiate(node.queries.source.content)
