"""The three global generators of random numbers: torch's, numpy's and Python's."""

import random

import numpy as np
import torch


def seed_all() -> None:
    """Set all three to one seed."""
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)


def draws() -> tuple[float, float, float]:
    """The next number of each."""
    return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002
