"""The points that are drawn are those that a decoder reads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crossstage.errors import InputError
from crossstage.inspection import figures
from crossstage.inspection.points import (
    Samples,
    attention_samples,
    best_queries,
    by_stage,
    recorded_samples,
    sampler_samples,
    write_points,
)
from crossstage.inspection.stages import every_stage, looking
from crossstage.layers import deformable
from crossstage.layers.deformable import MultiScaleDeformableAttention
from crossstage.modeling.decoders import point_sampler
from crossstage.modeling.decoders.point_sampler import PointSampler
from crossstage.structures import Levels, Memory
from tests.random_scenes import image_batch
from tests.tiny_models import random_detector

SIZES = ((64, 96), (40, 64))  # the second image is padded


@pytest.mark.parametrize(
    ("name", "per_stage"),
    [("dino_toy", 1), ("dino_toy_csla_dca", 2), ("adamixer_toy", 1), ("stage_interactor_toy", 1), ("deqdet_toy", 1)],
)
def test_recording_changes_nothing_and_every_stage_is_there(name: str, per_stage: int):
    model, batch = random_detector(name), image_batch(1, 1, sizes=SIZES)
    with looking(model):
        expected = every_stage(model, batch).outputs
        with recorded_samples(model.decoder) as samples:
            found = every_stage(model, batch).outputs
        every_stage(model, batch)  # outside, nothing is recorded any more
    assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.logits, expected.logits)
    calls = by_stage(samples, stages=found.num_stages)
    assert [len(stage) for stage in calls] == [per_stage] * found.num_stages
    for one in samples:
        cells = one.in_level * torch.tensor(one.shapes)[one.levels].flip(-1)
        inside = one.inside
        assert inside.any()
        sizes = torch.tensor(one.shapes)[one.levels].flip(-1)
        assert bool(((cells >= 0) & (cells <= sizes)).all(-1)[inside].all())


def memory(*, embed_dim: int = 16) -> Memory:
    """Random tokens of three levels of an image of 64 x 96 and a padded one of 40 x 64."""
    shapes = ((8, 12), (4, 6), (2, 3))
    levels = Levels.of(shapes, torch.zeros(1, dtype=torch.float64))
    count = sum(levels.tokens)
    tokens = torch.randn(2, count, embed_dim, dtype=torch.float64)
    ratios = torch.tensor([[1.0, 1.0], [64 / 96, 40 / 64]], dtype=torch.float64)[:, None].expand(-1, 3, -1)
    return Memory(
        tokens=tokens,
        mask=torch.zeros(2, count, dtype=torch.bool),
        levels=levels,
        valid_ratios=ratios,
        positions=torch.zeros_like(tokens),
        image_sizes=torch.tensor([[96.0, 64.0], [64.0, 40.0]], dtype=torch.float64),
    )


def read_cells(samples: Samples, memory: Memory, *, own_level: bool) -> torch.Tensor:
    """bool [B, M]: the cells around the points, in the point's level or in all levels, found from `places`.

    A point less than half a cell outside its level still reads a part of the cell at the border.
    """
    found = torch.zeros_like(memory.mask)
    for level, (height, width) in enumerate(memory.levels.shapes):
        size = torch.tensor([width, height])
        padded = samples.places * memory.valid_ratios[:, None, None, level]
        low = (padded * size - 0.5).floor().long()
        counts = (samples.levels == level) | torch.tensor(not own_level)
        for step in torch.cartesian_prod(torch.arange(2), torch.arange(2)):
            cell = low + step
            exists = ((cell >= 0) & (cell < size)).all(-1) & counts
            image, query, point = exists.nonzero(as_tuple=True)
            x, y = cell[image, query, point].unbind(-1)
            found[image, memory.levels.starts[level] + y * width + x] = True
    return found


def test_deformable_attention_reads_the_cells_around_its_points_in_their_levels_and_no_others():
    attention = MultiScaleDeformableAttention(16, num_heads=2, num_levels=3, num_points=2).double()
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.5)
    known, query = memory(), torch.randn(2, 3, 16, dtype=torch.float64)
    references = torch.rand(2, 3, 3, 2, dtype=torch.float64)
    samples = attention_samples(attention, query, references, known)
    assert samples.inside.any() and not samples.inside.all()
    torch.testing.assert_close(samples.weights.sum(-1), torch.full((2, 3), 2.0, dtype=torch.float64))  # 1 per head
    reads = read_cells(samples, known, own_level=True)
    assert reads.any() and not reads.all()

    def attended(tokens):
        return attention(query, memory=replace(known, tokens=tokens), references=references)

    noise = torch.randn_like(known.tokens)
    expected = attended(known.tokens)
    torch.testing.assert_close(attended(torch.where(reads[..., None], known.tokens, noise)), expected)
    changed = (attended(torch.where(reads[..., None], noise, known.tokens)) - expected).abs().amax(-1) > 1e-6
    assert samples.inside.any(-1).any() and changed[samples.inside.any(-1)].all()


def test_a_mixer_reads_the_cells_around_its_points():
    sampler = PointSampler(16, num_groups=2, num_points=3, strides=(8, 16, 32)).double()
    torch.nn.init.normal_(sampler.offsets.weight, std=0.3)
    known, content = memory(), torch.randn(2, 3, 16, dtype=torch.float64)
    vectors = torch.tensor([30.0, 20.0, 4.5, 0.3], dtype=torch.float64).expand(2, 3, 4)
    samples = sampler_samples(sampler, content, vectors, known)
    reads = read_cells(samples, known, own_level=False)
    expected = sampler(content, vectors, known)
    changed = torch.where(reads[..., None], known.tokens, torch.randn_like(known.tokens))
    torch.testing.assert_close(sampler(content, vectors, replace(known, tokens=changed)), expected)
    assert reads.any() and not reads.all()
    distances = (sampler.points(content, vectors)[..., 2].flatten(2)[..., None] - sampler.centres).abs()
    assert torch.equal(samples.levels, distances.argmin(-1))


def test_dense_attention_has_no_points_to_draw():
    model, batch = random_detector("dab_detr_toy"), image_batch(1)
    with looking(model), recorded_samples(model.decoder) as samples:
        found = every_stage(model, batch)
    with pytest.raises(InputError, match=r"^model\.decoder: 0 samplings in 3 stages; expected deformable"):
        by_stage(samples, stages=found.outputs.num_stages)


def test_the_figure_shows_the_points_inside_and_counts_the_others(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(figures, "RESOLUTION", 40)
    model, batch = random_detector("dino_toy"), image_batch(1, 1, sizes=SIZES)
    with looking(model), recorded_samples(model.decoder) as samples:
        found = every_stage(model, batch)
    queries = best_queries(found.outputs, count=2)
    scores = found.outputs.logits[-1, 0].amax(-1)
    assert scores[queries[0]] == scores.max() and len(queries) == 2
    calls = by_stage(samples, stages=3)
    write_points(batch, found, calls, tmp_path / "points", queries=queries, stages=[0, 2])
    panels = json.loads((tmp_path / "points.json").read_text())["panels"]
    assert [(panel["query"], panel["stage"]) for panel in panels] == [(q, s) for q in queries for s in (1, 3)]
    for panel in panels:
        (drawn,), one = panel["samplings"], calls[panel["stage"] - 1][0]
        inside = one.inside[0, panel["query"]]
        assert len(drawn["places"]) == int(inside.sum()) and drawn["outside"] == int((~inside).sum())
    assert (tmp_path / "points.png").stat().st_size and (tmp_path / "points.pdf").stat().st_size


@pytest.mark.parametrize("name", ["dino_toy_csla_dca", "deformable_detr_toy"])
def test_the_recorded_points_of_attention_are_those_that_it_reads(name: str, monkeypatch):
    read = []
    original = deformable.deformable_sampling

    def watched(values, levels, *, locations, weights):
        read.append((locations.flatten(2, 4), weights.flatten(2)))
        return original(values, levels, locations=locations, weights=weights)

    monkeypatch.setattr(deformable, "deformable_sampling", watched)
    model, batch = random_detector(name), image_batch(1, 1, sizes=SIZES)
    with looking(model), recorded_samples(model.decoder) as samples:
        every_stage(model, batch)
    for one, (locations, weights) in zip(samples, read[-len(samples) :], strict=True):  # the encoder reads before
        assert torch.equal(one.in_level, locations) and torch.equal(one.weights, weights)


def test_the_recorded_points_of_a_mixer_are_those_that_it_reads(monkeypatch):
    read = []
    original = point_sampler.sample_pyramid

    def watched(memory, points, **options):
        read.append(points[..., :2].flatten(2, 3) / memory.image_sizes[:, None, None])
        return original(memory, points, **options)

    monkeypatch.setattr(point_sampler, "sample_pyramid", watched)
    model, batch = random_detector("deqdet_toy"), image_batch(1, 1, sizes=SIZES)
    with looking(model), recorded_samples(model.decoder) as samples:
        every_stage(model, batch, steps=2)
    assert len(samples) == len(read) == 3
    assert all(torch.equal(one.places, places) for one, places in zip(samples, read, strict=True))
