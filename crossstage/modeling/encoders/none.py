"""No encoder: the pyramid itself is the memory."""

from torch import nn

from crossstage.modeling.encoders.tokens import pyramid_memory
from crossstage.structures import FeaturePyramid, Memory


class NoEncoder(nn.Module):
    """The pyramid as memory, for decoders that sample it themselves (AdaMixer).

    The positions are zeros: no layer has embedded them, and what adds them to the tokens adds nothing.
    """

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """L maps [B, C, h, w] -> memory of M = sum of h * w tokens."""
        return pyramid_memory(pyramid)
