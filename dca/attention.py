"""Dual cross-attention (StageInteractor, ICCV 2023): a decoder layer that looks at the image twice.

The paper says no more than "we simply double the cross-attention", and no DETR code with it is released. We read that
as a layer whose order holds the step (cross-attention, norm) twice:

    self-attention, norm, cross-attention, norm, cross-attention, norm, feed-forward, norm

The second attention has parameters of its own. It reads the query that the first one updated, with the same position,
references and memory; its residual is what any step of that layer has as its residual. That is what "double" asks of
a library whose layers are a list of steps, as detrex's are, and it lets the second attention look where the first one
led. `norm=None` and `chained=False` are the other sensible readings.
"""

from typing import Any

from torch import Tensor, nn


class DualCrossAttention(nn.Module):
    """Two cross-attentions in the place of one, with the signature of the one: (query, identity=..., **keywords).

    first, second: attentions that add their own residual (deformable, conditional, dense).  norm: what the second one
    reads goes through it; the norm that follows both is the layer's own.  chained: the second attention reads the
    first one's result; False: both read the same query and their outputs add up.

    `with_dca` gives a LayerNorm as `norm`. If the second attention's output is zero, the block without `norm` is the
    first attention.
    """

    plain_part = "first"  # where the weights of a model without the second attention go

    def __init__(
        self, first: nn.Module, second: nn.Module, *, norm: nn.Module | None = None, chained: bool = True
    ) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.norm = nn.Identity() if norm is None else norm
        self.chained = chained

    def forward(self, query: Tensor, *arguments: Any, identity: Tensor | None = None, **keywords: Any) -> Tensor:
        """query: [B, N, C] -> [B, N, C]. Both attentions get the same arguments and keywords.

        identity: added instead of `query`, in a pre-norm layer; any tensor but `query` itself means such a layer.
        There the residual passes by `norm` as it passes by the layer's own norms; in a post-norm layer it has been
        through it.
        """
        attended = self.first(query, *arguments, identity=identity, **keywords)
        pre_norm = identity is not None and identity is not query
        reading = self.norm(attended if self.chained else query)
        residual = reading if self.chained and not pre_norm else attended
        return self.second(reading, *arguments, identity=residual, **keywords)
