"""Runs a model over a dataset and asks an evaluator what it is worth."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from lightning_fabric import is_wrapped
from rich.console import Console
from rich.progress import Progress
from torch import nn

from crossstage.processes import Processes
from crossstage.random_state import preserved_random_state
from crossstage.structures import Detections, ImageBatch

logger = logging.getLogger("crossstage.evaluation")

REPORT_SECONDS = 30  # between plain lines
TABLE_COLUMNS = 3  # classes side by side

Item = TypeVar("Item")
Results = dict[str, dict[str, float]]  # task ("bbox") -> score name -> percent


class Evaluator(Protocol):
    """What `run_evaluation` needs; `CocoEvaluator` is one."""

    def reset(self) -> None:
        """Forget everything."""
        ...

    def process(self, batch: ImageBatch, detections: list[Detections]) -> None:
        """Take in what was detected in a batch."""
        ...

    def evaluate(self) -> Results:
        """The scores over all processes."""
        ...


def run_evaluation(
    model: nn.Module,
    loader: Iterable[ImageBatch],
    evaluator: Evaluator,
    *,
    device: torch.device | str | None = None,
    console: Console | None = None,
    processes: Processes | None = None,
) -> Results:
    """Detect in all images of `loader`, in evaluation mode and without gradients, and return the evaluator's scores.

    device: where the batches go; None = the model's.  console: a terminal for a progress bar; elsewhere a line tells
    each 30 seconds.  processes: those of the run; an InputError or NonFiniteError of one is then raised on all.
    Afterwards each module is in the mode it was in, and the random generators are where they were, whatever happens.
    Precision is the caller's: what Fabric wraps is called without its wrapper, which lets no batch of ours through and
    under DDP would expect equally many batches of all processes; so run this inside of `fabric.autocast()`.
    """
    if is_wrapped(model):
        model = model.get_submodule("module")
    device = _device_of(model) if device is None else torch.device(device)
    show = console if processes is None or processes.is_first else None
    evaluator.reset()
    work = partial(_process_all, model, loader, evaluator, device=device, console=show)
    # no_grad, not inference_mode: what a module keeps from here (a cached constant) must serve in training too.
    with preserved_random_state(), evaluation_mode(model), torch.no_grad():
        work() if processes is None else processes.together(work)
        return evaluator.evaluate()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside, `model.eval()`; afterwards each module is in the mode it was in (some are never in training mode)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def metrics_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Scores as plain text: per task those of the whole dataset, then the classes', three side by side."""
    lines = []
    for task, scores in results.items():
        whole = {name: score for name, score in scores.items() if not name.startswith("AP-")}
        classes = [(name.removeprefix("AP-"), score) for name, score in scores.items() if name.startswith("AP-")]
        lines += [task, "  " + "".join(f"{name:>8}" for name in whole)]
        lines.append("  " + "".join(f"{score:8.2f}" for score in whole.values()))
        width = max((len(name) for name, _ in classes), default=0)
        rows = -(-len(classes) // TABLE_COLUMNS)
        for row in range(rows):  # down the columns, as in a dictionary
            cells = [f"{name:<{width}} {score:6.2f}" for name, score in classes[row::rows]]
            lines.append("    " + "    ".join(cells))
    return "\n".join(lines)


def _process_all(
    model: nn.Module,
    loader: Iterable[ImageBatch],
    evaluator: Evaluator,
    *,
    device: torch.device,
    console: Console | None,
) -> None:
    started, images = time.perf_counter(), 0
    with closing(tracked(loader, console, what="evaluation")) as batches:
        for batch in batches:
            batch = batch.to(device, non_blocking=True)
            evaluator.process(batch, model(batch))
            images += len(batch)
    seconds = time.perf_counter() - started
    logger.info("evaluated %d images in %.1f s (%.1f images/s)", images, seconds, images / max(seconds, 1e-9))


def tracked(items: Iterable[Item], console: Console | None, *, what: str) -> Generator[Item, None, None]:
    """Pass `items` on, with a progress bar on a terminal, elsewhere with a line of the log each 30 seconds.

    what: a word or two for what is going on. Close the iterator if it is left before its end.
    """
    total = len(items) if isinstance(items, Sized) else None
    if console is not None and console.is_terminal:
        with Progress(console=console, transient=True) as progress:
            yield from progress.track(items, total=total, description=what)
        return
    started = told = time.perf_counter()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.perf_counter()
        if now - told >= REPORT_SECONDS:
            told = now
            eta = "" if total is None else f" of {total}, eta {(now - started) / count * (total - count):.0f} s"
            logger.info("%s: %d%s", what, count, eta)


def _device_of(model: nn.Module) -> torch.device:
    tensors: Iterator[Any] = iter([*model.parameters(), *model.buffers()])
    first = next(tensors, None)
    return torch.device("cpu") if first is None else first.device
