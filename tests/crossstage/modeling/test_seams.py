"""The parts that exist have the signatures that the seams promise to whoever writes another one."""

import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from crossstage.projects.deqdet.modeling.equilibrium import EquilibriumDecoder
from crossstage.projects.dn_detr.modeling.denoising import IndicatorDenoising
from crossstage.projects.paq_detr.modeling.quality import QualityCopies
from crossstage.projects.paq_detr.modeling.quality_topk import QualityTopK
from crossstage.projects.stage_interactor.modeling.grouped_sampler import GroupedSampler
from crossstage.projects.stage_interactor.modeling.mixing import CascadeMixing
from torch import Tensor, nn

from crossstage.layers.attention import ConditionalSelfAttention, DenseAttention
from crossstage.layers.mlp import FFN, BoxHead, ClassHead
from crossstage.layers.position import LearnedPositions, SinePositions
from crossstage.modeling import layer_seams, seams
from crossstage.modeling.backbone import TimmBackbone
from crossstage.modeling.decoders.adaptive_mixing import AdaptiveMixing
from crossstage.modeling.decoders.conditional import ConditionalDecoder
from crossstage.modeling.decoders.deformable import BoxQueryPositions, DeformableDecoder
from crossstage.modeling.decoders.mixer import MixerDecoder, MixerLayer, OverlapAttention
from crossstage.modeling.decoders.point_sampler import PointSampler
from crossstage.modeling.encoders.deformable import DeformableEncoder
from crossstage.modeling.encoders.dense import DenseEncoder
from crossstage.modeling.encoders.none import NoEncoder
from crossstage.modeling.neck import ChannelMapper, SharedNormMapper, SingleLevelProjection
from crossstage.modeling.postprocess import TopK
from crossstage.modeling.queries.anchors import AnchorQueries
from crossstage.modeling.queries.boxes import BoxQueries
from crossstage.modeling.queries.content import Content, LearnedContent
from crossstage.modeling.queries.denoising import ContrastiveDenoising
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.modeling.queries.learned import LearnedQueries
from crossstage.modeling.queries.one_to_many import OneToMany
from crossstage.modeling.queries.two_stage import ProposalQueries, TwoStageQueries
from crossstage.modeling.supervision.criterion import SetCriterion
from crossstage.modeling.supervision.labels import OverlapTargets, OwnStageLabels
from crossstage.modeling.supervision.losses import (
    BoxLoss,
    FocalClassLoss,
    QualityFocalClassLoss,
    SoftmaxClassLoss,
    VarifocalClassLoss,
)
from crossstage.modeling.supervision.matching import (
    FocalClassCost,
    HungarianMatcher,
    MatchingProblem,
    Pairs,
    SoftmaxClassCost,
)
from crossstage.modeling.supervision.normalizers import LabelCount, ObjectCount
from crossstage.modeling.transformer import TransformerLayer
from csla import CrossStageBoxMatches, CrossStageLabels

PARTS = {
    seams.Backbone: [TimmBackbone],
    seams.Neck: [ChannelMapper, SharedNormMapper, SingleLevelProjection],
    seams.Encoder: [NoEncoder, DenseEncoder, DeformableEncoder],
    seams.QueryMaker: [JoinedQueries],
    seams.QuerySource: [LearnedQueries, AnchorQueries, BoxQueries, TwoStageQueries, ProposalQueries],
    seams.PositionSource: [ProposalQueries],
    seams.ContentSource: [LearnedContent],
    seams.ExtraGroup: [ContrastiveDenoising, IndicatorDenoising, OneToMany],
    seams.Decoder: [DeformableDecoder, ConditionalDecoder, MixerDecoder, EquilibriumDecoder],
    seams.ClassCost: [FocalClassCost, SoftmaxClassCost],
    seams.CopiesRule: [QualityCopies],
    seams.Matcher: [HungarianMatcher, QualityTopK],
    seams.LabelRule: [OwnStageLabels, OverlapTargets, CrossStageLabels, CrossStageBoxMatches],
    seams.ClassLoss: [FocalClassLoss, VarifocalClassLoss, QualityFocalClassLoss, SoftmaxClassLoss],
    seams.BoxLossFunction: [BoxLoss],
    seams.Normalizer: [ObjectCount, LabelCount],
    seams.Criterion: [SetCriterion],
    seams.Postprocess: [TopK],
    layer_seams.CellPositions: [SinePositions, LearnedPositions],
    layer_seams.BoxPositions: [BoxQueryPositions],
    layer_seams.Head: [ClassHead, BoxHead, nn.LayerNorm],
    layer_seams.Attention: [DenseAttention, ConditionalSelfAttention],
    layer_seams.FeedForward: [FFN],
    layer_seams.AttentionLayer: [TransformerLayer],
    layer_seams.BoxAttention: [OverlapAttention],
    layer_seams.Sampler: [PointSampler, GroupedSampler],
    layer_seams.Mixing: [AdaptiveMixing, CascadeMixing],
    layer_seams.MixingLayer: [MixerLayer],
}
HEADS = {"class_head": ClassHead(8, 3), "box_head": BoxHead(8), "embed_dim": 8}
BUILT = {  # one of each class of a seam with attributes, which may be set by its constructor
    TimmBackbone: lambda: TimmBackbone("resnet18", pretrained=False),
    JoinedQueries: lambda: JoinedQueries(source=BoxQueries(num_queries=2)),
    LearnedQueries: lambda: LearnedQueries(num_queries=2),
    AnchorQueries: lambda: AnchorQueries(num_queries=2),
    BoxQueries: lambda: BoxQueries(num_queries=2),
    TwoStageQueries: lambda: TwoStageQueries(num_queries=2, **HEADS),
    ProposalQueries: lambda: ProposalQueries(num_queries=2, **HEADS),
    ContrastiveDenoising: lambda: ContrastiveDenoising(3, 8),
    IndicatorDenoising: lambda: IndicatorDenoising(3, 8),
    OneToMany: lambda: OneToMany(num_queries=2),
    BoxLoss: BoxLoss,
}
PAIRS = [pytest.param(seam, part, id=f"{seam.__name__}-{part.__name__}") for seam in PARTS for part in PARTS[seam]]
# What seams.py imports for its types alone.
LATE = {"Content": Content, "MatchingProblem": MatchingProblem, "Pairs": Pairs, "np": np}


