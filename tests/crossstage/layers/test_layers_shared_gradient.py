"""Readers that share a gradient give the gradients that each alone would add, whatever the backward passes are."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from crossstage.layers.ops import bilinear_samples, shared_gradient, weighted_rows
from crossstage.layers.sampling import sample_pyramid, with_shared_gradient
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.recompute import recomputed
from crossstage.structures import Levels, Memory

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STRIDES, CENTRES = (4, 8), (2.0, 3.0)
SHAPES = ((4, 5), (2, 3))
Losses = Callable[[Memory, list[Tensor]], list[Tensor]]


def leaves(dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    """Tokens [2, M, 12], and the points of four readers in 3, 3, 2 and 3 groups; all require gradients."""
    torch.manual_seed(0)
    tokens = torch.randn(2, sum(h * w for h, w in SHAPES), 12, dtype=dtype, device=DEVICE, requires_grad=True)
    extent = torch.tensor([22.0, 18.0, 5.0], dtype=dtype, device=DEVICE)
    points = [torch.rand(2, 2, groups, 3, 3, dtype=dtype, device=DEVICE) * extent for groups in (3, 3, 2, 3)]
    return tokens, [one.requires_grad_() for one in points]


def memory_of(tokens: Tensor) -> Memory:
    return unpadded_memory(tokens, Levels.of(SHAPES, tokens))


def read(memory: Memory, points: Tensor, *, when: bool = False) -> Tensor:
    """A reader's loss. when: recomputed in the backward pass."""

    def loss(points: Tensor) -> Tensor:
        return sample_pyramid(memory, points, strides=STRIDES, centres=CENTRES).square().sum()

    return recomputed(loss, points, when=when)


def in_stages(memory: Memory, points: list[Tensor]) -> list[Tensor]:
    """Each reader looks where the one before sends it."""
    moved, losses = points[0].new_zeros(()), []
    for own in points:
        losses.append(read(memory, own + moved))
        moved = losses[-1] * 1e-3
    return [losses[-1]]


LOSSES: dict[str, Losses] = {
    "readers one after another": in_stages,
    "some readers are unused": lambda memory, points: [[read(memory, own) for own in points][2]],
    "a reader is used twice": lambda memory, points: [read(memory, points[1]) * 3 + read(memory, points[1])],
    "two losses with a pass each": lambda memory, points: [
        read(memory, points[0]) + read(memory, points[1]),
        read(memory, points[1]) + read(memory, points[2]),
    ],
    "recomputed": lambda memory, points: [sum(read(memory, own, when=True) for own in points)],
    "others read the tokens too": lambda memory, points: [read(memory, points[0]) + memory.tokens.cos().sum()],
    "other tokens made of the shared ones": lambda memory, points: [
        read(memory, points[0]) + read(replace(memory, tokens=memory.tokens * 2), points[1])
    ],
}


def gradients(losses: Losses, share: Callable[[Memory], Memory]) -> list[Tensor]:
    """Of the tokens and of all points, after one backward pass per loss."""
    tokens, points = leaves()
    memory = share(memory_of(tokens * 1.5))
    for loss in losses(memory, points):
        loss.backward(retain_graph=True)
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in (tokens, *points)]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_gradients_are_those_of_readers_that_do_not_share(losses):
    assert_close(gradients(losses, with_shared_gradient), gradients(losses, lambda memory: memory))


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU has no such product")
def test_one_product_serves_all_readers_of_a_width(monkeypatch):
    parts = []
    product = weighted_rows._product
    monkeypatch.setattr(weighted_rows, "_product", lambda own: parts.append(len(own)) or product(own))
    gradients(in_stages, with_shared_gradient)
    assert parts == [4]
    gradients(LOSSES["two losses with a pass each"], with_shared_gradient)
    assert parts == [4, 2, 2]


