"""Counts of queries: what is known of the Gini coefficient, the control, and what counts as a change."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossstage.evaluation.query_use import (
    activations,
    gini,
    instability,
    lorenz,
    mean_cosine,
    shuffled,
    top_share,
)

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([3, 3, 3, 3], 0.0),
        ([0, 0, 7, 0], 3 / 4),  # one query does everything: (n - 1) / n
        ([1, 2, 3, 4], 0.25),
        ([0, 0, 1, 1], 0.5),  # zeros count
        ([5], 0.0),
        ([0, 0], math.nan),
    ],
)
def test_gini_of_known_counts(counts: list[int], expected: float):
    assert gini(torch.tensor(counts)) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(COUNTS, st.randoms(use_true_random=False))
def test_gini_reads_neither_order_nor_scale_and_is_twice_the_area_under_the_diagonal(counts, random):
    expected = gini(torch.tensor(counts))
    mixed = random.sample(counts, len(counts))
    assert gini(3 * torch.tensor(mixed)) == pytest.approx(expected, abs=1e-12)
    assert expected + 1e-12 >= 0 and expected <= 1 - 1 / len(counts) + 1e-12
    area = torch.trapezoid(lorenz(torch.tensor(counts)), dx=1 / len(counts))
    assert 1 - 2 * float(area) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [([8, 1, 1, 0, 0], 0.2, 0.8), ([1] * 10, 0.2, 0.2), ([0, 4, 2], 0.2, 4 / 6), ([0, 0], 0.2, math.nan)],
)
def test_share_of_the_most_used_queries(counts: list[int], share: float, expected: float):
    assert top_share(torch.tensor(counts), share=share) == pytest.approx(expected, nan_ok=True)


def test_a_query_is_active_in_an_image_if_its_best_class_exceeds_the_threshold():
    logits = torch.tensor([[[0.0, 2.0], [-3.0, -4.0]], [[0.0, -1.0], [-0.1, -9.0]]])  # scores .88, .05; .5, .48
    found = activations(logits, torch.tensor([0.04, 0.3, 0.5, 0.9]))
    assert found.tolist() == [[2, 2], [2, 1], [1, 0], [0, 0]]


def test_the_control_keeps_each_image_and_forgets_the_indices():
    values = torch.zeros(200, 5, 2)
    values[:, 0] = 1  # in every image, query 0 alone
    mixed = shuffled(values, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.sum(1), values.sum(1))
    assert torch.equal(mixed[..., 0], mixed[..., 1])  # a query stays whole
    assert gini(values[..., 0].sum(0)) == pytest.approx(0.8) and gini(mixed[..., 0].sum(0)) < 0.2


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ([0, 1, -1], [0, 1, -1], 0),
        ([0, 1, -1], [1, 0, -1], 2),
        ([0, 1, -1], [0, -1, 1], 1),
        ([0, 1, 0], [0, 1, -1], 1),  # one of two queries is lost
        ([0, -1, 2], [0, -1, -1], 0),  # object 2 is padding
    ],
)
def test_an_object_changes_if_it_has_not_exactly_the_same_queries(before, after, changed):
    valid = torch.tensor([[True, True, False]])
    assert instability(torch.tensor([before]), torch.tensor([after]), valid) == (changed, 2)


def test_mean_cosine_of_pairs():
    line = torch.tensor([1.0, 2.0, 3.0])
    vectors = torch.stack([torch.stack([line, 2 * line]), torch.stack([line, -line])])
    assert mean_cosine(vectors).tolist() == pytest.approx([1, -1])
    assert float(mean_cosine(torch.eye(4))) == pytest.approx(0, abs=1e-7)
