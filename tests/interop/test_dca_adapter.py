"""dca.detrex around stand-ins with the calls of detrex's decoder layers; runs without detrex."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from crossstage.config import LazyCall as L
from crossstage.config import instantiate
from dca.detrex import DetrexDualCrossAttention, with_dca

CHANNELS = 8


class Attention(nn.Module):
    """Adds a projection of query and memory to its residual; the residual comes fourth, by position."""

    def __init__(self) -> None:
        super().__init__()
        self.output_proj = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, query: Tensor, key: Any, value: Any, identity: Tensor | None = None, **keywords: Any) -> Tensor:
        memory = keywords["scale"] * (query if value is None else value).mean(dim=1, keepdim=True)
        return (query if identity is None else identity) + self.output_proj(query + memory)


class Layer(nn.Module):
    """A list of operations, as detrex's BaseTransformerLayer."""

    def __init__(self, order: tuple[str, ...]) -> None:
        super().__init__()
        self.operation_order = order
        self.attentions = nn.ModuleList([Attention() for name in order if "attn" in name])
        self.norms = nn.ModuleList([nn.LayerNorm(CHANNELS) for name in order if name == "norm"])

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        attentions, norms, identity = iter(self.attentions), iter(self.norms), query
        for name in self.operation_order:
            if name == "norm":
                query = next(norms)(query)
                continue
            residual = identity if self.operation_order[0] == "norm" else None
            read = (None, None) if name == "self_attn" else (memory, memory)
            identity = query = next(attentions)(query, *read, residual, scale=2.0)
        return query


class Decoder(nn.Module):
    """Layers that it makes itself."""

    def __init__(self, *, embed_dim: int, num_layers: int, order: tuple[str, ...]) -> None:
        super().__init__()
        self.width = embed_dim
        self.layers = nn.ModuleList([Layer(tuple(order)) for _ in range(num_layers)])


POST_NORM = ["self_attn", "norm", "cross_attn", "norm"]
PRE_NORM = ["norm", "self_attn", "norm", "cross_attn"]


def node(order: list[str]) -> Any:
    decoder = L(Decoder)(embed_dim=CHANNELS, num_layers=2, order=order)
    return L(dict)(transformer=L(dict)(decoder=decoder))


def decoder_of(model: Any) -> nn.Module:
    return instantiate(model.transformer.decoder)


@pytest.mark.parametrize("order", [POST_NORM, PRE_NORM])
def test_the_cross_attention_of_each_layer_is_doubled_and_the_self_attention_stays(order):
    decoder = decoder_of(with_dca(node(order)))
    kinds = [[type(attention) for attention in layer.attentions] for layer in decoder.layers]
    assert kinds == [[Attention, DetrexDualCrossAttention]] * 2
    pair, other = (layer.attentions[1] for layer in decoder.layers)
    assert pair.norm.normalized_shape == (CHANNELS,) and pair.norm is not other.norm
    weights = [a.output_proj.weight for a in (pair.first, pair.second, other.first, other.second)]
    assert all(not torch.equal(weights[i], weights[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("order", [POST_NORM, PRE_NORM])
def test_without_norm_and_with_a_silent_second_attention_the_layer_is_the_one_it_was(order):
    torch.manual_seed(1)
    plain = decoder_of(node(order))
    torch.manual_seed(1)
    dual = decoder_of(with_dca(node(order), norm=None))
    query, memory = torch.randn(2, 3, CHANNELS), torch.randn(2, 5, CHANNELS)
    assert not torch.equal(dual.layers[0](query, memory), plain.layers[0](query, memory))
    for parameter in dual.layers[0].attentions[1].second.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(dual.layers[0](query, memory), plain.layers[0](query, memory), rtol=0, atol=0)


def test_the_second_attention_reads_the_memory_and_what_the_first_made_of_the_query():
    pair = decoder_of(with_dca(node(POST_NORM), norm=None)).layers[0].attentions[1]
    query, memory = torch.randn(2, 3, CHANNELS), torch.randn(2, 5, CHANNELS)
    once = pair.first(query, memory, memory, None, scale=2.0)
    twice = pair.second(once, memory, memory, None, scale=2.0)
    torch.testing.assert_close(pair(query, memory, memory, None, scale=2.0), twice)


def test_keys_stay_and_the_last_call_decides():
    model = node(POST_NORM)
    before = OmegaConf.to_container(model)
    edited = with_dca(with_dca(model), norm=None)
    assert OmegaConf.to_container(model) == before
    edited.transformer.decoder.num_layers = 5  # as on the command line
    decoder = decoder_of(edited)
    assert len(decoder.layers) == 5 and isinstance(decoder, Decoder)
    assert isinstance(decoder.layers[4].attentions[1].norm, nn.Identity)
    assert isinstance(decoder.layers[0].attentions[1].first, Attention)


def test_a_decoder_of_another_kind_is_refused_in_words():
    with pytest.raises(TypeError, match="operation_order"):
        decoder_of(with_dca(L(dict)(transformer=L(dict)(decoder=L(nn.Identity)())), norm=None))


@pytest.mark.parametrize("order", [POST_NORM, PRE_NORM])
def test_weights_of_a_plain_detector_load_into_the_first_attention(order):
    plain, dual = decoder_of(node(order)), decoder_of(with_dca(node(order)))
    drawn = [layer.attentions[1].second.output_proj.weight.clone() for layer in dual.layers]
    state = plain.state_dict()
    names = list(state)
    found = dual.load_state_dict(state, strict=False)
    assert list(state) == names and found.unexpected_keys == []
    parts = ("second.output_proj", "norm")
    expected = {
        f"layers.{i}.attentions.1.{part}.{kind}" for i in (0, 1) for part in parts for kind in ("weight", "bias")
    }
    assert set(found.missing_keys) == expected
    for before, after, weight in zip(plain.layers, dual.layers, drawn, strict=True):
        assert torch.equal(after.attentions[1].first.output_proj.weight, before.attentions[1].output_proj.weight)
        assert torch.equal(after.attentions[1].second.output_proj.weight, weight)


def test_weights_of_a_detector_with_two_attentions_load_as_they_are():
    trained, other = (decoder_of(with_dca(node(POST_NORM))) for _ in range(2))
    other.load_state_dict(trained.state_dict())
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in other.state_dict().items())
