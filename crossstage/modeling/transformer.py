"""One transformer layer: attentions, norms and a feed-forward network, in an order that the config can set."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from crossstage.modeling.layer_seams import Attention, FeedForward
from crossstage.modeling.recompute import recomputed

ENCODER_ORDER = ("self_attn", "norm", "ffn", "norm")
DECODER_ORDER = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")


class TransformerLayer(nn.Module):
    """Runs its parts one after the other in `order`, and each part adds its own residual.

    Post-norm layers: the residual is the input of the part. Pre-norm layers: it is the un-normed output of the last
    attention, or the input of the layer before the first attention (as in detrex).

    Args:
        embed_dim: number of channels C.
        ffn: the feed-forward network, called as `ffn(query, identity=...)`.
        self_attn: any module that is called as `self_attn(query, identity=..., **keywords)`.
        cross_attn: likewise.
        order: names of the parts. An order that begins with "norm" makes a pre-norm layer.
        recompute: whether training computes the inside of the layer again in the backward pass, which saves memory.

    Raises:
        ValueError: if `order` names a part that is not given.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        ffn: FeedForward,
        self_attn: Attention | None = None,
        cross_attn: Attention | None = None,
        order: Sequence[str] = DECODER_ORDER,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        parts: dict[str, object] = {"self_attn": self_attn, "cross_attn": cross_attn, "ffn": ffn}
        unknown = [step for step in order if step != "norm" and parts.get(step) is None]
        if unknown:
            raise ValueError(f"order={tuple(order)} names {unknown[0]!r}, which this layer was not given")
        self.self_attn, self.cross_attn, self.ffn = self_attn, cross_attn, ffn
        self.order, self.recompute = tuple(order), recompute
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(self.order.count("norm")))

    def forward(
        self, query: Tensor, *, self_attn: dict[str, Any] | None = None, cross_attn: dict[str, Any] | None = None
    ) -> Tensor:
        """Run the layer: [B, N, C] -> [B, N, C]; `self_attn` and `cross_attn` are keywords for these two parts."""
        keywords = {"self_attn": self_attn or {}, "cross_attn": cross_attn or {}, "ffn": {}}
        return recomputed(self._run, query, keywords, when=self.recompute)

    def _run(self, query: Tensor, keywords: dict[str, dict[str, Any]]) -> Tensor:
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
