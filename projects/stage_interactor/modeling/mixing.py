"""Cascade dynamic mixing (StageInteractor, section 3.2): a stage also mixes with the filters of earlier stages.

Where the paper and the released code differ, this module follows the code, which produced the tables and the weights:
the reused filters act on a residual stream that begins with the samples before mixing; the filters of the first stage
are never reused; every filter has a generated bias; the cascade goes from the oldest filter to the newest.

The backward pass computes blended filters, and the values between two mixings, a second time. Storing them would double
the memory of the decoder, and on a CPU writing them takes as long as computing them again.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from crossstage.projects.stage_interactor.modeling.filters import (
    FilterBlend,
    FilterReuse,
    Filters,
    StaticMixing,
    zero_linear,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crossstage.modeling.decoders.adaptive_mixing import group_width, normed_relu
from crossstage.modeling.stages import of_stage

_Result = TypeVar("_Result")


class CascadeMixing(nn.Module):
    """Mixes samples over channels, then with filters from the bank, then over points; includes the residual.

    Args:
        embed_dim: number of channels C.
        num_anchors: A of the grouped sampler, one number or one per stage (see `of_stage`).
        num_details: K of the grouped sampler, one number or one per stage; P = A * K.
        num_groups: number of groups G.
        reuse: how many filters are taken from the bank.
        static: the static mixing before each reused filter, or None.
        blend: combines the own and a reused filter; None means static mixing only.
        num_outputs: number of rows of the filter over points.
        stage: index of the stage.

    Raises:
        ValueError: if the points of a reused stage do not fit those of this stage.
    """

    reuses_filters = True  # of earlier stages: a step whose weights all stages share has none

    def __init__(
        self,
        embed_dim: int = 256,
        *,
        num_anchors: int | Sequence[int] = (8, 4),
        num_details: int | Sequence[int] = 8,
        num_groups: int = 4,
        reuse: FilterReuse,
        static: StaticMixing | None = None,
        blend: FilterBlend | None = None,
        num_outputs: int = 128,
        stage: int = 0,
    ) -> None:
        super().__init__()
        self.num_groups, self.width = num_groups, group_width(embed_dim, num_groups)
        self.grid = of_stage(num_anchors, stage), of_stage(num_details, stage)
        self.reuse, self.static, self.blend, self.stage = reuse, static, blend, stage
        self.num_reused, self.num_spatial = reuse.num_channel_filters(stage), reuse.num_spatial_filters(stage)
        for earlier in range(stage - min(self.num_spatial, reuse.available(stage)), stage):
            _check_grids(self.grid, (of_stage(num_anchors, earlier), of_stage(num_details, earlier)), stage)
        points = self.grid[0] * self.grid[1]
        self.fresh_rows = num_outputs // (self.num_spatial + 1)
        rows = self.fresh_rows * (1 + min(self.num_spatial, reuse.available(stage)))
        self.split = [self.width**2, self.fresh_rows * points]

        self.filters = nn.Linear(embed_dim, num_groups * sum(self.split))
        self.biases = nn.Linear(embed_dim, num_groups * (self.width + rows)) if reuse.channel_filters != 0 else None
        self.project = nn.Linear(rows * embed_dim, embed_dim)
        self._add_cascade(embed_dim)
        scored = bool(self.num_spatial)
        self.row_shares = zero_linear(embed_dim, num_groups * self.fresh_rows * self.num_spatial) if scored else None
        self.point_shares = zero_linear(embed_dim, num_groups * points * self.num_spatial) if scored else None
        for layer in (self.filters, self.project, self.biases, self.reused_biases):
            if layer is not None:
                nn.init.zeros_(layer.weight)

    def _add_cascade(self, embed_dim: int) -> None:
        """Build the layers for reused filters: static layers for each, one linear layer for all shares, and biases."""
        pairs = [self.static.layers(*self.grid, self.width) for _ in range(self.num_reused)] if self.static else []
        self.over_details = nn.ModuleList(details for details, _ in pairs)
        self.over_anchors = nn.ModuleList(anchors for _, anchors in pairs)
        outputs = self.num_groups * self.width * self.num_reused
        blend = self.blend if self.num_reused else None
        self.channel_shares = zero_linear(embed_dim, 2 * outputs) if blend is not None and blend.scored else None
        self.reused_biases = nn.Linear(embed_dim, outputs) if blend is not None else None

    def forward(
        self, content: Tensor, features: Tensor, bank: tuple[Filters, ...] = ()
    ) -> tuple[Tensor, tuple[Filters, ...]]:
        """Mix the samples into the content.

        Args:
            content: [B, N, C].
            features: the samples, [B, N, G, P, C / G].
            bank: filters of earlier stages, oldest first.

        Returns:
            The new content [B, N, C], and the bank with the filters of this stage.
        """
        own = self.generate(content)
        point_bias = channel_bias = None
        if self.biases is not None:
            channel_bias, point_bias = self._grouped(self.biases(content)).tensor_split([self.width], dim=-1)
            channel_bias, point_bias = channel_bias[..., None, :], point_bias[..., None]
        mixed = normed_relu(_add(features @ own.over_channels, channel_bias))
        mixed = self.cascade(mixed, features, content, own, bank)
        mixed = _recomputed(self.over_points, mixed, content, own, bank, point_bias)
        return content + self.project(mixed.flatten(2)), self.reuse.updated(bank, own, self.stage)

    def generate(self, content: Tensor) -> Filters:
        """Generate the stage's own filters."""
        channels, points = self._grouped(self.filters(content)).split(self.split, dim=-1)
        return Filters(channels.unflatten(-1, (self.width, -1)), points.unflatten(-1, (self.fresh_rows, -1)))

    def cascade(
        self, mixed: Tensor, features: Tensor, content: Tensor, own: Filters, bank: tuple[Filters, ...]
    ) -> Tensor:
        """Apply static mixing and the reused filters over channels; mixed and features are [B, N, G, P, C / G]."""
        if not self.num_reused:
            return mixed
        shares = biases = [None] * self.num_reused
        if self.channel_shares is not None:
            scores = self._grouped(self.channel_shares(content)).sigmoid()
            shares = scores.unflatten(-1, (self.width, 2, self.num_reused)).movedim(-1, 0).contiguous()
        if self.reused_biases is not None:
            biases = self._grouped(self.reused_biases(content)).unflatten(-1, (self.num_reused, 1, -1)).unbind(-3)
        stream = features
        for index, reused in enumerate(bank[-self.num_reused :]):
            stream, mixed = _recomputed(self._step, index, stream, mixed, own, reused, shares[index], biases[index])
        return mixed

    def _step(
        self,
        index: int,
        stream: Tensor,
        mixed: Tensor,
        own: Filters,
        reused: Filters,
        shares: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Apply one reused filter; returns the stream after its static mixing, and the mixed samples."""
        if self.static is not None:
            samples, onto = mixed.unflatten(-2, self.grid), stream.unflatten(-2, self.grid)
            static = self.static(samples, onto, self.over_details[index], self.over_anchors[index])
            mixed = stream = static.flatten(-3, -2)
        if self.blend is not None:
            mixed = _add(mixed @ self.blend(own.over_channels, reused.over_channels, shares), bias)
        return stream, normed_relu(mixed)

    def over_points(
        self, mixed: Tensor, content: Tensor, own: Filters, bank: tuple[Filters, ...], bias: Tensor | None
    ) -> Tensor:
        """The mixing over points: [B, N, G, P, C / G] -> [B, N, G, rows, C / G]."""
        return normed_relu(_add(self.spatial_filters(content, own, bank) @ mixed, bias))

    def spatial_filters(self, content: Tensor, own: Filters, bank: tuple[Filters, ...]) -> Tensor:
        """[B, N, G, rows, P]: the own rows, then those of reused stages (oldest first) blended with the own ones."""
        fresh = own.over_points
        if self.row_shares is None or self.point_shares is None:
            return fresh
        of_rows, of_points = (
            self._grouped(layer(content)).sigmoid().unflatten(-1, (-1, self.num_spatial)).unbind(-1)
            for layer in (self.row_shares, self.point_shares)
        )
        blended = [
            torch.lerp(
                fresh, reused.over_points[..., : self.fresh_rows, : fresh.shape[-1]], u[..., None] * v[..., None, :]
            )
            for reused, u, v in zip(bank[-self.num_spatial :], of_rows, of_points, strict=False)
        ]
        return torch.cat([fresh, *blended], dim=-2)

    def _grouped(self, values: Tensor) -> Tensor:
        """[B, N, G * X] -> [B, N, G, X]."""
        return values.unflatten(-1, (self.num_groups, -1))


def _add(values: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias in place to a newly computed product."""
    return values if bias is None else values.add_(bias)


def _recomputed(function: Callable[..., _Result], *inputs: Any) -> _Result:
    """Return function(*inputs). Only the inputs are stored for the backward pass, which calls the function again."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def _check_grids(own: tuple[int, int], earlier: tuple[int, int], stage: int) -> None:
    """Check that a stage can reuse filters over points: it may have fewer anchors, with the same number of details."""
    if earlier[0] < own[0] or earlier[1] != own[1]:
        raise ValueError(
            f"stage {stage} samples {own[0]} anchors x {own[1]} details but reuses filters over {earlier[0]} x "
            f"{earlier[1]} points: num_anchors may not grow and num_details not change from reuse.first_stage - 1 on"
        )
