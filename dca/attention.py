"""Dual cross-attention (StageInteractor, ICCV 2023): a decoder layer that attends to the image twice.

The paper only says "we simply double the cross-attention", and no DETR code with it is released. We interpret this as
a layer that has the step (cross-attention, norm) twice:

    self-attention, norm, cross-attention, norm, cross-attention, norm, feed-forward, norm

The second attention has its own parameters. It reads the query that the first one has updated, with the same position,
references and memory, and its residual is the same as for any other step of the layer. In a library whose layers are
lists of steps, such as detrex, this is the direct way to double a step, and the second attention can use the result of
the first one. `norm=None` and `chained=False` are the other sensible interpretations.
"""

from typing import Any

from torch import Tensor, nn


class DualCrossAttention(nn.Module):
    """Two cross-attentions that replace one, with its signature: (query, identity=..., **keywords).

    `with_dca` passes a LayerNorm as `norm`. Without a norm, and if the output of the second attention is zero, the
    block equals the first attention.

    Args:
        first: an attention that adds its own residual (deformable, conditional or dense).
        second: likewise.
        norm: applied to the input of the second attention; None means no norm. The layer's own norm follows both.
        chained: whether the second attention reads the result of the first one. If False, both read the same query
            and their outputs are added.
    """

    plain_part = "first"  # the child that gets the weights of a model without the second attention

    def __init__(
        self, first: nn.Module, second: nn.Module, *, norm: nn.Module | None = None, chained: bool = True
    ) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.norm = nn.Identity() if norm is None else norm
        self.chained = chained

    def forward(self, query: Tensor, *arguments: Any, identity: Tensor | None = None, **keywords: Any) -> Tensor:
        """Attend twice. Both attentions get the same arguments and keywords.

        Args:
            query: [B, N, C].
            *arguments: further arguments of the attentions.
            identity: [B, N, C], the residual of a pre-norm layer. None or `query` itself means a post-norm layer. In
                a pre-norm layer the residual is not normalised by `norm`; in a post-norm layer it is.
            **keywords: further arguments of the attentions.

        Returns:
            [B, N, C], residual included.
        """
        attended = self.first(query, *arguments, identity=identity, **keywords)
        pre_norm = identity is not None and identity is not query
        reading = self.norm(attended if self.chained else query)
        residual = reading if self.chained and not pre_norm else attended
        return self.second(reading, *arguments, identity=residual, **keywords)
