"""Reading golden folders and comparing with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.golden.recipe import Recipe

OUTPUT_TOLERANCE = 1e-9
GRADIENT_TOLERANCE = 1e-7
ROUNDING = 1e-12


@dataclass(frozen=True)
class Row:
    """One comparison: what differed most, and what was allowed. Integers and booleans are allowed nothing."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return self.error <= self.tolerance


@dataclass
class Comparison:
    """Collects rows; keys of `expected` that nobody compared are themselves failures."""

    expected: Mapping[str, Tensor]
    prefix: str = ""
    rows: list[Row] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def check(self, name: str, ours: Tensor, *, relative: bool = False, floor: float = ROUNDING) -> None:
        """Compare with expected[name], if the folder has it; relative to its largest entry for gradients.

        floor: the least that a relative difference is divided by: a gradient that is zero but for rounding.
        """
        if name not in self.expected:
            return
        self.seen.add(name)
        theirs = self.expected[name]
        label = self.prefix + name
        if tuple(ours.shape) != tuple(theirs.shape):
            self.rows.append(Row(f"{label} {tuple(ours.shape)} != {tuple(theirs.shape)}", float("inf"), 0.0))
            return
        self.rows.append(Row(label, _difference(ours, theirs, relative, floor), _tolerance(theirs, relative)))

    def check_value(
        self, name: str, ours: float, theirs: float, *, relative: bool = False, floor: float = ROUNDING
    ) -> None:
        """Compare two numbers that `expected` does not hold."""
        pair = torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)
        self.rows.append(Row(self.prefix + name, _difference(*pair, relative, floor), _tolerance(pair[1], relative)))

    def skip(self, *prefixes: str) -> None:
        """Mark keys as known to be covered by another comparison."""
        self.seen |= {name for name in self.expected if name.startswith(prefixes)}

    def finish(self) -> list[Row]:
        """The rows, with a failing one for each expected key that was not compared."""
        forgotten = sorted(set(self.expected) - self.seen)
        return self.rows + [Row(f"{self.prefix}{name} (not compared)", float("inf"), 0.0) for name in forgotten]


def _difference(ours: Tensor, theirs: Tensor, relative: bool, floor: float) -> float:
    if ours.numel() == 0:
        return 0.0
    ours, theirs = ours.detach().to(torch.float64), theirs.to(torch.float64)
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    error = torch.where(same, 0.0, (ours - theirs).abs())
    if error.isnan().any():
        return float("inf")
    return float(error.max() / theirs.abs().max().clamp(min=floor)) if relative else float(error.max())


def _tolerance(theirs: Tensor, relative: bool) -> float:
    if not theirs.is_floating_point():
        return 0.0
    if relative:
        return GRADIENT_TOLERANCE
    return OUTPUT_TOLERANCE * max(1.0, float(theirs.abs().max()) if theirs.numel() else 1.0)


@dataclass(frozen=True)
class GoldenFolder:
    """A folder of reference tensors: meta.json, weights, and cases of inputs with expected outputs."""

    path: Path

    @property
    def meta(self) -> dict:
        """Hyper-parameters and notes."""
        return json.loads((self.path / "meta.json").read_text())

    @property
    def weights(self) -> dict[str, Tensor]:
        """The reference's state dict, in float64; empty where the folder has none."""
        return self._read("weights")

    @property
    def cases(self) -> list[str]:
        """Suffixes of the cases: "" for inputs.safetensors, "_single" for inputs_single.safetensors, ..."""
        return sorted(path.stem.removeprefix("inputs") for path in self.path.glob("inputs*.safetensors"))

    def inputs(self, case: str = "") -> dict[str, Tensor]:
        """A case's inputs, floating point in float64."""
        return self._read(f"inputs{case}")

    def expected(self, case: str = "") -> dict[str, Tensor]:
        """What the reference gave."""
        return self._read(f"expected{case}")

    def _read(self, file: str) -> dict[str, Tensor]:
        tensors = read_tensors(self.path)
        mine = {key.removeprefix(f"{file}/"): value for key, value in tensors.items() if key.startswith(f"{file}/")}
        return {key: value.double() if value.is_floating_point() else value for key, value in mine.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a folder as `<file>/<name>`; those that the copies do not store are restored."""
    stored = {
        f"{file.stem}/{name}": value for file in path.glob("*.safetensors") for name, value in load_file(file).items()
    }
    return Recipe.of(path).restore(stored)
