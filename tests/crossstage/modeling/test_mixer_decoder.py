"""The decoder of AdaMixer and StageInteractor: which query sees what, what stages hand on, precision, odd boxes."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from crossstage.config import LazyConfig, instantiate
from crossstage.layers.position_vector import (
    overlap_with_row,
    position_vector_embedding,
    to_normalised_boxes,
    to_position_vectors,
    vectors_to_corners,
)
from crossstage.modeling.decoders.mixer import BoxState, MixerDecoder, NormedHead, OverlapAttention, refine
from crossstage.modeling.encoders.none import NoEncoder
from crossstage.modeling.neck import pyramid
from crossstage.structures import Memory, PaddedTargets, Queries, QueryGroup
from tests.random_scenes import boxes_inside, objects_of
from tests.tiny_models import randomised, tiny

PROJECTS = Path(__file__).resolve().parents[3] / "projects"
FILES = {
    "adamixer": PROJECTS / "adamixer/configs/models/adamixer_toy.py",
    "stage_interactor": PROJECTS / "stage_interactor/configs/models/stage_interactor_toy.py",
}
SIZES = ((64, 96), (48, 32))  # height, width


def node_of(name: str) -> DictConfig:
    return tiny(LazyConfig.load(str(FILES[name])).model)


@cache
def random_model(name: str) -> nn.Module:
    """Random parameters in float64: nothing is switched off by a zero. Tests leave it as it is."""
    return randomised(node_of(name))


def memory_of(maps: list[torch.Tensor], sizes: tuple[tuple[int, int], ...]) -> Memory:
    mask = torch.ones(len(sizes), 64, 96, dtype=torch.bool)
    for image, (height, width) in enumerate(sizes):
        mask[image, :height, :width] = False
    return NoEncoder()(pyramid(maps, mask))


def scene(queries: int = 7, channels: int = 16) -> tuple[Queries, list[torch.Tensor]]:
    """Queries of two images, and maps of a canvas of 64 x 96 pixels."""
    maps = [torch.randn(2, channels, 64 // stride, 96 // stride, dtype=torch.float64) for stride in (4, 8, 16, 32)]
    content = torch.randn(2, queries, channels, dtype=torch.float64)
    group = QueryGroup("matching", queries)
    return Queries(content, boxes_inside(2, queries, dtype=torch.float64), (group,)), maps


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def decoder(name: str) -> MixerDecoder:
    return random_model(name).decoder


def test_the_order_of_queries_does_not_matter(decoder):
    queries, maps = scene()
    order = torch.randperm(7)
    permuted = replace(queries, content=queries.content[:, order], references=queries.references[:, order])
    first, second = decoder(queries, memory_of(maps, SIZES)), decoder(permuted, memory_of(maps, SIZES))
    for part in ("logits", "boxes", "states"):
        expected = getattr(first, part)[:, :, order]
        torch.testing.assert_close(getattr(second, part), expected, rtol=0, atol=1e-10)


def test_an_image_is_decoded_as_if_it_were_alone(decoder):
    queries, maps = scene()
    together = decoder(queries, memory_of(maps, SIZES))
    for image in range(2):
        one = slice(image, image + 1)
        own = replace(queries, content=queries.content[one], references=queries.references[one])
        alone = decoder(own, memory_of([level[one] for level in maps], SIZES[one]))
        torch.testing.assert_close(alone.boxes, together.boxes[:, one], rtol=0, atol=1e-10)
        torch.testing.assert_close(alone.logits, together.logits[:, one], rtol=0, atol=1e-10)


def test_a_mask_hides_queries_from_each_other(decoder):
    queries, maps = scene()
    hidden = torch.zeros(7, 7, dtype=torch.bool)
    hidden[:3, 3:] = hidden[3:, :3] = True
    masked = replace(queries, attention_mask=hidden)
    first = decoder(masked, memory_of(maps, SIZES))
    other = torch.cat([queries.content[:, :3], queries.content[:, 3:].neg()], dim=1)
    second = decoder(replace(masked, content=other), memory_of(maps, SIZES))
    torch.testing.assert_close(second.logits[:, :, :3], first.logits[:, :, :3], rtol=0, atol=1e-10)
    assert (second.logits[:, :, 3:] - first.logits[:, :, 3:]).abs().min() > 0


def teaches(predicted: torch.Tensor, weight: torch.Tensor) -> bool:
    (gradient,) = torch.autograd.grad(predicted.square().sum(), weight, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.any())


def test_contents_carry_gradients_from_stage_to_stage_and_boxes_do_not(decoder):
    queries, maps = scene()
    outputs = decoder(queries, memory_of(maps, SIZES))
    assert outputs.num_stages == 3
    box_weights, class_weights = (
        [head[0].weight for head in heads] for heads in (decoder.box_heads, decoder.class_heads)
    )
    assert [teaches(outputs.boxes[2], weight) for weight in box_weights] == [False, False, True]
    assert [teaches(outputs.logits[2], weight) for weight in class_weights] == [False, False, True]
    assert [teaches(outputs.logits[2], weight) for weight in box_weights] == [False] * 3
    first = decoder.layers[0].ffn.layers[1].weight
    assert [teaches(outputs.boxes[2], first), teaches(outputs.logits[2], first)] == [True, True]


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_the_number_of_stages_is_one_number(name: str, stages: int):
    node = node_of(name)
    node.decoder.num_layers = stages
    model = instantiate(node).double()
    queries, maps = scene()
    targets = PaddedTargets.of(objects_of(3, 0, dtype=torch.float64))
    outputs = model.decoder(queries, memory_of(maps, SIZES))
    assert outputs.boxes.shape == (stages, 2, 7, 4)
    matches = model.criterion.groups["matching"].matcher(outputs, targets)
    assert (matches >= 0).sum(-1).tolist() == [[3, 0]] * stages


def test_one_query_is_enough(decoder):
    queries, maps = scene(1)
    outputs = decoder(queries, memory_of(maps, SIZES))
    assert outputs.logits.isfinite().all()
    assert outputs.boxes.shape == (3, 2, 1, 4)


def test_boxes_without_area_give_numbers_and_gradients(name: str):
    """At the first stage, and where a stage lets its boxes vanish."""
    decoder = copy.deepcopy(random_model(name).decoder)
    queries, maps = scene()
    queries.references[:, :3, 2:] = 0
    queries.references[:, 3, 2] = 0
    with torch.no_grad():
        decoder.box_heads[0][3].bias[2] = -2000.0
    outputs = decoder(queries, memory_of(maps, SIZES))
    assert outputs.boxes[0, ..., 2:].max() == 0
    assert all(part.isfinite().all() for part in (outputs.logits, outputs.boxes, outputs.states))
    (outputs.logits.sum() + outputs.boxes.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters() if parameter.grad is not None)


def test_under_autocast_boxes_keep_the_pixels_that_bfloat16_does_not_know(name: str):
    model = instantiate(node_of(name))  # whose offsets are zero
    queries, maps = scene()
    queries = Queries(queries.content.float(), queries.references.float(), queries.groups)
    memory = memory_of([level.float() for level in maps], SIZES)
    memory = replace(memory, image_sizes=torch.tensor([[1333.0, 799.0], [801.0, 1201.0]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model.decoder(queries, memory)
    assert outputs.boxes.dtype == outputs.logits.dtype == torch.float32
    expected = queries.references.expand(3, -1, -1, -1)
    torch.testing.assert_close(outputs.boxes, expected, rtol=0, atol=1e-6)


def test_attention_prefers_queries_that_cover_the_attending_one():
    """By the paper's equation, written out; the place is in queries, keys, values and the residual."""
    attention = OverlapAttention(16, num_heads=2).double()
    content = torch.randn(2, 5, 16, dtype=torch.float64)
    vectors = to_position_vectors(boxes_inside(2, 5, dtype=torch.float64), torch.full((2, 2), 100.0))
    placed = content + position_vector_embedding(vectors, 16)
    query, key, value = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in attention.qkv(placed).chunk(3, dim=-1))
    overlap = overlap_with_row(vectors_to_corners(vectors))
    favour = (overlap + 1e-7).log()[:, None] * attention.overlap_scale.view(2, 1, 1)
    shares = (query @ key.transpose(-1, -2) / 8**0.5 + favour).softmax(-1)
    expected = placed + attention.out_proj((shares @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(content, vectors), expected, rtol=0, atol=1e-10)


def test_boxes_teach_attention_nothing_but_how_much_they_count():
    attention = OverlapAttention(16, num_heads=2)
    vectors = to_position_vectors(boxes_inside(1, 5), torch.full((1, 2), 100.0)).requires_grad_()
    attention(torch.randn(1, 5, 16), vectors).square().sum().backward()
    assert vectors.grad is None
    assert attention.overlap_scale.grad.abs().max() > 0


def test_heads_start_where_they_should():
    offsets, scores = NormedHead(16), NormedHead(16, 8, prior=0.01)
    features = torch.randn(2, 3, 16)
    assert offsets(features).count_nonzero() == 0
    assert scores[3].bias.sigmoid().tolist() == pytest.approx([0.01] * 8)
    assert scores(features).std() > 0


def refined(decoder: MixerDecoder, state: BoxState, memory: Memory, stage: int = 0) -> tuple[BoxState, torch.Tensor]:
    heads = decoder.class_heads[stage], decoder.box_heads[stage]
    state, logits, _ = refine(state, decoder.layers[stage], *heads, decoder.moves, memory=memory)
    return state, logits


def start_of(queries: Queries, memory: Memory) -> BoxState:
    return BoxState(queries.content, to_position_vectors(queries.references, memory.image_sizes))


def test_another_loop_may_run_the_same_step(decoder):
    """What the first stage of the decoder does, which has no filters of earlier stages."""
    queries, maps = scene()
    memory = memory_of(maps, SIZES)
    state, logits = refined(decoder, start_of(queries, memory), memory)
    outputs = decoder(queries, memory)
    assert logits.equal(outputs.logits[0])
    assert state.content.equal(outputs.states[0])
    assert to_normalised_boxes(state.vectors, memory.image_sizes).equal(outputs.boxes[0])
    assert state.corners is None


def test_a_step_detaches_boxes_on_entry_and_nothing_else(decoder):
    queries, maps = scene()
    memory = memory_of(maps, SIZES)
    content = queries.content.clone().requires_grad_()
    vectors = start_of(queries, memory).vectors.requires_grad_()
    corners = vectors_to_corners(vectors.detach()).requires_grad_()
    state, logits = refined(decoder, BoxState(content, vectors, corners), memory)
    (logits.sum() + state.content.sum() + state.vectors.sum()).backward()
    assert content.grad.abs().max() > 0
    assert vectors.grad is None
    assert corners.grad is None


def test_corners_of_their_own_change_who_reads_whom(decoder):
    queries, maps = scene()
    memory = memory_of(maps, SIZES)
    start = start_of(queries, memory)
    _, logits = refined(decoder, start, memory)
    same = replace(start, corners=vectors_to_corners(start.vectors))
    torch.testing.assert_close(refined(decoder, same, memory)[1], logits, rtol=0, atol=1e-10)
    apart = replace(start, corners=vectors_to_corners(start.vectors) + 1000 * torch.arange(7)[:, None])
    assert (refined(decoder, apart, memory)[1] - logits).abs().max() > 0.01


def test_corners_of_their_own_do_not_move_a_lone_query(decoder):
    """Which has nobody else to read: places and sampling are those of the vectors."""
    queries, maps = scene(1)
    memory = memory_of(maps, SIZES)
    start = start_of(queries, memory)
    swapped = replace(start, corners=torch.tensor([9.0, 0.0, 0.0, 9.0]).double().expand(2, 1, 4))
    expected, _ = refined(decoder, start, memory)
    torch.testing.assert_close(refined(decoder, swapped, memory)[0].vectors, expected.vectors, rtol=0, atol=1e-10)


def test_the_least_side_is_added_to_the_first_boxes(name: str):
    node = node_of(name)
    node.decoder.least_side = 8.0
    model = instantiate(node).double()  # whose offsets are zero
    queries, maps = scene()
    boxes = model.decoder(queries, memory_of(maps, SIZES)).boxes[0]
    extent = torch.tensor(SIZES, dtype=torch.float64).flip(-1)[:, None]
    torch.testing.assert_close(boxes[..., 2:], queries.references[..., 2:] + 8 / extent, rtol=0, atol=1e-10)


def test_points_and_learned_boxes_are_refused(decoder):
    queries, maps = scene()
    memory = memory_of(maps, SIZES)
    with pytest.raises(ValueError, match=r"references have shape \(2, 7, 2\), but this decoder refines boxes"):
        decoder(replace(queries, references=queries.references[..., :2]), memory)
    with pytest.raises(ValueError, match="references require gradients"):
        decoder(replace(queries, references=queries.references.clone().requires_grad_()), memory)
