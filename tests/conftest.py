"""What holds for every test: imports from the checkout, one thread, a fixed seed, the default dtype given back."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `projects` and `tests` are in no wheel

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported, which torch.compile also does

torch.set_num_threads(1)  # the suite runs on two cores, one process each
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def fixed_seed_and_dtype() -> Iterator[None]:
    """Each test starts from the same random state, whatever ran before it."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the calls, from now on, that make the host wait for the device."""
    calls: list[str] = []
    move = torch.Tensor.to

    def to(self, *arguments, **keywords):
        if "cpu" in (*arguments[:1], keywords.get("device")):  # by name: a tensor's own device is no wait
            calls.append("cpu")
        return move(self, *arguments, **keywords)

    monkeypatch.setattr(torch.Tensor, "to", to)

    def counting(name: str):
        original = getattr(torch.Tensor, name)
        return lambda self, *arguments, **keywords: calls.append(name) or original(self, *arguments, **keywords)

    for name in ("cpu", "item", "tolist", "nonzero", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    return calls
