"""The solver of one image: the short way gives what the long way gives, and gives way where it cannot prove it."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from crossstage.modeling.supervision import solver
from crossstage.modeling.supervision.solver import assign_queries

QUERIES = 200


def all_queries(cost: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs by the definition."""
    rows = np.repeat(np.arange(len(cost)), times)
    chosen, queries = linear_sum_assignment(cost[rows])
    return rows[chosen], queries


def object_of_query(pairs: tuple[np.ndarray, np.ndarray], queries: int) -> list[int]:
    objects, chosen = pairs
    assert len(set(chosen.tolist())) == len(chosen)
    of_query = np.full(queries, -1)
    of_query[chosen] = objects
    return of_query.tolist()


@pytest.fixture
def problems() -> list[tuple[np.ndarray, np.ndarray]]:
    """Costs of objects that compete for the same queries, more and less, and how often each is to be matched."""
    random = np.random.default_rng(0)
    found = []
    for crowding in (0.0, 1.0, 3.0, 10.0):  # how much of a query's cost is the same for all objects
        for _ in range(10):
            shared, own = random.normal(size=QUERIES), random.normal(size=(int(random.integers(1, 12)), QUERIES))
            found.append((crowding * shared + own, random.integers(0, 5, size=len(own))))
    return found


def test_pairs_are_those_of_the_long_way(problems, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        solver, "linear_sum_assignment", lambda cost: sizes.append(cost.shape[1]) or linear_sum_assignment(cost)
    )
    for cost, times in problems:
        expected = object_of_query(all_queries(cost, times), QUERIES)
        assert object_of_query(assign_queries(cost, times), QUERIES) == expected
    assert min(sizes) < QUERIES / 2 and QUERIES in sizes  # both ways were taken


def test_few_queries_prove_nothing_where_all_are_taken():
    """Ten objects want the same eight queries: those within reach of one are not enough, whatever solver looks at."""
    random = np.random.default_rng(1)
    cost = np.repeat(random.normal(size=(1, QUERIES)), 10, axis=0) + 1e-3 * random.normal(size=(10, QUERIES))
    pairs = assign_queries(cost, 3)
    assert len(pairs[0]) == 30
    assert object_of_query(pairs, QUERIES) == object_of_query(all_queries(cost, np.full(10, 3)), QUERIES)


@pytest.mark.parametrize(
    ("objects", "queries", "times"), [(3, 5, 4), (3, 150, 60), (0, 150, 2), (2, 0, 3), (150, 140, 2)]
)
def test_scarce_or_missing_queries_and_objects(objects, queries, times):
    cost = np.random.default_rng(2).normal(size=(objects, queries))
    of_query = object_of_query(assign_queries(cost, times), queries)
    assert of_query.count(-1) == max(0, queries - objects * times)
