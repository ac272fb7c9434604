"""Contents from shared patterns: the equations, what shares gradients, and that padding plays no role."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from crossstage.projects.paq_detr.modeling.content import DenseWeights, FactorizedWeights, PatternContent
from crossstage.projects.paq_detr.modeling.descriptors import MeanDescriptor, PyramidDescriptor
from crossstage.projects.paq_detr.modeling.patterns import (
    mixed_patterns,
    pattern_entropy,
    pattern_overlap,
    query_cosine,
)
from torch import Tensor, nn
from torch.nn import functional as F

from crossstage.config import LazyCall as L
from crossstage.config import instantiate
from crossstage.errors import InputError
from crossstage.modeling.encoders.tokens import flat, unpadded_memory
from crossstage.modeling.queries.content import LearnedContent
from crossstage.structures import Levels, Memory

CHANNELS, WIDTH, QUERIES, PATTERNS = 8, 6, 5, 4
SHAPES = ((7, 9), (4, 5), (2, 3))  # odd sizes: the next level has half as many cells, rounded up
TOKENS = [height * width for height, width in SHAPES]
DESCRIPTORS = {
    "pyramid": lambda: PyramidDescriptor(CHANNELS, num_levels=3, width=WIDTH, dilations=(1, 2)),
    "mean": lambda: MeanDescriptor(CHANNELS, width=WIDTH),
}
WEIGHTS = {"factorized": FactorizedWeights, "dense": DenseWeights}


def pattern_content(descriptor: str = "pyramid", weights: str = "factorized", **options) -> PatternContent:
    """A content source in float64, its parameters random, and small enough that no weight is almost 0."""
    torch.manual_seed(0)
    head = WEIGHTS[weights](WIDTH, num_queries=QUERIES, extra_queries=2, num_patterns=PATTERNS)
    made = {"num_patterns": PATTERNS, "descriptor": DESCRIPTORS[descriptor](), "weights": head, **options}
    content = PatternContent(CHANNELS, **made).double()
    for parameter in content.parameters():
        nn.init.normal_(parameter, std=0.4)
    return content


def weights_of(content: PatternContent, memory: Memory) -> Tensor:
    """W, [B, N, m]: the contents where the patterns are the unit vectors."""
    with torch.no_grad():
        content.patterns.copy_(torch.eye(PATTERNS, CHANNELS))
        return content(memory, QUERIES).values[..., :PATTERNS]


def memory_of(maps: list[Tensor], masks: list[Tensor]) -> Memory:
    """maps: L [B, C, h, w]; masks: L bool [B, h, w]."""
    levels = Levels.of([tuple(level.shape[2:]) for level in maps], like=maps[0])
    return replace(unpadded_memory(flat(maps), levels), mask=torch.cat([mask.flatten(1) for mask in masks], dim=1))


def random_memory(batch: int = 2) -> Memory:
    maps = [torch.randn(batch, CHANNELS, *shape, dtype=torch.float64) for shape in SHAPES]
    return memory_of(maps, [torch.zeros(batch, *shape, dtype=torch.bool) for shape in SHAPES])


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("descriptor", DESCRIPTORS)
def test_contents_are_convex_combinations_of_patterns_that_depend_on_the_image(descriptor, weights):
    """A softmax over the queries, or none, would pass a test of shapes."""
    found = weights_of(pattern_content(descriptor, weights), random_memory())
    assert found.shape == (2, QUERIES, PATTERNS)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=2), torch.ones_like(found[..., 0]))
    assert not found[0].allclose(found[1])
    assert not found[:, 0].allclose(found[:, 1])


def test_the_equation_of_contents():
    weights = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    patterns = torch.tensor([[4.0, 0.0, 8.0], [0.0, 4.0, 8.0]])
    assert mixed_patterns(weights, patterns).tolist() == [[[1.0, 3.0, 8.0], [4.0, 0.0, 8.0]]]


def test_one_matched_query_teaches_all_patterns_and_so_all_queries():
    """With a vector per query, the same step leaves the others as they were."""
    memory, matched = random_memory(), 3
    others = torch.arange(QUERIES) != matched
    contents = {"patterns": pattern_content(), "learned": LearnedContent(QUERIES, CHANNELS).double()}
    moved = {}
    for name, content in contents.items():
        before = content(memory, QUERIES).values.clone()
        before[:, matched].square().sum().backward()
        taught = content.patterns if name == "patterns" else content.weight
        taught.data -= 0.1 * taught.grad
        moved[name] = (content(memory, QUERIES).values - before).abs().amax(dim=(0, 2)) > 1e-6
    assert (contents["patterns"].patterns.grad.abs().amax(dim=1) > 1e-6).all()
    assert moved["patterns"].all()
    assert moved["learned"][matched] and not moved["learned"][others].any()


@pytest.mark.parametrize("descriptor", DESCRIPTORS)
def test_masked_padding_changes_no_weight(descriptor):
    """All levels grow by two rows and a column of whole cells of the coarsest; their features there are arbitrary."""
    content = pattern_content(descriptor)
    maps = [torch.randn(2, CHANNELS, *shape, dtype=torch.float64) for shape in SHAPES]
    grown = [F.pad(level, (0, 4 >> i, 0, 8 >> i), value=30.0 + i) for i, level in enumerate(maps)]
    masks = [torch.zeros(level.shape[0], *level.shape[2:], dtype=torch.bool) for level in maps]
    padded = [F.pad(mask, (0, 4 >> i, 0, 8 >> i), value=True) for i, mask in enumerate(masks)]
    found, expected = weights_of(content, memory_of(grown, padded)), weights_of(content, memory_of(maps, masks))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_an_image_is_described_as_alone():
    """What batch statistics would break."""
    content, memory = pattern_content(), random_memory()
    maps = [level.mT.unflatten(2, shape) for level, shape in zip(memory.tokens.split(TOKENS, 1), SHAPES, strict=True)]
    alone = memory_of([level[:1] for level in maps], [torch.zeros(1, *shape, dtype=torch.bool) for shape in SHAPES])
    torch.testing.assert_close(weights_of(content, memory)[:1], weights_of(content, alone))


def test_every_level_and_both_gates_take_part():
    """A fusion that forgets a level, or a gate that is not applied, would leave parameters without gradient."""
    descriptor = DESCRIPTORS["pyramid"]().double()
    for parameter in descriptor.parameters():
        nn.init.normal_(parameter)
    (descriptor(random_memory()) * torch.randn(2, WIDTH)).sum().backward()
    still = [name for name, p in descriptor.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-9]
    assert still == []


def test_another_number_of_levels_is_an_error_that_says_what_to_set():
    memory = unpadded_memory(torch.randn(1, 6, CHANNELS), Levels.of([(2, 3)], like=torch.zeros(1)))
    with pytest.raises(ValueError, match=r"num_levels=3, but the encoder gives 1 levels; set .*num_levels=1"):
        DESCRIPTORS["pyramid"]()(memory)
    assert PyramidDescriptor(CHANNELS, num_levels=1, width=WIDTH)(memory).shape == (1, WIDTH)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (torch.eye(4, 6), 0.0),
        (torch.ones(4, 6), 1.0),
        (torch.tensor([[1.0, 2.0], [-3.0, -6.0]]), 1.0),  # opposite patterns are on one line
        (torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), 1 / 3),
        (torch.ones(1, 6), 0.0),
        (torch.zeros(2, 6), 0.0),
    ],
)
def test_the_overlap_of_patterns(patterns: Tensor, expected: float):
    assert pattern_overlap(patterns).item() == pytest.approx(expected)


def test_overlap_and_query_cosine_are_means_over_pairs():
    values = torch.randn(7, 5, dtype=torch.float64)
    cosines = [F.cosine_similarity(values[i], values[j], dim=0) for i, j in combinations(range(7), 2)]
    torch.testing.assert_close(pattern_overlap(values), torch.stack(cosines).abs().mean())
    torch.testing.assert_close(query_cosine(torch.stack([values, values.neg()])), torch.stack(cosines).mean())


def test_entropy_is_the_share_of_the_largest():
    assert pattern_entropy(torch.full((2, 3, 4), 0.25)).item() == pytest.approx(1)
    assert pattern_entropy(torch.eye(4)[None]).item() == 0
    assert pattern_entropy(torch.ones(1, 2, 1)).item() == 0
    assert pattern_entropy(torch.tensor([[[0.5, 0.5, 0.0, 0.0]]])).item() == pytest.approx(0.5)


def test_losses_and_metrics_come_in_training_alone():
    content = pattern_content(diversity=0.5, diversity_scale=6.0)
    losses = content(random_memory(), QUERIES).losses
    torch.testing.assert_close(losses.terms["loss_diversity"], 3 * pattern_overlap(content.patterns))
    assert list(losses.metrics) == ["pattern_overlap", "pattern_entropy", "query_cosine"]
    torch.testing.assert_close(losses.metrics["pattern_overlap"], pattern_overlap(content.patterns).detach())
    losses.total.backward()
    assert content.patterns.grad.abs().sum() > 0
    assert content.eval()(random_memory(), QUERIES).losses is None


def test_extra_queries_mix_the_same_patterns_and_change_nothing_for_the_others():
    content, memory = pattern_content(), random_memory()
    torch.testing.assert_close(content(memory, QUERIES + 2).values[:, :QUERIES], content(memory, QUERIES).values)


def test_reserved_channels_stay_zero():
    content = pattern_content(reserved_channels=1)
    values = content(random_memory(), QUERIES).values
    assert content.patterns.shape == (PATTERNS, CHANNELS - 1)
    assert values.shape[2] == CHANNELS
    assert values[..., -1].count_nonzero() == 0
    assert values[..., :-1].count_nonzero() == values[..., :-1].numel()


@pytest.mark.parametrize("detached", [False, True])
def test_the_encoder_gets_gradient_unless_detached(detached):
    memory = random_memory()
    memory.tokens.requires_grad_()
    pattern_content(detach_memory=detached)(memory, QUERIES).values.sum().backward()
    assert (memory.tokens.grad is None) == detached


def plain_logits(content: PatternContent) -> Tensor:
    """<e_i * g(z), k_j> / sqrt(rank) for a description of ones."""
    queries, image = content.weights.queries[:QUERIES], content.weights.image(torch.ones(WIDTH).double())
    return torch.einsum("ir,r,jr->ij", queries, image, content.weights.keys)[None] / 8


def test_a_lower_temperature_makes_queries_differ_more():
    memory, entropies = random_memory(), []
    for temperature in (1.0, 0.25):
        content = pattern_content()
        head = FactorizedWeights(WIDTH, num_queries=QUERIES, num_patterns=PATTERNS, temperature=temperature).double()
        head.load_state_dict({**content.weights.state_dict(), "queries": content.weights.queries[:QUERIES]})
        torch.testing.assert_close(temperature * head(torch.ones(1, WIDTH).double()), plain_logits(content))
        content.weights = head
        entropies.append(pattern_entropy(weights_of(content, memory)).item())
    assert entropies[1] < entropies[0]


@pytest.mark.parametrize(("queries", "million"), [(1800, "69.4"), (1300, "50.1")])
def test_dense_weights_of_more_than_50_million_are_refused(queries, million):
    node = L(DenseWeights)(width=128, num_queries=queries - 1000, extra_queries=1000, num_patterns=150)
    with torch.device("meta"), pytest.raises(InputError, match=rf"{million} million .* limit is 50: take FactorizedW"):
        instantiate(node)


def test_the_sizes_that_the_readme_prints():
    with torch.device("meta"):
        heads = [head(128, num_queries=900, num_patterns=150) for head in (FactorizedWeights, DenseWeights)]
    assert [sum(p.numel() for p in head.parameters()) for head in heads] == [75_456, 34_728_536]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_patterns": 0}, "num_patterns=0: expected at least one pattern"),
        ({"reserved_channels": CHANNELS}, "reserved_channels=8: expected fewer than embed_dim=8"),
    ],
)
def test_impossible_sizes_are_errors(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        pattern_content(**options)
    with pytest.raises(ValueError, match="temperature=0: expected a positive number"):
        FactorizedWeights(WIDTH, num_queries=1, num_patterns=1, temperature=0)
