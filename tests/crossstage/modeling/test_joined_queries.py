"""Any query source with any groups: what fits trains, what does not says why."""

from dataclasses import replace

import pytest
import torch
from crossstage.projects.dn_detr.modeling.denoising import IndicatorDenoising
from torch import nn

from crossstage.config import LazyCall as L
from crossstage.config import instantiate
from crossstage.config.like import like
from crossstage.layers.mlp import BoxHead, ClassHead
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.queries.anchors import AnchorQueries
from crossstage.modeling.queries.boxes import BoxQueries
from crossstage.modeling.queries.content import Content, LearnedContent
from crossstage.modeling.queries.denoising import ContrastiveDenoising
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.modeling.queries.learned import LearnedQueries
from crossstage.modeling.queries.one_to_many import OneToMany
from crossstage.modeling.queries.two_stage import ProposalQueries, TwoStageQueries
from crossstage.structures import Levels, Losses, PaddedTargets, Queries, QueryGroup, Target
from tests.random_scenes import image_batch, tiny_dino_node
from tests.supervisions import NAMES

SOURCES = {
    "two_stage": TwoStageQueries,
    "proposals": ProposalQueries,
    "learned": LearnedQueries,
    "anchors": AnchorQueries,
    "boxes": BoxQueries,
}
GROUPS = {
    "none": (),
    "contrastive": ("contrastive",),
    "indicator": ("indicator",),
    "one_to_many": ("one_to_many",),
    "both": ("contrastive", "one_to_many"),
}
REFUSED = {("learned", group) for group in ("contrastive", "indicator", "both")}  # points cannot be noised boxes


