"""Dense attention that includes its residual: multi-head attention, and the conditional attention of DAB-DETR."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DenseAttention(nn.Module):
    """torch's multi-head attention. Positions are added to queries and keys, but not to values.

    Args:
        embed_dim: number of channels C of queries, keys and values.
        num_heads: number of attention heads H; must divide `embed_dim`.
        dropout: probability with which an attention weight is set to 0 in training.
    """

    def __init__(self, embed_dim: int = 256, *, num_heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, num_heads, dropout=dropout, batch_first=True)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        position: Tensor | None = None,
        key_position: Tensor | None = None,
        attention_mask: Tensor | None = None,
        padding_mask: Tensor | None = None,
        identity: Tensor | None = None,
    ) -> Tensor:
        """Attend to the keys, or to the queries themselves if `key` is None (self-attention).

        Args:
            query: [B, N, C].
            key: [B, M, C].
            value: [B, M, C]; None means `key`.
            position: [B, N, C], added to the queries.
            key_position: [B, M, C], added to the keys. Self-attention uses `position` instead.
            attention_mask: bool [N, M], True = not attended.
            padding_mask: bool [B, M], True = not attended.
            identity: [B, N, C], the residual; None means `query`. A pre-norm layer passes its un-normed input.

        Returns:
            [B, N, C], residual included.
        """
        if key is None:
            key, value, key_position = query, query, position
        attended, _ = self.attn(
            query if position is None else query + position,
            key if key_position is None else key + key_position,
            key if value is None else value,
            attn_mask=attention_mask,
            key_padding_mask=padding_mask,
            need_weights=False,
        )
        return (query if identity is None else identity) + attended


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    num_heads: int,
    attention_mask: Tensor | None = None,
    padding_mask: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention over projected tensors. On the last axis the channels of a head are adjacent.

    Args:
        query: [B, N, H * d].
        key: [B, M, H * d].
        value: [B, M, H * v].
        num_heads: number of heads H.
        attention_mask: bool [N, M], True = not attended.
        padding_mask: bool [B, M], True = not attended.
        bias: [B, H, N, M], added to the logits; give either a bias or masks.
        dropout: probability with which an attention weight is set to 0.

    Returns:
        [B, N, H * v].
    """
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    allowed = bias
    if attention_mask is not None:
        allowed = ~attention_mask
    if padding_mask is not None:
        unpadded = ~padding_mask[:, None, None, :]
        allowed = unpadded if allowed is None else unpadded & allowed
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
    return attended.transpose(1, 2).flatten(-2)


class _ConditionalAttention(nn.Module):
    """Attention with separate projections for content and position (Conditional DETR; DAB-DETR, fig. 5).

    A subclass builds the projections of its queries first and then calls `_add_projections`. This order must not
    change: a checkpoint stores the optimizer's state in the order in which the parameters were built.
    """

    def __init__(self, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout

    def _add_projections(self, embed_dim: int) -> None:
        """Build the projections of keys, values and the output."""
        self.key_content_proj = nn.Linear(embed_dim, embed_dim)
        self.key_pos_proj = nn.Linear(embed_dim, embed_dim)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *, identity: Tensor, **masks: Tensor | None) -> Tensor:
        """Attention over projected queries and keys, added to `identity`.

        Args:
            query: [B, N, H * d], projected.
            key: [B, M, H * d], projected.
            value: [B, M, C], not yet projected.
            identity: [B, N, C].
            masks: attention_mask, padding_mask.

        Returns:
            [B, N, C].
        """
        dropout = self.dropout if self.training else 0.0
        value = self.value_proj(value)
        attended = multi_head_attention(query, key, value, num_heads=self.num_heads, dropout=dropout, **masks)
        return identity + self.out_proj(attended)


class ConditionalSelfAttention(_ConditionalAttention):
    """Conditional self-attention: content and position of the queries are projected separately, then added.

    Args:
        embed_dim: number of channels C.
        num_heads: number of attention heads; must divide `embed_dim`.
        dropout: probability with which an attention weight is set to 0 in training.
    """

    def __init__(self, embed_dim: int = 256, *, num_heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__(num_heads=num_heads, dropout=dropout)
        self.query_content_proj = nn.Linear(embed_dim, embed_dim)
        self.query_pos_proj = nn.Linear(embed_dim, embed_dim)
        self._add_projections(embed_dim)

    def forward(
        self,
        query: Tensor,
        *,
        position: Tensor,
        attention_mask: Tensor | None = None,
        padding_mask: Tensor | None = None,
        identity: Tensor | None = None,
    ) -> Tensor:
        """Let the queries attend to each other.

        Args:
            query: [B, N, C], the content.
            position: [B, N, C].
            attention_mask: bool [N, N], True = not attended.
            padding_mask: bool [B, N], True = not attended.
            identity: [B, N, C], the residual; None means `query`.

        Returns:
            [B, N, C], residual included.
        """
        return self._attend(
            self.query_content_proj(query) + self.query_pos_proj(position),
            self.key_content_proj(query) + self.key_pos_proj(position),
            query,
            identity=query if identity is None else identity,
            attention_mask=attention_mask,
            padding_mask=padding_mask,
        )


class ConditionalCrossAttention(_ConditionalAttention):
    """Cross-attention whose logits are content times content plus sine position times position, in each head.

    Args:
        embed_dim: number of channels C.
        num_heads: number of attention heads; must divide `embed_dim`.
        dropout: probability with which an attention weight is set to 0 in training.
        stage: index of the decoder layer. Layer 0 also adds the positions of queries and keys to their content.
    """

    def __init__(self, embed_dim: int = 256, *, num_heads: int = 8, dropout: float = 0.0, stage: int = 0) -> None:
        super().__init__(num_heads=num_heads, dropout=dropout)
        self.query_content_proj = nn.Linear(embed_dim, embed_dim)
        self.query_pos_proj = nn.Linear(embed_dim, embed_dim) if stage == 0 else None
        self.query_pos_sine_proj = nn.Linear(embed_dim, embed_dim)
        self._add_projections(embed_dim)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,
        *,
        position: Tensor | None,
        key_position: Tensor,
        sine_position: Tensor,
        padding_mask: Tensor | None = None,
        identity: Tensor | None = None,
    ) -> Tensor:
        """Let the queries attend to the keys.

        Args:
            query: [B, N, C], the content.
            key: [B, M, C], the content.
            value: [B, M, C]; None means `key`.
            position: [B, N, C], used by layer 0 only.
            key_position: [B, M, C].
            sine_position: [B, N, C], sine embedding of the queries' boxes.
            padding_mask: bool [B, M], True = not attended.
            identity: [B, N, C], the residual; None means `query`.

        Returns:
            [B, N, C], residual included.
        """
        query_content, key_content = self.query_content_proj(query), self.key_content_proj(key)
        key_place = self.key_pos_proj(key_position)
        if self.query_pos_proj is not None:
            query_content = query_content + self.query_pos_proj(position)
            key_content = key_content + key_place
        return self._attend(
            self._side_by_side(query_content, self.query_pos_sine_proj(sine_position)),
            self._side_by_side(key_content, key_place),
            key if value is None else value,
            identity=query if identity is None else identity,
            padding_mask=padding_mask,
        )

    def _side_by_side(self, content: Tensor, place: Tensor) -> Tensor:
        """Concatenate content and position within each head: two [B, N, C] -> [B, N, 2 * C]."""
        pair = [x.unflatten(-1, (self.num_heads, -1)) for x in (content, place)]
        return torch.cat(pair, dim=-1).flatten(-2)