def test_a_pass_without_the_tokens_leaves_nothing_for_the_next_one():
    tokens, points = leaves()
    memory = with_shared_gradient(memory_of(tokens))
    loss = in_stages(memory, points)[0]
    torch.autograd.grad(loss, points, retain_graph=True)
    assert not shared_gradient.sharing_node(memory.tokens).parts_of_passes, "no memory is kept"
    (shared,) = torch.autograd.grad(loss, tokens, retain_graph=True)
    assert shared.equal(torch.autograd.grad(loss, tokens)[0])
    (plain,) = torch.autograd.grad(in_stages(memory_of(tokens), points)[0], tokens)
    torch.testing.assert_close(shared, plain, rtol=1e-12, atol=1e-12)


def test_a_pass_inside_another_one_has_parts_of_its_own():
    tokens, points = leaves()
    memory = with_shared_gradient(memory_of(tokens))
    inner, outer = read(memory, points[0]), in_stages(memory, points)[0]
    found = []
    points[1].register_hook(lambda _: found.append(torch.autograd.grad(inner, tokens)[0]))
    found.append(torch.autograd.grad(outer, (tokens, points[1]))[0])
    plain = memory_of(tokens)
    expected = [torch.autograd.grad(loss, tokens)[0] for loss in (read(plain, points[0]), in_stages(plain, points)[0])]
    assert_close(found, expected)


def test_the_gradient_is_that_of_small_steps():
    tokens, points = leaves()

    def function(tokens: Tensor, first: Tensor, second: Tensor) -> Tensor:
        memory = with_shared_gradient(memory_of(tokens))
        reads = [sample_pyramid(memory, own, strides=STRIDES, centres=CENTRES) for own in (first, second)]
        return torch.stack(reads).square().sum(0)

    assert torch.autograd.gradcheck(function, (tokens, points[0], points[1]), fast_mode=True)


def test_second_derivatives_are_refused_as_without_sharing():
    tokens, points = leaves()
    loss = read(with_shared_gradient(memory_of(tokens)), points[0])
    (first,) = torch.autograd.grad(loss, tokens, create_graph=True)
    (plain,) = torch.autograd.grad(read(memory_of(tokens), points[0]), tokens)
    torch.testing.assert_close(first, plain, rtol=1e-12, atol=1e-12)
    # A GPU has embedding_bag's own derivative, with torch's words.
    with pytest.raises(NotImplementedError, match=r"no second derivative|is not implemented"):
        first.sum().backward()


def test_half_precision_tokens_get_their_gradient_summed_in_float32():
    """Of one large part and then of many small ones, each of which bfloat16 loses when it is added."""
    tokens, points = leaves(torch.float32)

    def gradient(tokens: Tensor, share: Callable[[Memory], Memory]) -> Tensor:
        memory = share(memory_of(tokens))
        losses = [*(read(memory, points[0]) / 3000 for _ in range(90)), read(memory, points[0])]
        return torch.autograd.grad(sum(losses), tokens)[0]

    half = tokens.detach().bfloat16().requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16):
        found = gradient(half, with_shared_gradient)
    expected = gradient(half.detach().float().requires_grad_(), lambda memory: memory)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.01 * float(expected.abs().max()))


def test_where_nothing_is_learned_nothing_is_shared():
    tokens, _ = leaves()
    assert shared_gradient.share_gradient(tokens.detach()).grad_fn is None
    with torch.no_grad():
        assert shared_gradient.share_gradient(tokens) is tokens


def test_a_compiled_reader_gives_its_gradient_as_usual():
    tokens, points = leaves()
    shared, plain = with_shared_gradient(memory_of(tokens)), memory_of(tokens)
    compiled = torch.compile(read, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(shared, points[0]) + read(shared, points[1]), tokens)
    (expected,) = torch.autograd.grad(read(plain, points[0]) + read(plain, points[1]), tokens)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["recomputed", "two losses with a pass each", "others read the tokens too"])
def test_the_kernels_share_too(monkeypatch, name):
    pytest.importorskip("triton", reason="the kernels need Triton (pip install triton)")
    expected = gradients(LOSSES[name], lambda memory: memory)
    monkeypatch.setattr(bilinear_samples, "_on_kernel", lambda values: True)
    assert_close(gradients(LOSSES[name], with_shared_gradient), expected)