def methods_of(seam: type) -> dict[str, Callable]:
    found = {name: method for name, method in vars(seam).items() if name == "__call__" or name[0] != "_"}
    return {name: method for name, method in found.items() if inspect.isfunction(method)}


def attributes_of(seam: type) -> dict[str, Any]:
    """Name and type of what a seam promises besides methods."""
    properties = {name: value.fget for name, value in vars(seam).items() if isinstance(value, property)}
    return get_type_hints(seam) | {name: get_type_hints(get)["return"] for name, get in properties.items()}


def method_of(part: type, name: str) -> Callable:
    return part.forward if name == "__call__" and issubclass(part, nn.Module) else getattr(part, name)


def misfits(promised: Callable, found: Callable) -> list[str]:
    """What the seam says otherwise than the part: a parameter's name, place or type, whether it is needed, the result.

    Parameters that a seam passes on as **keywords are any that the part has.
    """
    expected, actual = inspect.signature(promised).parameters, inspect.signature(found).parameters
    kinds = {kind: [name for name, p in expected.items() if p.kind == kind] for kind in type(Parameter.VAR_KEYWORD)}
    by_place, unnamed = kinds[Parameter.POSITIONAL_OR_KEYWORD], kinds[Parameter.POSITIONAL_ONLY]
    moved = [name for place, name in enumerate(by_place) if list(actual)[place : place + 1] != [name]]
    lacking = [name for name in kinds[Parameter.KEYWORD_ONLY] if name not in actual]
    known = set(expected) | set(list(actual)[: len(unnamed)])
    needed = [name for name, p in actual.items() if p.default is Parameter.empty and name not in known]
    return moved + lacking + ([] if kinds[Parameter.VAR_KEYWORD] else needed) + other_types(promised, found)


def other_types(promised: Callable, found: Callable) -> list[str]:
    """Parameters of one name and two types, and "return" where the part's result is no kind of what the seam says."""
    expected, actual = get_type_hints(promised, localns=LATE), get_type_hints(found, localns=LATE)
    result, made = expected.pop("return"), actual.pop("return")
    other = [name for name in expected if name in actual and not agrees(expected[name], actual[name])]
    kind, made_kind = get_origin(result) or result, get_origin(made) or made
    fits = agrees(result, made) or (kind is not made_kind and issubclass(made_kind, kind))
    return other if fits else [*other, "return"]


def agrees(expected: Any, actual: Any) -> bool:
    """Whether two annotations say the same; Any agrees with everything, inside of others too."""
    if expected is Any or expected == actual:
        return True
    inner = get_args(expected), get_args(actual)
    same_kind = get_origin(expected) is get_origin(actual) is not None and len(inner[0]) == len(inner[1])
    return same_kind and all(agrees(*pair) for pair in zip(*inner, strict=True))


@pytest.mark.parametrize(("seam", "part"), PAIRS)
def test_a_part_is_called_as_its_seam_says(seam: type, part: type):
    found = {name: misfits(method, method_of(part, name)) for name, method in methods_of(seam).items()}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(("seam", "part"), [pair for pair in PAIRS if attributes_of(pair.values[0])])
def test_a_part_has_the_attributes_that_its_seam_names(seam: type, part: type):
    built = BUILT[part]()
    for name, kind in attributes_of(seam).items():
        assert isinstance(getattr(built, name), get_origin(kind) or kind), name


def test_every_seam_says_what_it_is_given_and_returns():
    members = [member for module in (seams, layer_seams) for _, member in inspect.getmembers(module, inspect.isclass)]
    kinds = [kind for kind in members if kind.__module__ in (seams.__name__, layer_seams.__name__)]
    assert set(PARTS) <= set(kinds)
    for kind in kinds:
        assert methods_of(kind) or attributes_of(kind), kind
        assert [name for name, method in methods_of(kind).items() if not method.__doc__] == []


def promised(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor: ...


def renamed(self, scores: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor: ...


def with_a_further_one(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor, weight: Tensor) -> Tensor: ...


def without_one(self, logits: Tensor, labels: Tensor) -> Tensor: ...


def of_another_type(self, logits: Tensor, labels: Tensor, *, normalizer: float) -> Tensor: ...


def with_another_result(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> dict[str, Tensor]: ...


def with_a_default(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor, weight: float = 1.0) -> Tensor: ...


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (promised, []),
        (with_a_default, []),
        (renamed, ["logits", "scores"]),
        (with_a_further_one, ["weight"]),
        (without_one, ["normalizer"]),
        (of_another_type, ["normalizer"]),
        (with_another_result, ["return"]),
    ],
)
def test_another_signature_is_noticed(found: Callable, wrong: list[str]):
    assert misfits(promised, found) == wrong
