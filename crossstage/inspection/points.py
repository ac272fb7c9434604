"""Where queries look: the sampling points of a decoder, drawn on the picture: `crossstage inspect points`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle as Patch
from torch import Tensor, nn

from crossstage.errors import InputError
from crossstage.inspection.figures import COLOURS, PAGE, paper_figure, show_picture, write_numbers
from crossstage.inspection.pictures import corners_in, picture_of
from crossstage.inspection.stages import EveryStage
from crossstage.layers.sampling import level_weights
from crossstage.structures import ImageBatch, Levels, Memory, StageOutputs
from crossstage.visualize import Rectangle


@runtime_checkable
class SamplingAttention(Protocol):
    """Deformable attention: samples every level, each with a weight (`crossstage.layers.deformable`)."""

    def samples(self, attending: Tensor, *, references: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Locations [B, N, H, L, P, 2] in [0, 1] of each padded level, and weights [B, N, H, L, P]."""
        ...


@runtime_checkable
class PyramidSampler(Protocol):
    """A mixer's sampler: its points have a scale, which weights the levels (`decoders.point_sampler`).

    Attributes:
        strides, centres: [L], see `crossstage.layers.sampling.sample_pyramid`.
    """

    strides: Tensor
    centres: Tensor

    def points(self, content: Tensor, vectors: Tensor) -> Tensor:
        """(x, y) in pixels of the network's input and the scale z: [B, N, G, P, 3]."""
        ...


@dataclass(frozen=True)
class Samples:
    """The points that the queries read in one call of an attention or sampler; Q per query.

    Attributes:
        places: (x, y) in [0, 1] of the unpadded image, [B, N, Q, 2].
        in_level: the same in [0, 1] of the padded level that the point reads, [B, N, Q, 2].
        levels: int64 [B, N, Q], the level; of a mixer's point the one with the largest weight.
        weights: [B, N, Q], how much a point counts: the attention weight, or the weight of the level.
        shapes: (height, width) in cells of each level.
    """

    places: Tensor
    in_level: Tensor
    levels: Tensor
    weights: Tensor
    shapes: tuple[tuple[int, int], ...]

    @property
    def inside(self) -> Tensor:
        """bool [B, N, Q]: whether the point lies in its level. Others read zeros, at most a part of a border cell."""
        return ((self.in_level >= 0) & (self.in_level <= 1)).all(-1)


