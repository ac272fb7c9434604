"""Dual cross-attention (StageInteractor, ICCV 2023) for the decoder layers of DETR-family detectors.

`with_dca(model)` puts it into a config; `DualCrossAttention` is the module.
"""

from dca.attention import DualCrossAttention
from dca.config import with_dca

__all__ = ["DualCrossAttention", "with_dca"]
