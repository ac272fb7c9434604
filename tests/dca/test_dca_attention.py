"""`DualCrossAttention`: which query the second attention reads, and what is added to what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from crossstage.layers.attention import ConditionalCrossAttention, DenseAttention
from crossstage.layers.deformable import MultiScaleDeformableAttention
from crossstage.layers.mlp import FFN
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.transformer import DECODER_ORDER, TransformerLayer
from crossstage.structures import Levels, Memory
from dca import DualCrossAttention

B, N, C, M = 2, 5, 8, 20
PRE_NORM = ("norm", "self_attn", "norm", "cross_attn", "norm", "ffn")


def deformable() -> tuple[type[nn.Module], dict, dict]:
    levels = Levels.of([(4, 4), (2, 2)], torch.zeros(()))
    memory = unpadded_memory(torch.randn(B, M, C), levels)
    references = torch.rand(B, N, 2, 4) * 0.5 + 0.2
    arguments = {"num_heads": 2, "num_levels": 2, "num_points": 2}
    return MultiScaleDeformableAttention, arguments, {"memory": memory, "references": references}


def conditional() -> tuple[type[nn.Module], dict, dict]:
    tokens = {"key": torch.randn(B, M, C), "key_position": torch.randn(B, M, C)}
    return ConditionalCrossAttention, {"num_heads": 2}, {**tokens, "sine_position": torch.randn(B, N, C)}


def dense() -> tuple[type[nn.Module], dict, dict]:
    padding = torch.zeros(B, M, dtype=torch.bool)
    padding[0, 12:] = True
    tokens = {"key": torch.randn(B, M, C), "key_position": torch.randn(B, M, C), "padding_mask": padding}
    return DenseAttention, {"num_heads": 2}, tokens


KINDS = [deformable, conditional, dense]


def attentions_and_keywords(kind) -> tuple[nn.Module, nn.Module, dict]:
    """Two attentions with random parameters, and the keywords that a decoder gives them."""
    build, arguments, keywords = kind()
    first, second = build(C, **arguments), build(C, **arguments)
    for parameter in [*first.parameters(), *second.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    return first, second, {"position": torch.randn(B, N, C), **keywords}


def layer_norm() -> nn.LayerNorm:
    """A norm that is not idempotent."""
    norm = nn.LayerNorm(C)
    nn.init.normal_(norm.weight, mean=1.0, std=0.3)
    nn.init.normal_(norm.bias)
    return norm


def silence(attention: nn.Module) -> None:
    """Let an attention add nothing to its residual."""
    names = ("output_proj.", "out_proj.", "attn.out_proj.")
    for name, parameter in attention.named_parameters():
        if name.startswith(names):
            nn.init.zeros_(parameter)


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_attention_reads_the_normed_result_of_the_first(kind):
    first, second, keywords = attentions_and_keywords(kind)
    norm, query = layer_norm(), torch.randn(B, N, C)
    block = DualCrossAttention(first, second, norm=norm)
    middle = norm(first(query, **keywords))
    torch.testing.assert_close(block(query, **keywords), second(middle, **keywords))
    torch.testing.assert_close(block(query, identity=query, **keywords), second(middle, **keywords))


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_pre_norm_layer_the_residual_passes_by_the_norm(kind):
    first, second, keywords = attentions_and_keywords(kind)
    norm, query, identity = layer_norm(), torch.randn(B, N, C), torch.randn(B, N, C)
    block = DualCrossAttention(first, second, norm=norm)
    middle = first(query, identity=identity, **keywords)
    expected = second(norm(middle), identity=middle, **keywords)
    torch.testing.assert_close(block(query, identity=identity, **keywords), expected)
    silence(first)
    silence(second)
    assert torch.equal(block(query, identity=identity, **keywords), identity)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pre_norm", [False, True])
def test_without_norm_a_silent_second_attention_leaves_the_first_alone(kind, pre_norm):
    first, second, keywords = attentions_and_keywords(kind)
    silence(second)
    query = torch.randn(B, N, C)
    identity = torch.randn(B, N, C) if pre_norm else None
    for chained in (True, False):
        block = DualCrossAttention(first, second, chained=chained)
        found = block(query, identity=identity, **keywords)
        assert torch.equal(found, first(query, identity=identity, **keywords))


@pytest.mark.parametrize("kind", KINDS)
def test_unchained_attentions_add_up_and_may_change_places(kind):
    first, second, keywords = attentions_and_keywords(kind)
    query = torch.randn(B, N, C)
    found = DualCrossAttention(first, second, chained=False)(query, **keywords)
    torch.testing.assert_close(found, first(query, **keywords) + second(query, **keywords) - query)
    torch.testing.assert_close(found, DualCrossAttention(second, first, chained=False)(query, **keywords))
    chained = DualCrossAttention(first, second)(query, **keywords)
    assert not torch.allclose(found, chained)


def test_unchained_with_a_norm_only_the_second_attention_reads_through_it():
    first, second, keywords = attentions_and_keywords(dense)
    norm, query = layer_norm(), torch.randn(B, N, C)
    found = DualCrossAttention(first, second, norm=norm, chained=False)(query, **keywords)
    once = first(query, **keywords)
    torch.testing.assert_close(found, second(norm(query), identity=once, **keywords))


def twice_in_order(
    layer: TransformerLayer, second: nn.Module, norm: nn.Module, query: Tensor, keywords: dict
) -> Tensor:
    """What the layer computes if its order names a second cross-attention and a norm before it, step by step."""
    step = layer.order.index("cross_attn") + 1
    before = layer.order[:step].count("norm")
    norms = iter([*layer.norms[:before], norm, *layer.norms[before:]])
    residual = query
    for name in (*layer.order[:step], "norm", "second", *layer.order[step:]):
        if name == "norm":
            query = next(norms)(query)
            continue
        part = second if name == "second" else getattr(layer, name)
        arguments = keywords if name in ("cross_attn", "second") else {}
        query = part(query, identity=residual if layer.order[0] == "norm" else query, **arguments)
        residual = query if name != "ffn" else residual
    return query


@pytest.mark.parametrize("order", [DECODER_ORDER, PRE_NORM])
def test_it_is_the_layer_whose_order_has_the_step_and_its_norm_twice(order):
    first, second, keywords = attentions_and_keywords(dense)
    norm, query = layer_norm(), torch.randn(B, N, C)
    parts = {"ffn": FFN(C, 2 * C), "self_attn": DenseAttention(C, num_heads=2)}
    single = TransformerLayer(C, cross_attn=first, order=order, **parts)
    double = TransformerLayer(C, cross_attn=DualCrossAttention(first, second, norm=norm), order=order, **parts)
    expected = twice_in_order(single, second, norm, query, keywords)
    torch.testing.assert_close(double(query, cross_attn=keywords), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chained", [True, False])
def test_gradient_reaches_both(kind, chained):
    first, second, keywords = attentions_and_keywords(kind)
    block = DualCrossAttention(first, second, norm=layer_norm(), chained=chained).double()
    keywords = {name: in_float64(value) for name, value in keywords.items()}
    query = torch.randn(B, N, C, dtype=torch.float64, requires_grad=True)
    block(query, **keywords).square().sum().backward()
    silent = [name for name, parameter in block.named_parameters() if not parameter.grad.abs().sum() > 0]
    shifts = ("key_pos_proj.bias", "key_content_proj.bias")  # the same for all keys: softmax does not see them
    assert [name for name in silent if not name.endswith(shifts)] == []
    assert query.grad.abs().sum() > 0


def in_float64(value):
    """A keyword in float64, as the other promise asks for: nothing inside fixes a dtype."""
    if isinstance(value, Memory):
        return replace(value, tokens=value.tokens.double())
    return value.double() if value.is_floating_point() else value


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_queries_give_permuted_results(kind):
    first, second, keywords = attentions_and_keywords(kind)
    block = DualCrossAttention(first, second, norm=layer_norm())
    order, query = torch.randperm(N), torch.randn(B, N, C)
    of_queries = ("position", "references", "sine_position")
    permuted = {name: value[:, order] if name in of_queries else value for name, value in keywords.items()}
    torch.testing.assert_close(block(query[:, order], **permuted), block(query, **keywords)[:, order])


def test_the_memory_may_come_by_position_as_dense_attention_takes_it():
    first, second, _ = attentions_and_keywords(dense)
    query, tokens = torch.randn(B, N, C), torch.randn(B, M, C)
    block = DualCrossAttention(first, second)
    assert torch.equal(block(query, tokens, tokens), block(query, key=tokens, value=tokens))


def test_names_of_the_state():
    build, arguments, _ = deformable()
    single = build(C, **arguments).state_dict()
    block = DualCrossAttention(build(C, **arguments), build(C, **arguments), norm=nn.LayerNorm(C))
    expected = {f"{part}.{name}" for part in ("first", "second") for name in single}
    assert set(block.state_dict()) == expected | {"norm.weight", "norm.bias"}
    assert set(DualCrossAttention(block.first, block.second).state_dict()) == expected