def node_of(source: str, groups: tuple[str, ...]):
    """A tiny DINO with another source of queries and other groups."""
    node = tiny_dino_node()
    many = "one_to_many" in groups
    arguments = {"num_queries": 8, "embed_dim": 32, "extra_queries": 12 if many else 0}
    if source in ("two_stage", "proposals"):
        arguments |= {"class_head": L(ClassHead)(embed_dim=32, num_classes=8), "box_head": L(BoxHead)(embed_dim=32)}
    extra = {
        "contrastive": L(ContrastiveDenoising)(num_classes=8, embed_dim=32, num_queries=4),
        "indicator": L(IndicatorDenoising)(num_classes=8, embed_dim=32, num_groups=2),
        "one_to_many": L(OneToMany)(num_queries=12),
    }
    node.queries = L(JoinedQueries)(source=L(SOURCES[source])(**arguments), extra=[extra[name] for name in groups])
    matching = node.criterion.groups.matching
    agnostic = source == "proposals"
    node.criterion.groups.proposals = like(matching, names=NAMES["proposals"], class_agnostic=agnostic)
    node.criterion.groups.one_to_many = like(matching, names=NAMES["one_to_many"])
    node.criterion.groups.one_to_many.matcher.copies = 3
    node.postprocess.num_select = 8
    if source == "learned":  # points have positions of their own
        node.decoder.query_positions = None
    return node


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_trains_with_every_group_or_refuses_with_a_reason(source, groups):
    detector = instantiate(node_of(source, GROUPS[groups]))
    for parameter in detector.parameters():
        nn.init.normal_(parameter, std=0.1)
    batch = image_batch(3, 1)
    if (source, groups) in REFUSED:
        with pytest.raises(ValueError, match=r"LearnedQueries gives reference points and the group 'denoising' gives"):
            detector(batch)
        return
    losses = detector(batch)
    losses.total.backward()
    expected = {"matching", *detector.queries.group_names}
    stems = {"matching": "loss_bbox", "denoising": "loss_bbox_dn", "proposals": "loss_bbox_enc"}
    assert {stems.get(name, "loss_bbox_one2many") for name in expected} <= losses.terms.keys()
    assert all(loss.isfinite() for loss in losses.terms.values())
    unused = [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    assert [len(found) for found in detector.eval()(batch)] == [8, 8]


def test_evaluation_asks_for_the_matched_queries_alone():
    detector = instantiate(node_of("two_stage", ("contrastive", "one_to_many"))).eval()
    with torch.no_grad():
        queries, groups = detector.predict(image_batch(2, 1))
    assert [part.group.name for part in groups] == ["matching"]
    assert queries.content.shape[1] == queries.proposals.group.size == 8
    assert queries.attention_mask is None


class Probe(JoinedQueries):
    """Adds a group in evaluation too, after the matched queries."""

    def forward(self, memory, targets=None):
        queries = super().forward(memory, targets)
        size = queries.content.shape[1]
        groups = (*queries.groups, QueryGroup("probe", size))
        doubled = {name: torch.cat([getattr(queries, name)] * 2, dim=1) for name in ("content", "references")}
        return replace(queries, groups=groups, **{**doubled, "references": 1 - doubled["references"] * 0.5})


def test_detections_are_those_of_the_group_matching_wherever_it_stands():
    """A probe group used to become the detections, since it was the last."""
    node = node_of("boxes", ())
    plain = instantiate(node).eval()
    probe = instantiate(like(node, queries={**node.queries, "_target_": Probe})).eval()
    probe.load_state_dict(plain.state_dict())
    assert len(probe.predict(image_batch(1))[1]) == 2
    assert [len(found) for found in probe(image_batch(1))] == [len(found) for found in plain(image_batch(1))]


def test_a_group_without_supervision_is_an_error_when_the_model_is_built():
    node = node_of("two_stage", ("contrastive",))
    node.criterion.groups.denoisng = node.criterion.groups.pop("denoising")
    with pytest.raises(ValueError, match=r"no supervision for the query group 'denoising'.* Did you mean denoisng"):
        instantiate(node)


@pytest.mark.parametrize(
    ("extra_queries", "extra", "complaint"),
    [
        (5, [], "source.extra_queries=5, but the extra groups take 0"),
        (0, [OneToMany(num_queries=4)], "source.extra_queries=0, but the extra groups take 4"),
        (8, [OneToMany(num_queries=4)] * 2, "two query groups are called 'one_to_many'"),
    ],
)
def test_sizes_and_names_are_checked_when_groups_are_joined(extra_queries, extra, complaint):
    source = BoxQueries(num_queries=3, embed_dim=8, extra_queries=extra_queries)
    with pytest.raises(ValueError, match=complaint):
        JoinedQueries(source=source, extra=extra)


class WithPositions(BoxQueries):
    """Sets positions, and cannot make those of other boxes."""

    def forward(self, memory, count: int) -> Queries:
        queries = super().forward(memory, count)
        return replace(queries, positions=torch.zeros_like(queries.content))


def test_a_source_that_sets_positions_has_to_make_those_of_other_groups():
    denoising = ContrastiveDenoising(3, 8)
    queries = JoinedQueries(source=WithPositions(num_queries=3, embed_dim=8), extra=[denoising])
    memory = unpadded_memory(torch.zeros(1, 4, 8), Levels.of([(2, 2)], like=torch.zeros(1)))
    assert queries(memory).positions.shape == (1, 3, 8)
    targets = PaddedTargets.of([Target(torch.tensor([1]), torch.full((1, 4), 0.5))])
    with pytest.raises(ValueError, match=r"the group 'denoising' needs too: give the source a method positions"):
        queries(memory, targets)


class Constant(nn.Module):
    """Content 2 for every query, with a loss and a metric of its own."""

    def forward(self, memory, count: int) -> Content:
        values = memory.tokens.new_full((1, count, memory.tokens.shape[-1]), 2.0)
        return Content(values, Losses.of({"loss_content": values.mean()}, {"content_mean": values.mean()}))


@pytest.mark.parametrize("source", SOURCES)
def test_the_content_half_of_every_source_is_a_collaborator(source):
    node = node_of(source, ())
    node.queries.source.content = L(Constant)()
    detector = instantiate(node)
    with torch.no_grad():
        queries, _ = detector.predict(image_batch(1, 2), PaddedTargets.of(image_batch(1, 2).targets))
    expected = 0.0 if source == "boxes" else 2.0  # BoxQueries normalises each content
    assert queries.content.unique().tolist() == [expected]
    losses = detector(image_batch(1, 2))
    assert losses.terms["loss_content"].item() == 2.0 and losses.metrics["content_mean"].item() == 2.0
    torch.testing.assert_close(losses.total, sum(losses.terms.values()))


def test_a_learned_content_has_rows_for_extra_queries_too():
    content = LearnedContent(3, 8, extra_queries=2)
    assert content.weight.shape == (5, 8)
    assert content(None, 4).values.shape == (1, 4, 8)


def test_patterns_leave_no_room_for_another_content():
    with pytest.raises(ValueError, match="num_patterns=3 with content"):
        AnchorQueries(num_queries=4, num_patterns=3, content=Constant())
    with pytest.raises(ValueError, match="num_patterns=3 with extra_queries"):
        AnchorQueries(num_queries=4, num_patterns=3, extra_queries=2)


def test_queries_check_their_own_shapes():
    content, boxes = torch.zeros(2, 5, 8), torch.zeros(2, 5, 4)
    with pytest.raises(ValueError, match=r"Queries\.references has shape \(2, 4, 4\); expected \[B, N, 4 or 2\]"):
        Queries(content, boxes[:, :4], (QueryGroup("matching", 5),))
    with pytest.raises(ValueError, match=r"5 queries in groups \(matching 4\)"):
        Queries(content, boxes, (QueryGroup("matching", 4),))
    with pytest.raises(ValueError, match=r"Queries\.attention_mask has shape \(4, 5\)"):
        Queries(content, boxes, (QueryGroup("matching", 5),), attention_mask=torch.zeros(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="blocks of 2 do not divide 5 queries"):
        QueryGroup("denoising", 5, block=2)
    with pytest.raises(ValueError, match=r"QueryGroup\('denoising'\)\.matches has shape \(2, 4\)"):
        QueryGroup("denoising", 5, matches=torch.zeros(2, 4, dtype=torch.int64))


def test_names_of_losses_are_used_once():
    one = Losses.of({"loss_a": torch.tensor(1.0)}, {"m": torch.tensor(3.0)})
    assert one.joined(None, Losses.of({"loss_b": torch.tensor(2.0)})).total == 3
    with pytest.raises(ValueError, match="named loss_a"):
        one.joined(Losses.of({"loss_a": torch.tensor(2.0)}))
    with pytest.raises(ValueError, match="losses and metrics at once: m"):
        Losses.of({"m": torch.tensor(1.0)}, {"m": torch.tensor(1.0)})
    assert not one.metrics["m"].requires_grad
