"""The losses of 20 training steps of every small config, to show that a change of the code changes no number.

    python -m tests.loss_sequences --write FILE        # before the change
    python -m tests.loss_sequences --compare FILE      # after it: the largest relative difference of each config

Weights are drawn from a generator seeded with each parameter's name, so that the order in which parts are built plays
no role; a parameter that was renamed needs a line in `FORMER_NAMES`. Batches, denoising noise and the optimizer are
fixed. Every loss term of every step is kept, under its name in `metrics.json`.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from crossstage.config import LazyConfig, instantiate
from crossstage.structures import Losses
from tests.random_scenes import image_batch
from tests.tiny_models import ROOT

STEPS = 20
FORMER_NAMES = {
    "queries.source.": "queries.",
    "queries.extra.": "queries.",
}  # part of a parameter's name today -> that part when sequences were first written


def small_configs() -> list[Path]:
    """The configs for the generated data set."""
    return sorted([*ROOT.glob("projects/*/configs/*_toy*.py")])


def former_name(name: str) -> str:
    """The name that a parameter had when sequences were first written."""
    for new, old in FORMER_NAMES.items():
        name = name.replace(new, old)
    return name


def in_former_order(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters sorted by their former names: the norm of all gradients is summed in the same order."""
    return sorted(model.named_parameters(), key=lambda named: former_name(named[0]))


def draw_weights(model: nn.Module, other: nn.Module) -> None:
    """Replace every parameter by numbers that depend on its name and shape alone.

    Vectors keep their initial values, plus noise, unless these are random: `other`, built after another seed, differs.
    """
    others = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(former_name(name).encode()))
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            parameter.data = noise * parameter[0].numel() ** -0.5
        else:
            parameter.data = parameter.data * parameter.equal(others[name]) + 0.1 * noise


def sequence(file: Path) -> list[dict[str, float]]:
    """Train a config's model for `STEPS` steps; returns the losses of each."""
    node = LazyConfig.load(str(file)).model
    torch.manual_seed(0)
    batches = [image_batch(3, 5), image_batch(0, 2), image_batch(7, 1)]
    model, other = instantiate(node).train(), instantiate(node)
    draw_weights(model, other)
    learning = [(name, value) for name, value in in_former_order(model) if value.requires_grad]
    optimizer = torch.optim.AdamW([value for _, value in learning], lr=1e-4)
    steps = []
    for step in range(STEPS):
        torch.manual_seed(step)  # for the denoising noise
        losses = loss_terms(model(batches[step % len(batches)]))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_([value for _, value in learning], 1.0, foreach=False)
        optimizer.step()
        steps.append({name: loss.item() for name, loss in losses.items()})
    return steps


def loss_terms(output: Losses) -> dict[str, Tensor]:
    """The terms that a model in training returns, by name."""
    return dict(output.terms)


def largest_difference(before: list[dict[str, float]], after: list[dict[str, float]]) -> float:
    """Of any term in any step, relative to the term's size or 1. Raises ValueError if the names differ."""
    largest = 0.0
    for step, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.keys() != new.keys():
            raise ValueError(f"step {step}: other losses: {sorted(old.keys() ^ new.keys())}")
        largest = max(largest, *(abs(new[name] - value) / max(abs(value), 1.0) for name, value in old.items()))
    return largest


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--write", type=Path, metavar="FILE", help="write the sequences as JSON")
    group.add_argument("--compare", type=Path, metavar="FILE", help="compare with sequences written before")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    written = json.loads(arguments.compare.read_text()) if arguments.compare else {}
    sequences = {}
    for file in small_configs():
        name = file.stem
        sequences[name] = sequence(file)
        last = sum(sequences[name][-1].values())
        shown = ""
        if written:  # a config may be new
            old = written.get(name)
            shown = "new" if old is None else f"largest difference {largest_difference(old, sequences[name]):.1e}"
        print(f"{name:32} {len(sequences[name][0]):3} terms  last total {last:10.5f}  {shown}", flush=True)
    if arguments.write:
        arguments.write.write_text(json.dumps(sequences))


if __name__ == "__main__":
    main()
