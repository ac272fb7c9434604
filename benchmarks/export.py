"""Exported files against their models, on the CPU: the table of docs/export.md.

    python -m benchmarks.export                      # every toy config, DINO-R50 and StageInteractor-R50
    python -m benchmarks.export dino_toy --size dynamic --format onnx

A row per config, format and kind of size: the largest differences, and the time of the model (eager) over that of the
file. Times are medians of interleaved runs with one thread; other work on the machine changes them, less so the ratio.
The parameters are random, and spread so that no two scores are equal. Configs that only train differently (CSLA, the
quality-aware assignment) predict as others that are listed, and are left out. The large ones have a fixed size alone.
If a difference exceeds the limits, brackets give that from the model in float64: of the file; of the model in float32.
Exit status 1 if a file is not right.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import machine
from crossstage.cli.exporting import eager, one_thread, picture, precise
from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.config.find import experiments
from crossstage.deployment.agreement import LIMITS, Agreement, compared
from crossstage.deployment.exported_detector import ExportedDetector, rounded_up
from crossstage.deployment.facts import Facts
from crossstage.deployment.load import loaded
from crossstage.deployment.write import FORMATS, Shape, write
from crossstage.errors import InputError

LARGE = ("dino_r50_4scale_12ep", "stage_interactor_r50_12ep")
TOY_SIZE, LARGE_SIZE = (256, 320), (640, 640)
OTHER_SIZE = (352, 288)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each combination; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="configs (default: all toy configs, and two with a ResNet-50)")
    parser.add_argument("--format", nargs="+", default=["onnx"], choices=tuple(FORMATS))
    parser.add_argument("--size", nargs="+", default=["static", "dynamic"], choices=("static", "dynamic"))
    parser.add_argument("--rounds", type=int, default=15, help="interleaved runs of each side (default 15)")
    options = parser.parse_args(arguments)
    print(machine())
    print("| model | format | size | scores | boxes, px | eager, ms | file, ms | eager / file | written in, s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    right = True
    for name in options.names or default_names():
        detector = spread(name)
        for form in options.format:
            for kind in options.size if name not in LARGE else ("static",):
                for line, agrees in rows(name, detector, form, kind, options.rounds):
                    print(line, flush=True)
                    right &= agrees
    return 0 if right else 1


def default_names() -> list[str]:
    """The toy configs that predict differently, and the large ones."""
    toys = [name for name in experiments() if "_toy" in name and not name.endswith(("_csla", "_quality"))]
    return [*toys, *LARGE]


def spread(name: str) -> nn.Module:
    """The model of a config with random parameters of which no two queries get the same score, in evaluation mode."""
    node = LazyConfig.load(find_config(name)).model
    node.backbone.pretrained = False
    torch.manual_seed(0)
    detector = instantiate(node)
    for key, parameter in detector.named_parameters():
        reach = 0.3 if re.search(r"box_head|\.sampler\.", key) else 1.0  # boxes and points stay in the image
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=reach * parameter[0].numel() ** -0.5)
        elif key.endswith("bias"):
            parameter.data += 0.1 * reach * torch.randn_like(parameter)
    return detector.eval()


def rows(name: str, detector: nn.Module, form: str, kind: str, rounds: int) -> Iterator[tuple[str, bool]]:
    """The rows of one file, with whether it is right; one row per shape of the input."""
    size = LARGE_SIZE if name in LARGE else TOY_SIZE
    shape = Shape(size, 1) if kind == "static" else Shape()
    limits = LIMITS["float32"]
    with tempfile.TemporaryDirectory() as folder, one_thread():
        file = Path(folder, f"{name}{FORMATS[form]}")
        start = time.perf_counter()
        try:
            model = ExportedDetector(detector, any_size=shape.size is None)
            write(model, file, form=form, shape=shape, facts=Facts((), None, "", "", ""))
        except InputError as error:
            yield f"| {name} | {form} | {kind} | refused: {error} | | | | | |", True
            return
        taken = time.perf_counter() - start
        detect, _ = loaded(file, form=form)
        batches = [(1, size)]
        if kind == "dynamic":
            batches = [(1, rounded_up(size, model.multiples)), (2, rounded_up(OTHER_SIZE, model.multiples))]
        for count, size in batches:
            pixels = torch.stack([picture(index, size, ()) for index in range(count)])
            found = compared(eager(model), detect, pixels, precise=precise(model), limits=limits, rounds=rounds)
            yield line(name, form, kind, found, taken), found.within(limits)


def line(name: str, form: str, kind: str, found: Agreement, taken: float) -> str:
    """A row of the table in Markdown."""
    batch, _, height, width = found.shape
    times = f"{found.eager:.1f} | {found.file:.1f} | {found.eager / found.file:.2f}"
    where = f"{kind}, {batch} x {height} x {width}"
    scores, boxes = f"{found.found.scores:.1e}", f"{found.found.boxes:.1e}"
    if found.own is not None and found.exact is not None:
        scores += f" ({found.exact.scores:.1e}; {found.own.scores:.1e})"
        boxes += f" ({found.exact.boxes:.1e}; {found.own.boxes:.1e})"
    return f"| {name} | {form} | {where} | {scores} | {boxes} | {times} | {taken:.0f} |"


if __name__ == "__main__":
    sys.exit(main())
