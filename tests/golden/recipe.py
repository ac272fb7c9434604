"""How the copies in `tests/golden/data` are kept small without losing a number: `recipe.json`, next to the tensors.

The scripts that recorded the reference drew its weights and feature maps from seeded normal streams. A copy stores
seed, shape and scale instead of such a tensor, and a digest, so that other numbers than the recorded ones cannot pass.
A tensor that equals another is named as its alias; one that is mostly zero is stored as its other values and where
they are; whole numbers from 0 to 255 in floating point are bytes. Everything comes back bit for bit.
`python -m tests.golden.slim` writes the copies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILE = "recipe.json"
VALUES, WHERE = "~values", "~where"


@dataclass(frozen=True)
class Recipe:
    """What a copy does not store. Keys are `<file>/<tensor>`, as in `weights/neck.convs.0.conv.bias`.

    streams: seed and draws in order; a draw is [key or None, shape, scale, mean (0 where it is left out)].
    aliases: key -> the key of the tensor that it equals.  sparse: key -> shape.
    digest: of all drawn tensors.
    """

    streams: list[dict] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    sparse: dict[str, list[int]] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def of(cls, folder: Path) -> Recipe:
        """The folder's; without one nothing is left out."""
        path = folder / FILE
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def save(self, folder: Path) -> None:
        """Write it next to the folder's tensors."""
        (folder / FILE).write_text(json.dumps(asdict(self), separators=(",", ":")) + "\n")

    def restore(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of a folder from those that its files hold.

        Raises RuntimeError if this torch draws other numbers than those that the reference was run with.
        """
        drawn = self.drawn()
        if self.streams and digest(drawn.values()) != self.digest:
            raise RuntimeError(
                f"torch {torch.__version__} draws other normal numbers than the reference was run with; "
                "compare with the full folders: python -m tests.golden ../shared/golden/NAME"
            )
        tensors = {key: _widened(value) for key, value in stored.items() if not key.endswith((VALUES, WHERE))}
        tensors |= drawn
        for key, shape in self.sparse.items():
            tensors[key] = dense(stored[key + VALUES], stored[key + WHERE], shape)
        return tensors | {key: tensors[source].clone() for key, source in self.aliases.items()}

    def drawn(self) -> dict[str, Tensor]:
        """The tensors of the streams, float32, drawn in float64 by one call each."""
        tensors = {}
        for stream in self.streams:
            generator = torch.Generator().manual_seed(stream["seed"])
            for key, shape, *factors in stream["draws"]:
                normal = torch.randn(prod(shape), generator=generator, dtype=torch.float64)
                if key is not None:
                    tensors[key] = scaled(normal, *factors).view(shape)
        return tensors


def scaled(normal: Tensor, scale: float, mean: float = 0.0) -> Tensor:
    """float64 normal numbers -> float32, as the reference's parameters are made from them."""
    return (normal * scale + mean).float()


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the values, in order."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(tensor.contiguous().numpy().tobytes())
    return hashed.hexdigest()


def dense(values: Tensor, where: Tensor, shape: Iterable[int]) -> Tensor:
    """values: [k]; where: uint8, a bit for each entry of `shape`, 1 for those that `values` lists."""
    full = values.new_zeros(tuple(shape))
    bits = np.unpackbits(where.numpy(), count=full.numel()).astype(bool)
    full.view(-1)[torch.from_numpy(bits)] = values
    return full


def sparse(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `dense`: the values that are not (positive) zero, and the bits that say where."""
    flat = tensor.flatten()
    bits = (flat != 0) | flat.signbit()
    return flat[bits], torch.from_numpy(np.packbits(bits.numpy()))


def _widened(value: Tensor) -> Tensor:
    return value.double() if value.dtype == torch.uint8 else value
