"""Runs a model over a dataset and passes the detections to an evaluator."""

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

REPORT_SECONDS = 30  # between two lines of the log
TABLE_COLUMNS = 3  # classes per line

Item = TypeVar("Item")
Results = dict[str, dict[str, float]]  # task ("bbox") -> score name -> percent


class Evaluator(Protocol):
    """The interface of an evaluator; `CocoEvaluator` is one."""

    def reset(self) -> None:
        """Remove all detections."""
        ...

    def process(self, batch: ImageBatch, detections: list[Detections]) -> None:
        """Add the detections of a batch, one per image."""
        ...

    def evaluate(self) -> Results:
        """Compute the scores over all processes."""
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
    """Detect in all images, in evaluation mode and without gradients, and return the evaluator's scores.

    Afterwards the mode of each module and the states of the random generators are restored, also after an error.
    The caller sets the precision, with `fabric.autocast()`: a model that Fabric wraps is called without its wrapper,
    which does not accept our batches and under DDP would need the same number of batches on all processes.

    Args:
        model: the detector.
        loader: the batches of this process.
        evaluator: gets the detections.
        device: the device for the batches; None means that of the model.
        console: shows a progress bar if it is a terminal; otherwise there is a line of the log every 30 seconds.
        processes: the processes of the run. An InputError or NonFiniteError of one is then raised on all.

    Returns:
        The scores by task and name.
    """
    if is_wrapped(model):
        model = model.get_submodule("module")
    device = _device_of(model) if device is None else torch.device(device)
    show = console if processes is None or processes.is_first else None
    evaluator.reset()
    work = partial(_process_all, model, loader, evaluator, device=device, console=show)
    # no_grad instead of inference_mode, because training must be able to use constants that a module caches here.
    with preserved_random_state(), evaluation_mode(model), torch.no_grad():
        work() if processes is None else processes.together(work)
        return evaluator.evaluate()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode; afterwards the mode of each module is restored.

    `model.train()` would not do this, because some modules are never in training mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def metrics_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Scores as plain text: for each task those of the whole dataset, then those of the classes, three per line."""
    lines = []
    for task, scores in results.items():
        whole = {name: score for name, score in scores.items() if not name.startswith("AP-")}
        classes = [(name.removeprefix("AP-"), score) for name, score in scores.items() if name.startswith("AP-")]
        widths = {name: max(8, len(name) + 2) for name in whole}
        lines += [task, "  " + "".join(f"{name:>{width}}" for name, width in widths.items())]
        lines.append("  " + "".join(f"{whole[name]:{width}.2f}" for name, width in widths.items()))
        width = max((len(name) for name, _ in classes), default=0)
        rows = -(-len(classes) // TABLE_COLUMNS)
        for row in range(rows):  # the classes run down the columns
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
    """Yield the items and show the progress: a bar on a terminal, otherwise a line of the log every 30 seconds.

    Args:
        items: the items; close the generator if you leave it before its end.
        console: the terminal, or None.
        what: one or two words that describe the work.

    Yields:
        The items.
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