@contextmanager
def recorded_samples(decoder: nn.Module) -> Iterator[list[Samples]]:
    """Inside, each call of the decoder's attentions and samplers adds its points to the list that this yields.

    The results of the decoder do not change: hooks compute the points a second time from the same inputs.
    """
    found: list[Samples] = []

    def of_attention(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        query, position = arguments[0], keywords.get("position")
        attending = query if position is None else query + position
        found.append(attention_samples(module, attending, keywords["references"], keywords["memory"]))

    def of_sampler(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        found.append(sampler_samples(module, *arguments))

    handles = []
    for module in decoder.modules():
        if isinstance(module, SamplingAttention):
            handles.append(module.register_forward_pre_hook(of_attention, with_kwargs=True))
        elif isinstance(module, PyramidSampler):
            handles.append(module.register_forward_pre_hook(of_sampler, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def attention_samples(attention: SamplingAttention, attending: Tensor, references: Tensor, memory: Memory) -> Samples:
    """The points of deformable attention: H * L * P per query, each in one level."""
    locations, weights = attention.samples(attending, references=references, levels=memory.levels)
    ratios = memory.valid_ratios[:, None, None, :, None]
    levels = torch.arange(weights.shape[3], device=weights.device)[:, None].expand(weights.shape)
    return Samples(
        places=(locations / ratios).flatten(2, 4),
        in_level=locations.flatten(2, 4),
        levels=levels.flatten(2, 4),
        weights=weights.flatten(2, 4),
        shapes=memory.levels.shapes,
    )


def sampler_samples(sampler: PyramidSampler, content: Tensor, vectors: Tensor, memory: Memory) -> Samples:
    """The points of a mixer: G * P per query, each in the level with the largest weight for its scale."""
    points = sampler.points(content, vectors).flatten(2, 3)
    weights, levels = level_weights(points[..., 2], sampler.centres).max(-1)
    extent = memory.levels.sizes * sampler.strides.to(memory.levels.sizes)[:, None]  # pixels of each padded level
    return Samples(
        places=points[..., :2] / memory.image_sizes[:, None, None],
        in_level=points[..., :2] / extent[levels],
        levels=levels,
        weights=weights,
        shapes=memory.levels.shapes,
    )


def by_stage(samples: Sequence[Samples], *, stages: int) -> list[list[Samples]]:
    """The calls of each stage. With dual cross-attention a stage has two.

    Raises:
        InputError: if the decoder does not sample, or the calls cannot be shared evenly.
    """
    if not samples or len(samples) % stages:
        raise InputError(
            f"model.decoder: {len(samples)} samplings in {stages} stages; expected deformable attention or a mixer's "
            "sampler in every stage (dense attention, as in DAB-DETR, reads the whole image)"
        )
    count = len(samples) // stages
    return [list(samples[start : start + count]) for start in range(0, len(samples), count)]


def best_queries(outputs: StageOutputs, *, count: int) -> list[int]:
    """The queries of the first image with the highest scores at the last stage."""
    scores = outputs.logits[-1, 0].amax(-1)
    return scores.topk(min(count, len(scores))).indices.tolist()


def write_points(
    batch: ImageBatch,
    found: EveryStage,
    samples: Sequence[Sequence[Samples]],
    stem: Path,
    *,
    queries: Sequence[int],
    stages: Sequence[int],
) -> dict[str, Any]:
    """Draw the points of some queries of the first image: one row per query, one column per stage.

    All columns but the first show the surroundings of the last stage's points; the first shows where that is. Points
    outside their level are not drawn; the JSON counts them. The area of a point grows with its
    weight. The box is what the stage predicts.

    Args:
        batch: the images.
        found: the predictions.
        samples: the calls of each stage.
        stem: of the files to write.
        queries: indices of the queries.
        stages: indices of the stages.

    Returns:
        What the JSON holds.
    """
    picture = picture_of(batch, 0)
    boxes = {query: corners_in(picture, found.outputs.boxes[list(stages), 0, query]) for query in queries}
    points = {query: [[drawn_points(one, query=query) for one in samples[i]] for i in stages] for query in queries}
    panel = PAGE / (len(stages) + 1)
    height = len(queries) * (panel + 0.05) + 0.5
    with paper_figure(stem, rows=len(queries), columns=len(stages) + 1, width=PAGE, height=height) as grid:
        for row, query in zip(grid, queries, strict=True):
            view = _neighbourhood(boxes[query][-1], points[query][-1], picture.size)
            show_picture(row[0], picture)
            _frame(row[0], view)
            row[0].set_ylabel(f"query {query}")
            for axes, box, calls in zip(row[1:], boxes[query], points[query], strict=True):
                show_picture(axes, picture)
                _frame(axes, box)
                for call in calls:
                    _scatter(axes, call, picture.size)
                axes.set(xlim=(view[0], view[2]), ylim=(view[3], view[1]))
        grid[0, 0].set_title("picture")
        for axes, stage in zip(grid[0, 1:], stages, strict=True):
            axes.set_title(found.title(stage))
        _legend(grid[0, 0].figure, samples[stages[0]][0].shapes)
    record = [
        {"query": query, "stage": found.numbers[stage], "box": box, "samplings": calls}
        for query in queries
        for stage, box, calls in zip(stages, boxes[query], points[query], strict=True)
    ]
    numbers_drawn = {"image_id": batch.image_ids[0], "panels": record}
    write_numbers(stem.with_suffix(".json"), numbers_drawn)
    return numbers_drawn


def _neighbourhood(box: Rectangle, calls: Sequence[dict[str, Any]], size: tuple[int, int]) -> Rectangle:
    """A square inside the picture around a box and points; of a smaller picture, its whole side."""
    ends: list[tuple[float, float]] = []
    for axis, extent in enumerate(size):
        values = [*box[axis::2], *(place[axis] * extent for call in calls for place in call["places"])]
        ends.append((max(0.0, min(values)), min(float(extent), max(values))))
    side = 1.2 * max(high - low for low, high in ends)
    starts = [
        max(0.0, min((low + high - side) / 2, extent - side)) for (low, high), extent in zip(ends, size, strict=True)
    ]
    return starts[0], starts[1], min(starts[0] + side, size[0]), min(starts[1] + side, size[1])


def drawn_points(samples: Samples, *, query: int) -> dict[str, Any]:
    """What is drawn of a query of the first image: the points inside their levels, and how many are outside."""
    inside = samples.inside[0, query]
    return {
        "places": samples.places[0, query][inside].tolist(),
        "levels": samples.levels[0, query][inside].tolist(),
        "weights": samples.weights[0, query][inside].tolist(),
        "outside": int((~inside).sum()),
    }


def _scatter(axes: Any, points: dict[str, Any], size: tuple[int, int]) -> None:
    if not points["places"]:
        return
    x, y = zip(*points["places"], strict=True)
    total = sum(points["weights"])
    axes.scatter(
        [value * size[0] for value in x],
        [value * size[1] for value in y],
        s=[2 + 300 * weight / total for weight in points["weights"]],
        c=[COLOURS[level % len(COLOURS)] for level in points["levels"]],
        edgecolors="white",
        linewidths=0.4,
        zorder=3,
    )


def _frame(axes: Any, corners: Sequence[float]) -> None:
    x0, y0, x1, y1 = corners
    for colour, width in (("black", 2.0), ("white", 1.0)):
        axes.add_patch(Patch((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width))


def _legend(figure: Any, shapes: Sequence[tuple[int, int]]) -> None:
    dots = [
        Line2D([], [], linestyle="", marker="o", color=COLOURS[level % len(COLOURS)], label=f"level {level}: {w} × {h}")
        for level, (h, w) in enumerate(shapes)
    ]
    figure.legend(handles=dots, loc="outside lower center", ncols=len(dots), handletextpad=0.2)
