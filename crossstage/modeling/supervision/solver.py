"""The assignment of one image at one stage, on the host: scipy's solver, and a shorter way to the same result."""

import numpy as np
from scipy.optimize import linear_sum_assignment

GROUPS = 64  # of queries, to find those that are near an object without sorting


def assign_queries(cost: np.ndarray, times: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each object so many queries at the least total cost; a query gets one object at most.

    Args:
        cost: finite costs, [T, N].
        times: how many queries each object gets, one number or [T]. If they sum up to more than N, each query gets an
            object.

    Returns:
        The pairs: indices of objects, and of their queries, each [number of pairs].
    """
    rows = np.repeat(np.arange(len(cost)), times)  # each object, as often as it is to get a query
    pairs = _among_near_queries(cost, rows) if len(rows) > len(cost) else None
    if pairs is None:
        chosen, queries = linear_sum_assignment(cost[rows])
        pairs = rows[chosen], queries
    return pairs


def _among_near_queries(cost: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The optimal pairs, found among few queries, or None if these do not prove that they are optimal.

    scipy's time grows with repeated rows times queries. Here the queries are those whose cost is within an object's
    reach, for any object: at least twice as many for each as the largest number of its queries. If every object has a
    query within its reach that remains free, the result is optimal among all queries: the price of a free query is 0,
    so the price of an object (the dual variable of its row) is at most its reach, and a query beyond the reach of all
    objects could lower the total for none of them.
    """
    near = 2 * int(np.bincount(rows).max())
    in_group = cost.shape[1] // GROUPS
    if in_group < 2 or near > GROUPS // 2:
        return None
    least = cost[:, : in_group * GROUPS].reshape(len(cost), in_group, GROUPS).min(axis=1)
    reach = np.partition(least, near - 1, axis=1)[:, near - 1, None]  # at least `near` queries cost no more
    within = cost <= reach
    candidates = np.flatnonzero(within.any(axis=0))
    if len(candidates) < len(rows):
        return None
    chosen, queries = linear_sum_assignment(cost[np.ix_(rows, candidates)])
    free = np.ones(len(candidates), dtype=bool)
    free[queries] = False
    if not (within[:, candidates] & free).any(axis=1).all():
        return None
    return rows[chosen], candidates[queries]
