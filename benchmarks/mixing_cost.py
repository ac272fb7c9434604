"""What the sampling and mixing of AdaMixer and StageInteractor cost, in closed form: multiply-adds and parameters.

One multiply-add is one; element-wise work (blending filters, norms) is not counted, fvcore does not either. Generating
the filters over channels costs C / P times mixing with them, 8 in the papers' settings, as StageInteractor says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CORNERS = 4
GENERATION, EXTRAS, STATIC = "filter generation", "adapters and biases", "static mixing"
CHANNELS, POINTS = "mixing over channels", "mixing over points"
OUTPUT, SAMPLING = "output projection", "sampling"


@dataclass(frozen=True)
class Cost:
    """multiply_adds: of a query.  parameters: of the module, whatever the number of queries."""

    multiply_adds: int
    parameters: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.multiply_adds + other.multiply_adds, self.parameters + other.parameters)


@dataclass(frozen=True)
class StageSizes:
    """One stage. A group samples anchors * details points; 0 details: `anchors` points with offsets of their own.

    rows: of the filter over points that is applied (P_out).  fresh_rows: those that the stage generates.
    reused: filters over channels from earlier stages.  reuses_points: filters over points from earlier stages (N_S).
    biased: whether the filters have generated biases.
    """

    embed_dim: int = 256
    groups: int = 4
    anchors: int = 32
    details: int = 0
    rows: int = 128
    fresh_rows: int = 128
    levels: int = 4
    reused: int = 0
    reuses_points: int = 0
    biased: bool = False

    @property
    def width(self) -> int:
        """Channels of a group."""
        return self.embed_dim // self.groups

    @property
    def points(self) -> int:
        """Points of a group (P_in)."""
        return self.anchors * max(self.details, 1)


def adamixer_stages(num_layers: int = 6, **sizes: int) -> list[StageSizes]:
    """All stages alike."""
    return [StageSizes(**sizes)] * num_layers


def stage_interactor_stages(
    num_layers: int = 6, *, anchors: tuple[int, int] = (8, 4), details: int = 8, rows: int = 128, **sizes: int
) -> list[StageSizes]:
    """The released setting: reuse from the third stage on, of all filters but the first stage's, and N_S = 1."""
    stages = []
    for stage in range(num_layers):
        reused = max(0, stage - 1)
        stages.append(
            StageSizes(
                anchors=anchors[min(stage, 1)],
                details=details,
                rows=rows,
                fresh_rows=rows // 2 if reused else rows,
                reused=reused,
                reuses_points=int(reused > 0),
                biased=True,
                **sizes,
            )
        )
    return stages


def stage_cost(sizes: StageSizes) -> dict[str, Cost]:
    """The cost of one stage by part."""
    dim, groups, width, points = sizes.embed_dim, sizes.groups, sizes.width, sizes.points
    outputs = sizes.biased * groups * (width + sizes.rows)
    extras = _linear(dim, outputs) if sizes.biased else Cost(0)
    shares = [(3 if sizes.biased else 2) * groups * width * sizes.reused]  # two of the adapter, one bias
    shares += [groups * sizes.fresh_rows * sizes.reuses_points, groups * points * sizes.reuses_points]
    static = Cost(0)
    if sizes.reused:
        extras = sum((_linear(dim, outputs) for outputs in shares if outputs), extras)
        over_details, over_anchors = sizes.details * width, sizes.anchors * width
        static = Cost(
            sizes.reused * groups * (sizes.anchors * over_details**2 + sizes.details * over_anchors**2),
            sizes.reused * (_linear(over_details, over_details) + _linear(over_anchors, over_anchors)).parameters,
        )
    sampling = _linear(dim, 3 * groups * sizes.anchors)
    if sizes.details:
        sampling += _linear(dim, 3 * sizes.details)
    return {
        GENERATION: _linear(dim, groups * (width**2 + points * sizes.fresh_rows)),
        EXTRAS: extras,
        CHANNELS: Cost((1 + sizes.reused) * groups * points * width**2),
        STATIC: static,
        POINTS: Cost(groups * sizes.rows * points * width),
        OUTPUT: _linear(sizes.rows * dim, dim),
        SAMPLING: sampling + Cost(groups * points * CORNERS * sizes.levels * width),
    }


def channel_filters(sizes: StageSizes) -> Cost:
    """The share of the filters over channels in their generation."""
    return _linear(sizes.embed_dim, sizes.groups * sizes.width**2)


def decoder_cost(stages: list[StageSizes]) -> Mapping[str, Cost]:
    """The cost of all stages by part."""
    costs = [stage_cost(sizes) for sizes in stages]
    return {part: sum((cost[part] for cost in costs), Cost(0)) for part in costs[0]}


def _linear(inputs: int, outputs: int) -> Cost:
    return Cost(inputs * outputs, inputs * outputs + outputs)
