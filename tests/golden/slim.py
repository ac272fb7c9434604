"""`python -m tests.golden.slim FOLDER... [--to tests/golden/data]`: copy golden folders, leaving out what comes back.

Finds the seeded streams of normal numbers that the recorded weights and feature maps were drawn from (see `recipe.py`),
tensors that equal others, zeros and bytes; writes the copy, reads it again, and fails unless every bit is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

from tests.golden.folder import read_tensors
from tests.golden.recipe import FILE, VALUES, WHERE, Recipe, digest, scaled, sparse

SEEDS = (*range(10_000), *range(20_000, 20_010))
LEAST = 4  # numbers that a scale can be told from
UNNAMED_DRAWS = range(1, 16)  # sizes of draws that no tensor was recorded of, tried one at a time
LARGE_UNNAMED_DRAWS = range(16, 2048)
LEAST_ALIAS, LEAST_SPARSE = 16, 256  # entries; below, names would cost more than values


def slim(source: Path, target: Path) -> None:
    """Write a copy of a golden folder. Raises RuntimeError if anything would be lost."""
    tensors = read_tensors(source)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".json" and path.name not in ("meta.json", FILE):
            shutil.copy(path, target)
    if (source / "meta.json").exists():
        meta = json.loads((source / "meta.json").read_text())
        meta.pop("keys", None)  # the names and shapes of the tensors
        (target / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    if tensors:
        _write(tensors, target)
        again = read_tensors(target)
        if tensors.keys() != again.keys() or not all(_same(tensors[key], again[key]) for key in tensors):
            raise RuntimeError(f"{target}: the copy does not restore {source}")


def _write(tensors: dict[str, Tensor], target: Path) -> None:
    aliases = find_aliases(tensors)
    left = {key: tensor for key, tensor in tensors.items() if key not in aliases}
    given = {key: tensor for key, tensor in left.items() if not key.startswith("expected")}
    streams = find_streams(given)
    recipe = Recipe(streams=streams, aliases=aliases)
    drawn = recipe.drawn()
    stored, shapes = {}, {}
    for key, tensor in left.items():
        if key in drawn:
            continue
        if _is_sparse(tensor):
            stored[key + VALUES], stored[key + WHERE] = sparse(tensor)
            shapes[key] = list(tensor.shape)
        else:
            stored[key] = _narrowed(tensor)
    recipe = Recipe(streams, aliases, shapes, digest(drawn.values()) if drawn else "")
    if recipe != Recipe():
        recipe.save(target)
    for file in {key.split("/")[0] for key in tensors}:
        mine = {key.removeprefix(f"{file}/"): value for key, value in stored.items() if key.startswith(f"{file}/")}
        save_file(mine, target / f"{file}.safetensors")


def find_aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensors that equal an earlier one of the same file, bit for bit."""
    first: dict[tuple, str] = {}
    aliases = {}
    for key, tensor in tensors.items():
        content = (key.split("/")[0], tensor.dtype, tuple(tensor.shape), tensor.contiguous().numpy().tobytes())
        if first.setdefault(content, key) != key and tensor.numel() >= LEAST_ALIAS and not _is_bytes(tensor):
            aliases[key] = first[content]
    return aliases


def find_streams(tensors: Mapping[str, Tensor], seeds: Iterable[int] = SEEDS) -> list[dict]:
    """The streams that explain float32 tensors to the bit."""
    left = {key: t.flatten() for key, t in tensors.items() if t.dtype == torch.float32 and t.numel() >= LEAST}
    streams = []
    for seed in list(_plausible(left, seeds)):
        draws = []
        state = Generator().manual_seed(seed).get_state()
        while found := _next(left, state):
            skipped, key, factors, state = found
            draws += [[None, [size]] for size in skipped] + [[key, list(tensors[key].shape), *factors]]
            del left[key]
        if draws:
            streams.append({"seed": seed, "draws": draws})
    return streams


def _plausible(left: Mapping[str, Tensor], seeds: Iterable[int]) -> Iterator[int]:
    """Seeds whose first numbers are those of a tensor."""
    begins = _beginning_of(left)
    return (seed for seed in seeds if begins(Generator().manual_seed(seed).get_state()))


