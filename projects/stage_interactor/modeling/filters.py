"""The reuse of dynamic filters from earlier stages (StageInteractor, section 3.2)."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Filters(NamedTuple):
    """The filters that a stage generated: over channels [B, N, G, C, C] (input, output) and points [B, N, G, O, P]."""

    over_channels: Tensor
    over_points: Tensor


@dataclass(frozen=True)
class FilterReuse:
    """How many filters a stage takes from the bank.

    Attributes:
        first_stage: the first stage, counted from 0, that reuses filters. The bank begins with the filters of the
            stage before it.
        channel_filters: largest number of reused filters over channels, newest first; None means all (Table 10). 0
            also removes the biases of the filters, as in the released code.
        spatial_filters: number of reused filters over points, N_S (Table 8). A stage that reuses s of them generates
            1 / (s + 1) of its rows.

    Raises:
        ValueError: for a first stage of 0, because no stage is before it, and for negative numbers.
    """

    first_stage: int = 2
    channel_filters: int | None = None
    spatial_filters: int = 1

    def __post_init__(self) -> None:
        if self.first_stage < 1:
            raise ValueError(f"reuse.first_stage={self.first_stage}: expected at least 1, stage 0 has none before it")
        if self.spatial_filters < 0 or (self.channel_filters or 0) < 0:
            raise ValueError("reuse.channel_filters and reuse.spatial_filters: expected 0 or more")

    def available(self, stage: int) -> int:
        """Number of filters in the bank for a stage: those of the stages first_stage - 1 to stage - 1."""
        return max(0, stage - self.first_stage + 1)

    def num_channel_filters(self, stage: int) -> int:
        """Number of filters over channels that the stage reuses."""
        limit = self.channel_filters
        return self.available(stage) if limit is None else min(limit, self.available(stage))

    def num_spatial_filters(self, stage: int) -> int:
        """Number of filters over points that the stage is built for; the bank of an early stage may hold fewer."""
        return self.spatial_filters if stage >= self.first_stage else 0

    def updated(self, bank: tuple[Filters, ...], own: Filters, stage: int) -> tuple[Filters, ...]:
        """The bank with the stage's own filters added; before the first reusing stage the bank holds only these."""
        return (own,) if stage < self.first_stage else (*bank, own)


class AdaptedFilters:
    """The paper's adapter (eq. 3): the own and the reused filter, blended by an outer product of scores."""

    scored = True

    def __call__(self, own: Tensor, reused: Tensor, shares: Tensor | None) -> Tensor:
        """Blend two filters [B, N, G, C, C]; `shares` are scores [B, N, G, C, 2] in (0, 1) of columns and rows."""
        assert shares is not None  # this blend is scored
        columns, rows = shares.unbind(-1)
        return torch.lerp(own, reused, rows[..., :, None] * columns[..., None, :])


class FilterBlend(Protocol):
    """How a stage's own filter and a reused one become one.

    Attributes:
        scored: whether the blend is given shares, which the mixing then computes from the query.
    """

    scored: bool

    def __call__(self, own: Tensor, reused: Tensor, shares: Tensor | None) -> Tensor:
        """own, reused: [B, N, G, C, C]; shares: [B, N, G, C, 2] in (0, 1), or None if not scored."""
        ...


class PreviousFilters:
    """The reused filter, unchanged (Table 11, "previous")."""

    scored = False

    def __call__(self, own: Tensor, reused: Tensor, shares: Tensor | None = None) -> Tensor:
        return reused


class CurrentFilters:
    """The stage's own filter again (Table 11, "current")."""

    scored = False

    def __call__(self, own: Tensor, reused: Tensor, shares: Tensor | None = None) -> Tensor:
        return own


class StaticMixing(Protocol):
    """Mixes samples by filters that are the same for all queries."""

    def layers(self, num_anchors: int, num_details: int, width: int) -> tuple[nn.Linear, nn.Linear]:
        """Its two Linears, which begin as nothing."""
        ...

    def __call__(self, grid: Tensor, stream: Tensor, over_details: nn.Linear, over_anchors: nn.Linear) -> Tensor:
        """Samples mixed, onto a stream: both [..., A, K, C]."""
        ...


class ChannelSpatialMixing:
    """Static mixing over channels and points at once, along the details of an anchor and along the anchors."""

    def layers(self, num_anchors: int, num_details: int, width: int) -> tuple[nn.Linear, nn.Linear]:
        """Linears along the details and along the anchors."""
        return _square(num_details * width), _square(num_anchors * width)

    def __call__(self, grid: Tensor, stream: Tensor, over_details: nn.Linear, over_anchors: nn.Linear) -> Tensor:
        """Samples mixed, onto a stream: both [..., A, K, C]."""
        details = over_details(grid.flatten(-2)).view_as(grid)
        by_detail = grid.transpose(-2, -3)
        anchors = over_anchors(by_detail.flatten(-2)).view(by_detail.shape)
        return (stream + details).add_(anchors.transpose(-2, -3))


class ChannelMixing:
    """Static mixing over channels only (an ablation)."""

    def layers(self, num_anchors: int, num_details: int, width: int) -> tuple[nn.Linear, nn.Linear]:
        """Two linear layers over channels."""
        return _square(width), _square(width)

    def __call__(self, grid: Tensor, stream: Tensor, over_details: nn.Linear, over_anchors: nn.Linear) -> Tensor:
        """Samples mixed, onto a stream: both [..., A, K, C]."""
        return (stream + over_details(grid)).add_(over_anchors(grid))


class SpatialMixing:
    """Static mixing over points only (an ablation that the released code cannot run)."""

    def layers(self, num_anchors: int, num_details: int, width: int) -> tuple[nn.Linear, nn.Linear]:
        """Linears over the details of an anchor and over the anchors."""
        return _square(num_details), _square(num_anchors)

    def __call__(self, grid: Tensor, stream: Tensor, over_details: nn.Linear, over_anchors: nn.Linear) -> Tensor:
        """Samples mixed, onto a stream: both [..., A, K, C]."""
        details = over_details(grid.transpose(-1, -2)).transpose(-1, -2)
        anchors = over_anchors(grid.movedim(-3, -1)).movedim(-1, -3)
        return (stream + details).add_(anchors)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with weights and biases of zero: [..., inputs] -> [..., outputs]."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _square(width: int) -> nn.Linear:
    return zero_linear(width, width)
