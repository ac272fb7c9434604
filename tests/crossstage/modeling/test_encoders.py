"""Every encoder fills every field of Memory, and so every query source runs on every encoder."""

from dataclasses import fields

import pytest
import torch
from torch import nn

from crossstage.config import LazyCall as L
from crossstage.layers.attention import DenseAttention
from crossstage.layers.deformable import MultiScaleDeformableAttention
from crossstage.layers.mlp import FFN, BoxHead, ClassHead
from crossstage.layers.position import SinePositions
from crossstage.modeling.encoders.deformable import DeformableEncoder
from crossstage.modeling.encoders.dense import DenseEncoder
from crossstage.modeling.encoders.none import NoEncoder
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.neck import pyramid
from crossstage.modeling.queries.anchors import AnchorQueries
from crossstage.modeling.queries.boxes import BoxQueries
from crossstage.modeling.queries.learned import LearnedQueries
from crossstage.modeling.queries.two_stage import ProposalQueries, TwoStageQueries
from crossstage.modeling.transformer import ENCODER_ORDER, TransformerLayer
from crossstage.structures import FeaturePyramid, Levels, Memory
from tests.random_scenes import image_batch, tiny_dino

WIDTH = 16
SHAPES = ((8, 12), (4, 6))


def layer_of(attention) -> TransformerLayer:
    ffn = L(FFN)(embed_dim=WIDTH, feedforward_dim=WIDTH)
    return L(TransformerLayer)(embed_dim=WIDTH, self_attn=attention, ffn=ffn, order=ENCODER_ORDER)


def encoder_of(name: str) -> tuple[nn.Module, int]:
    """An encoder and how many levels it reads here."""
    position = SinePositions(WIDTH // 2)
    if name == "dense":
        attention = L(DenseAttention)(embed_dim=WIDTH, num_heads=2)
        return DenseEncoder(layer_of(attention), num_layers=2, position=position, embed_dim=WIDTH), 1
    if name == "deformable":
        attention = L(MultiScaleDeformableAttention)(embed_dim=WIDTH, num_heads=2, num_levels=2, num_points=2)
        layer = layer_of(attention)
        return DeformableEncoder(layer, num_layers=2, position=position, embed_dim=WIDTH, num_levels=2), 2
    return NoEncoder(), 2


def pyramid_of(levels: int, dtype: torch.dtype = torch.float32) -> FeaturePyramid:
    """Two images of 64 x 96 and 32 x 48 pixels."""
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, 32:] = mask[1, :, 48:] = True
    return pyramid([torch.randn(2, WIDTH, *shape, dtype=dtype) for shape in SHAPES[:levels]], mask)


@pytest.fixture(params=["none", "deformable", "dense"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def memory(name: str) -> Memory:
    encoder, levels = encoder_of(name)
    return encoder(pyramid_of(levels))


def test_every_encoder_fills_every_field_of_memory(memory: Memory):
    tokens = sum(memory.levels.tokens)
    assert [field.name for field in fields(Memory) if getattr(memory, field.name) is None] == []
    assert memory.levels.shapes == SHAPES[: len(memory.levels.shapes)]
    assert memory.tokens.shape == memory.positions.shape == (2, tokens, WIDTH)
    assert memory.mask.shape == (2, tokens)
    assert not memory.mask[0].any()
    assert memory.valid_ratios[0].unique().tolist() == [1.0]
    assert memory.valid_ratios[1].unique().tolist() == [0.5]
    assert memory.valid_ratios.shape == (2, len(memory.levels.shapes), 2)
    assert memory.image_sizes.tolist() == [[96, 64], [48, 32]]


def test_padding_is_marked_row_by_row_and_level_by_level(memory: Memory):
    for level, (height, width) in zip(memory.mask[1].split(memory.levels.tokens), memory.levels.shapes, strict=True):
        image = [[y, x] for y in range(height // 2) for x in range(width // 2)]
        assert (~level.view(height, width)).nonzero().tolist() == image


@pytest.mark.parametrize("source", ["two_stage", "proposals", "learned", "anchors", "boxes"])
def test_every_query_source_runs_on_every_encoder(memory: Memory, source: str):
    heads = {"class_head": ClassHead(WIDTH, 3), "box_head": BoxHead(WIDTH)}
    queries = {
        "two_stage": lambda: TwoStageQueries(num_queries=5, embed_dim=WIDTH, **heads),
        "proposals": lambda: ProposalQueries(num_queries=5, embed_dim=WIDTH, **heads),
        "learned": lambda: LearnedQueries(num_queries=5, embed_dim=WIDTH),
        "anchors": lambda: AnchorQueries(num_queries=5, embed_dim=WIDTH),
        "boxes": lambda: BoxQueries(num_queries=5, embed_dim=WIDTH),
    }[source]()(memory, 5)
    assert queries.content.shape == (2, 5, WIDTH)
    assert queries.references.shape[:2] == (2, 5)


def test_positions_of_no_encoder_are_zeros_that_take_no_memory():
    memory = NoEncoder()(pyramid_of(2))
    assert memory.positions.count_nonzero() == 0
    assert memory.positions.untyped_storage().nbytes() == 4


def test_under_autocast_coordinates_stay_exact_though_maps_are_bfloat16():
    maps = pyramid_of(2, torch.bfloat16)
    memory = NoEncoder()(maps)
    assert memory.tokens.dtype == memory.positions.dtype == torch.bfloat16
    assert memory.valid_ratios.dtype == memory.levels.sizes.dtype == memory.image_sizes.dtype == torch.float32
    encoder, _ = encoder_of("deformable")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(maps).valid_ratios.dtype == torch.float32


def test_a_whole_model_in_bfloat16_predicts():
    detections = tiny_dino().to(torch.bfloat16).eval()(image_batch(0, 0, sizes=((64, 96), (48, 64))))
    assert all(found.scores.isfinite().all() for found in detections)


def test_tokens_alone_make_a_memory_without_padding_and_positions():
    levels = Levels.of([(2, 3), (1, 2)], like=torch.zeros(1, dtype=torch.float64))
    memory = unpadded_memory(torch.randn(2, 8, 4), levels)
    assert memory.mask.shape == (2, 8) and not memory.mask.any()
    assert memory.valid_ratios.tolist() == [[[1.0, 1.0]] * 2] * 2
    assert memory.positions.shape == (2, 8, 4) and not memory.positions.any()
    assert memory.image_sizes.tolist() == [[3.0, 2.0]] * 2


def test_a_dense_encoder_of_two_levels_is_an_error():
    encoder, _ = encoder_of("dense")
    with pytest.raises(ValueError, match="reads a pyramid of one level, but this one has 2"):
        encoder(pyramid_of(2))
