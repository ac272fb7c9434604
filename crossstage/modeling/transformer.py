"""One transformer layer: attentions, norms and a feed-forward network in an order that is data."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from crossstage.modeling.layer_seams import Attention, FeedForward

ENCODER_ORDER = ("self_attn", "norm", "ffn", "norm")
DECODER_ORDER = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")


class TransformerLayer(nn.Module):
    """Runs its parts in `order`, e.g. DECODER_ORDER; an order that begins with "norm" is pre-norm.

    Each part adds its own residual. Post-norm: the residual is what the part reads. Pre-norm: it is the layer's
    input, and after an attention that attention's un-normed output (as in detrex).
    self_attn and cross_attn may be any modules that take (query, identity=..., **their own keywords).
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        ffn: FeedForward,
        self_attn: Attention | None = None,
        cross_attn: Attention | None = None,
        order: Sequence[str] = DECODER_ORDER,
    ) -> None:
        super().__init__()
        parts: dict[str, object] = {"self_attn": self_attn, "cross_attn": cross_attn, "ffn": ffn}
        unknown = [step for step in order if step != "norm" and parts.get(step) is None]
        if unknown:
            raise ValueError(f"order={tuple(order)} names {unknown[0]!r}, which this layer was not given")
        self.self_attn, self.cross_attn, self.ffn = self_attn, cross_attn, ffn
        self.order = tuple(order)
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(self.order.count("norm")))

    def forward(
        self, query: Tensor, *, self_attn: dict[str, Any] | None = None, cross_attn: dict[str, Any] | None = None
    ) -> Tensor:
        """query: [B, N, C] -> [B, N, C].  self_attn, cross_attn: keywords for these parts."""
        keywords = {"self_attn": self_attn or {}, "cross_attn": cross_attn or {}, "ffn": {}}
        norms = iter(self.norms)
        pre_norm = self.order[0] == "norm"
        residual = query
        for step in self.order:
            if step == "norm":
                query = next(norms)(query)
                continue
            identity = residual if pre_norm else query
            query = getattr(self, step)(query, identity=identity, **keywords[step])
            if step != "ffn":
                residual = query
        return query
