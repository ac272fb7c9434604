"""How sides are timed against each other, and how the result is told."""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

COLUMNS = ("benchmark", "case", "baseline", "theirs", "ours", "ratio", "target", "met", "max difference", "agree")


@dataclass(frozen=True)
class Setting:
    """rounds: interleaved runs of each side.  quick: tiny shapes that show that everything runs, and no more."""

    rounds: int = 15
    quick: bool = False


@dataclass(frozen=True)
class Target:
    """What the ratio should be: a speed-up (baseline / ours) of at least, or a share (ours / baseline) of at most."""

    at_least: float | None = None
    at_most: float | None = None

    def ratio(self, baseline: float, ours: float) -> float:
        return ours / baseline if self.at_most is not None else baseline / ours

    def met(self, ratio: float) -> bool:
        return ratio <= self.at_most if self.at_most is not None else ratio >= (self.at_least or 0)

    def __str__(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "-" if self.at_least is None else f">= {self.at_least:g}x"


@dataclass(frozen=True)
class Comparison:
    """One row. `theirs` and `ours` are medians in `unit`; `difference` says how far the results are apart."""

    benchmark: str
    case: str
    baseline: str
    theirs: float
    ours: float
    target: Target
    difference: float
    tolerance: float
    unit: str = "ms"

    @property
    def ratio(self) -> float:
        return self.target.ratio(self.theirs, self.ours)

    @property
    def agrees(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN too

    def cells(self, *, quick: bool) -> tuple[str, ...]:
        """The row of the table, by `COLUMNS`. Targets are for real shapes: `quick` ones can neither meet nor miss."""
        ratio = f"{self.ratio:.3f}" if self.target.at_most is not None else f"{self.ratio:.2f}x"
        wanted = self.target.at_least is not None or self.target.at_most is not None
        met = ("yes" if self.target.met(self.ratio) else "NO") if wanted and not quick else "-"
        theirs, ours = (f"{value:.4g} {self.unit}" for value in (self.theirs, self.ours))
        difference = f"{self.difference:.1e} (<= {self.tolerance:.0e})"
        agree = "yes" if self.agrees else "NO"
        names = (self.benchmark, self.case, self.baseline)
        return *names, theirs, ours, ratio, str(self.target), met, difference, agree


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each side. Every round runs all of them, in turn from either end; the first is left out
    as warm-up. Collection of garbage waits: whose garbage it is would be chance.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    gc.disable()
    try:
        for round_number in range(rounds + 1):
            for name in list(sides)[:: 1 if round_number % 2 else -1]:
                start = time.perf_counter()
                sides[name]()
                times[name].append(1e3 * (time.perf_counter() - start))
    finally:
        gc.enable()
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def saved_bytes(forward: Callable[[], object], *given: Tensor) -> int:
    """Bytes of the tensors that autograd keeps from a forward pass for its backward pass.

    Each storage counts once; those of the `given` tensors, parameters and inputs, do not count. Of what is computed
    again in the backward pass nothing counts.
    """
    storages: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept = tensor.detach()  # a step that keeps its own output would hold itself in memory for ever
        storages[tensor.untyped_storage().data_ptr()] = kept
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = forward()
    for tensor in given:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    del outputs  # until here the graph, and so every address, is in use
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def max_difference(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference; infinite where the shapes differ."""
    if first.shape != second.shape:
        return float("inf")
    return (first.double() - second.double()).abs().max().item() if first.numel() else 0.0


def machine() -> str:
    """One line: processor, cores, GPU if there is one, Python, torch, threads."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        model = f"{names[0]}, {len(names)} cores" if names else model
    except OSError:
        pass
    if torch.cuda.is_available():
        model = f"{model}; {torch.cuda.get_device_name()}"
    return (
        f"machine: {model}; Python {platform.python_version()}; torch {torch.__version__}; "
        f"{torch.get_num_threads()} thread(s), float32 on the CPU unless a row says otherwise"
    )


def print_table(rows: list[Comparison], *, quick: bool) -> None:
    """`a | b | c` lines: the header, then one line a row."""
    print(" | ".join(COLUMNS))
    for row in rows:
        print(" | ".join(row.cells(quick=quick)))
