"""Heads start where the papers start them; attention attends to what its masks leave."""

import math

import pytest
import torch
from torch import nn

from crossstage.layers.attention import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    DenseAttention,
    multi_head_attention,
)
from crossstage.layers.mlp import FFN, MLP, BoxHead, ClassHead, xavier_uniform_matrices_


def test_mlp_has_relu_between_layers_and_none_after_the_last():
    mlp = MLP(3, 8, 2, 3)
    features = torch.randn(5, 3)
    first, second, third = mlp.layers
    assert mlp(features).equal(third(second(first(features).relu()).relu()))
    assert [layer.weight.shape for layer in mlp.layers] == [(8, 3), (8, 8), (2, 8)]


def test_class_scores_start_at_the_prior():
    head = ClassHead(16, 5)
    assert head.bias.tolist() == pytest.approx([-math.log(99)] * 5)
    assert float(head(torch.zeros(16)).detach()[0].sigmoid()) == pytest.approx(0.01)
    assert ClassHead(16, 5, prior=0.5).bias.count_nonzero() == 0


def test_box_heads_start_by_predicting_no_change():
    features = torch.randn(7, 16)
    assert BoxHead(16)(features).count_nonzero() == 0
    assert BoxHead(16, initial_size=-2.0)(features).tolist() == [[0, 0, -2, -2]] * 7
    assert [len(BoxHead(16).layers), BoxHead(16).layers[0].weight.count_nonzero().item()] == [3, 256]


def test_ffn_adds_its_input_or_what_it_is_given():
    ffn = FFN(4, 8)
    features, identity = torch.randn(3, 4), torch.randn(3, 4)
    inner = ffn.layers[1](ffn.layers[0](features).relu())
    torch.testing.assert_close(ffn(features), features + inner)
    torch.testing.assert_close(ffn(features, identity=identity), identity + inner)


def test_ffn_takes_another_activation_shared_by_its_hidden_layers():
    ffn = FFN(4, 8, num_layers=3, activation=nn.PReLU())
    assert sum(name.startswith("activation") for name, _ in ffn.named_parameters()) == 1
    nn.init.constant_(ffn.activation.weight, 1.0)  # now the identity: the stack is linear
    first, second = torch.randn(2, 4)
    bias = ffn(torch.zeros(4))
    torch.testing.assert_close(ffn(first + second), ffn(first) + ffn(second) - bias, rtol=1e-4, atol=1e-5)


def test_ffn_drops_only_in_training():
    ffn, features = FFN(4, 64, dropout=0.5), torch.randn(3, 4)
    assert not ffn(features).equal(ffn(features))
    assert ffn.eval()(features).equal(ffn(features))


def test_xavier_draws_matrices_and_leaves_vectors():
    layer = nn.Linear(40, 24)
    nn.init.constant_(layer.weight, 9.0)
    nn.init.constant_(layer.bias, 9.0)
    xavier_uniform_matrices_(layer)
    assert layer.weight.abs().max() <= math.sqrt(6 / 64)
    assert layer.bias.unique().tolist() == [9.0]


def test_attention_over_projected_tensors_is_softmax_of_scaled_products():
    query, key, value = torch.randn(2, 5, 6), torch.randn(2, 7, 6), torch.randn(2, 7, 9)
    ours = multi_head_attention(query, key, value, num_heads=3)
    for head in range(3):
        scores = query[..., 2 * head : 2 * head + 2] @ key[..., 2 * head : 2 * head + 2].transpose(1, 2) / math.sqrt(2)
        read = scores.softmax(-1) @ value[..., 3 * head : 3 * head + 3]
        torch.testing.assert_close(ours[..., 3 * head : 3 * head + 3], read)


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Query 0 may not see key 2; the last two keys of image 1 are padding."""
    attention_mask = torch.zeros(5, 7, dtype=torch.bool)
    attention_mask[0, 2] = True
    padding_mask = torch.zeros(2, 7, dtype=torch.bool)
    padding_mask[1, 5:] = True
    return attention_mask, padding_mask


def test_masks_hide_keys():
    attention_mask, padding_mask = masks()
    query, key, value = torch.randn(2, 5, 6), torch.randn(2, 7, 6), torch.randn(2, 7, 6)
    read = multi_head_attention(
        query, key, value, num_heads=3, attention_mask=attention_mask, padding_mask=padding_mask
    )
    value_changed = value.clone()
    value_changed[:, 2] = 100.0
    value_changed[1, 5:] = 100.0
    again = multi_head_attention(
        query, key, value_changed, num_heads=3, attention_mask=attention_mask, padding_mask=padding_mask
    )
    assert again[:, 0].equal(read[:, 0])
    assert not again[:, 1].allclose(read[:, 1])


def test_dense_attention_adds_positions_to_queries_and_keys_but_not_to_values():
    attention = DenseAttention(6, num_heads=3)
    query, position = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    ours = attention(query, position=position)
    theirs, _ = attention.attn(query + position, query + position, query)
    torch.testing.assert_close(ours, query + theirs)
    identity = torch.randn_like(query)
    torch.testing.assert_close(attention(query, position=position, identity=identity), identity + theirs)


def test_dense_attention_to_another_sequence():
    attention_mask, padding_mask = masks()
    attention = DenseAttention(6, num_heads=3)
    query, key, key_position = torch.randn(2, 5, 6), torch.randn(2, 7, 6), torch.randn(2, 7, 6)
    theirs, _ = attention.attn(
        query, key + key_position, key, attn_mask=attention_mask, key_padding_mask=padding_mask, need_weights=False
    )
    ours = attention(query, key, key_position=key_position, attention_mask=attention_mask, padding_mask=padding_mask)
    torch.testing.assert_close(ours, query + theirs)


@pytest.mark.parametrize("stage", [0, 1, 5])
def test_only_the_first_stage_mixes_position_into_content(stage):
    attention = ConditionalCrossAttention(6, num_heads=3, stage=stage)
    query, key, sine = torch.randn(2, 5, 6), torch.randn(2, 7, 6), torch.randn(2, 5, 6)
    position = torch.randn(2, 5, 6, requires_grad=True)
    attention(query, key, position=position, key_position=torch.randn(2, 7, 6), sine_position=sine).sum().backward()
    assert (position.grad is not None) == (stage == 0)


def test_conditional_self_attention_respects_its_mask():
    attention = ConditionalSelfAttention(6, num_heads=3)
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[:2, 2:] = True
    query, position = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    changed = torch.cat([query[:, :2], torch.randn(2, 3, 6)], dim=1)
    first, second = (attention(q, position=position, attention_mask=mask) for q in (query, changed))
    assert first[:, :2].equal(second[:, :2])
    assert not first[:, 2:].allclose(second[:, 2:])
