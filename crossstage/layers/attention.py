"""Dense attention, residual included: multi-head attention, and conditional attention of the DAB/DN-DETR line."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DenseAttention(nn.Module):
    """torch's multi-head attention with positions added to queries and keys but not to values.

    [B, N, C] queries, [B, M, C] keys and values -> [B, N, C]; without `key` it is self-attention.
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
        """attention_mask: bool [N, M], padding_mask: bool [B, M]; True = not attended.

        identity: added instead of `query` (pre-norm).
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
    """Scaled dot-product attention over projected tensors.

    query: [B, N, H * d], key: [B, M, H * d], value: [B, M, H * v] -> [B, N, H * v], head-major on the last axis.
    attention_mask: bool [N, M], padding_mask: bool [B, M]; True = not attended.  bias: [B, H, N, M], added to the
    logits instead of masks.
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
    """Attention whose content and position have projections of their own (Conditional DETR; DAB-DETR, fig. 5).

    A subclass builds the projections of its queries and then calls `_add_projections`: the order in which parameters
    are built is that of the optimizer's state in a checkpoint.
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
    """Conditional self-attention: content and position of the queries are projected apart and added."""

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
        """query, position: [B, N, C] -> [B, N, C], residual included. Masks: True = not attended."""
        return self._attend(
            self.query_content_proj(query) + self.query_pos_proj(position),
            self.key_content_proj(query) + self.key_pos_proj(position),
            query,
            identity=query if identity is None else identity,
            attention_mask=attention_mask,
            padding_mask=padding_mask,
        )


class ConditionalCrossAttention(_ConditionalAttention):
    """Cross-attention that matches content with content and sine position with position, head by head.

    stage: index of the decoder layer; layer 0 also adds the query's and the key's position to their content.
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
        """query, position, sine_position: [B, N, C]; key, value, key_position: [B, M, C] -> [B, N, C] with residual."""
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
        """Content and position of each head next to each other: two [B, N, C] -> [B, N, 2 * C], head-major."""
        pair = [x.unflatten(-1, (self.num_heads, -1)) for x in (content, place)]
        return torch.cat(pair, dim=-1).flatten(-2)