def _beginning_of(left: Mapping[str, Tensor]) -> Callable[[Tensor], bool]:
    """Whether what a state draws next begins, up to scale, like a tensor (or like one around 1) of 32 or more."""
    large = [tensor for tensor in left.values() if tensor.numel() >= 32]
    heads = torch.stack([torch.ones(3), *(t[:3].double() - mean for t in large for mean in (0.0, 1.0))])
    ratios = heads[:, 1:] / heads[:, :1]

    def begins(state: Tensor) -> bool:
        normal, _ = _State(state).draw(32)
        return bool(((ratios / (normal[1:3] / normal[0]) - 1).abs() < 1e-4).all(dim=1).any())

    return begins


@dataclass(frozen=True)
class _State:
    """A generator's state, and what it draws next."""

    state: Tensor

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """`size` normal numbers and the state after them."""
        generator = Generator()
        generator.set_state(self.state)
        return torch.randn(size, generator=generator, dtype=torch.float64), generator.get_state()


def _next(left: Mapping[str, Tensor], state: Tensor) -> tuple[list[int], str, list[float], Tensor] | None:
    """(sizes of unnamed draws before it, key, its scale and mean, the state after it) of the tensor drawn next."""
    begins = _beginning_of(left)
    sizes = sorted({tensor.numel() for tensor in left.values()})
    for skipped in ([], *([size] for size in (*UNNAMED_DRAWS, *LARGE_UNNAMED_DRAWS))):
        after = _State(state).draw(skipped[0])[1] if skipped else state
        tried = sizes if not skipped or skipped[0] in UNNAMED_DRAWS or begins(after) else ()
        for size in tried:
            normal, later = _State(after).draw(size)
            for key, tensor in left.items():
                if tensor.numel() == size and (factors := fit(normal, tensor)):
                    return skipped, key, factors, later
    return None


def fit(normal: Tensor, tensor: Tensor) -> list[float] | None:
    """[scale] or [scale, 1.0] such that tensor (float32 [n]) is scaled(normal (float64 [n]), ...) to the bit."""
    for mean in (0.0, 1.0):
        centred = tensor.double() - mean
        if not _parallel(normal[:LEAST], centred[:LEAST]) or not _parallel(normal, centred):
            continue
        for scale in _scales(normal.numpy(), tensor.numpy(), mean):
            if torch.equal(scaled(normal, scale, mean), tensor):
                return [scale, mean] if mean else [scale]
    return None


def _parallel(a: Tensor, b: Tensor) -> bool:
    return bool((a * b).sum() > 0.999999 * a.norm() * b.norm())


def _scales(normal: np.ndarray, tensor: np.ndarray, mean: float) -> list[float]:
    """Scales, those with few digits first, that lie in what the rounding of every entry leaves open."""
    middles = [
        (np.nextafter(tensor, np.float32(side)).astype(np.float64) + tensor) / 2 - mean for side in (-np.inf, np.inf)
    ]
    telling = np.abs(normal) > 1e-3
    bounds = np.sort(np.stack(middles)[:, telling] / normal[telling], axis=0)
    low, high = bounds[0].max(initial=-np.inf), bounds[1].min(initial=np.inf)
    if not low <= high:
        return []
    middle = (low + high) / 2
    short = [float(f"{middle:.{digits}g}") for digits in range(1, 17)]
    return [scale for scale in short if low <= scale <= high][:2] + [middle]


def _is_bytes(tensor: Tensor) -> bool:
    """Whether it is floating point and holds only whole numbers from 0 to 255."""
    if not tensor.is_floating_point() or not tensor.numel():
        return False
    return bool(((tensor == tensor.byte()) & ~tensor.signbit()).all())


def _is_sparse(tensor: Tensor) -> bool:
    large = tensor.numel() >= LEAST_SPARSE and tensor.is_floating_point() and not _is_bytes(tensor)
    return large and float((tensor == 0).double().mean()) > 0.25


def _narrowed(tensor: Tensor) -> Tensor:
    """The cheapest form of which `.double()` is the tensor."""
    if tensor.dtype != torch.float64:
        return tensor.contiguous()
    if _is_bytes(tensor):
        return tensor.byte().contiguous()
    return (tensor.float() if torch.equal(tensor.float().double(), tensor) else tensor).contiguous()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.double(), b.double())


def main(arguments: list[str] | None = None) -> int:
    """Copy each folder, and say how large it was and is."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.slim", description=__doc__.split("\n\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "data")
    options = parser.parse_args(arguments)
    for folder in options.folders:
        target = options.to / folder.resolve().name
        slim(folder, target)
        sizes = (sum(path.stat().st_size for path in place.iterdir()) / 1e3 for place in (folder, target))
        print("{}: {:.0f} kB -> {:.0f} kB".format(folder.name, *sizes), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
