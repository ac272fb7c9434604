"""The output of a run: log.txt, the terminal, metrics.json, TensorBoard, Weights & Biases, curves.png."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console, ConsoleRenderable
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.traceback import Traceback

from crossstage.engine.curves import draw_curves
from crossstage.engine.interrupt import Interrupted
from crossstage.engine.metrics import MetricsFile
from crossstage.engine.remedies import as_input_error
from crossstage.errors import InputError

logger = logging.getLogger("crossstage.engine")

LOGGERS = ("crossstage", "csla", "dca")  # projects are crossstage.projects
PLAIN = logging.Formatter("[%(asctime)s] %(message)s", datefmt="%m/%d %H:%M:%S")


class RunLog:
    """Inside `with`, our loggers write to the terminal and, after `open_file`, to a file.

    Progress bars must use the attribute `console`.

    Args:
        quiet: whether to log only errors; for all processes but the first.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(file=sys.stdout, soft_wrap=True)  # a line of the log stays one line
        self._quiet = quiet
        self._early = MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self._handlers: list[logging.Handler] = [_TerminalHandler(self.console), self._early]
        self._before: dict[str, tuple[int, bool]] = {}
        self._file: logging.FileHandler | None = None

    def __enter__(self) -> RunLog:
        for name in LOGGERS:
            ours = logging.getLogger(name)
            self._before[name] = (ours.level, ours.propagate)
            ours.setLevel(logging.ERROR if self._quiet else logging.INFO)
            ours.propagate = False
            for handler in self._handlers:
                ours.addHandler(handler)
        return self

    def open_file(self, path: Path) -> None:
        """Also write to `path` from now on, beginning with everything that was logged before."""
        file = self._file = _LogFile(path, encoding="utf-8")
        file.setFormatter(PLAIN)
        self._early.setTarget(file)
        self._early.flush()
        self._early.flushLevel = logging.NOTSET  # from now on, every record is written at once
        self._handlers.append(file)

    @property
    def descriptor(self) -> int | None:
        """The file descriptor of the log file, or None before `open_file`."""
        return None if self._file is None or self._file.stream is None else self._file.stream.fileno()

    @contextmanager
    def noting_end(self, output_dir: Path, *, rank: int) -> Iterator[None]:
        """Write, to the log file alone, why the run ends; the terminal gets the error in other ways.

        Args:
            output_dir: the output folder; a process without a log file of its own appends to its log.txt an error
                that only this process has.
            rank: number of this process.

        Raises:
            InputError: in place of an error that says that the disk is full or read-only, or memory exhausted.
        """
        try:
            yield
        except BaseException as error:
            path = output_dir / "log.txt"
            told_by_first = isinstance(error, Interrupted) or getattr(error, "known_to_first", False)
            if rank and path.is_file() and not told_by_first:
                self.open_file(path)
            told = as_input_error(error, output_dir)
            self.write_plainly(PLAIN.format(_last_record(error, rank, told)))
            if told is not None:
                raise told from error
            raise

    def write_plainly(self, text: str) -> None:
        """Append text to the log file, if there is one, whatever happens to the run at this moment."""
        for _ in range(3):  # the death of a data worker raises a RuntimeError wherever the main thread is
            with suppress(RuntimeError):
                if self.descriptor is not None:
                    os.write(self.descriptor, f"{text}\n".encode())
                return

    def __exit__(self, *error: object) -> None:
        for name, (level, propagate) in self._before.items():
            ours = logging.getLogger(name)
            ours.setLevel(level)
            ours.propagate = propagate
            for handler in self._handlers[:2]:
                ours.removeHandler(handler)
        for handler in self._handlers:
            handler.close()


def _last_record(error: BaseException, rank: int, told: InputError | None) -> logging.LogRecord:
    """What ended the run, in the words of `told` if there are any, with its traceback unless a signal stopped it."""
    kind = "" if type(error).__module__.startswith("crossstage") else f"{type(error).__name__}: "
    text = f"the run ended: {kind}{error}" if told is None else f"the run ended: {told}"
    if isinstance(error, KeyboardInterrupt):
        text = "the run ended: interrupted at once; nothing was saved since the last checkpoint"
    if isinstance(error, RuntimeError) and "onnection" in str(error):
        text += "\n  Another process of this run has ended: killed, out of memory, or with an error of its own."
    trace = None if isinstance(error, Interrupted) else (type(error), error, error.__traceback__)
    whose = f"process {rank}: " if rank else ""
    return logging.LogRecord("crossstage.engine", logging.ERROR, "", 0, whose + text, None, trace)


class _LogFile(logging.FileHandler):
    """A file that says once, in one line, that it cannot be written; logging would print a traceback each time."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Report the error of the first record that could not be written."""
        if not getattr(self, "failed", False):
            self.failed = True
            print(f"warning: {self.baseFilename}: cannot be written ({sys.exc_info()[1]})", file=sys.stderr)

    def flush(self) -> None:
        """Write what is buffered. A full disk must not hide the error that ends the run."""
        try:
            super().flush()
        except OSError:
            self.handleError(logging.makeLogRecord({}))

    def close(self) -> None:
        """Close the file, also on a full disk."""
        with suppress(OSError):
            super().close()


class _TerminalHandler(RichHandler):
    """On a terminal, prints above the progress bar and leaves out the lines whose numbers the bar shows.

    Rich's own `render` makes a table of the records, and its columns would break the lines of a piped log.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, highlighter=NullHighlighter(), keywords=[])
        self.setFormatter(PLAIN)
        self.addFilter(lambda record: not (console.is_terminal and getattr(record, "on_bar", False)))

    def render(
        self, *, record: logging.LogRecord, traceback: Traceback | None, message_renderable: ConsoleRenderable
    ) -> ConsoleRenderable:
        """Return the formatted record without a table."""
        return message_renderable


class LogBook:
    """Writes the numbers of a training run, in the first process only; `with` closes all files.

    Args:
        output_dir: the output folder.
        console: the terminal for the progress bar.
        start: first iteration of this start of the run; later numbers of an interrupted run are removed.
        config: the config of the run.
    """

    def __init__(self, output_dir: Path, console: Console, *, start: int, config: DictConfig) -> None:
        self.output_dir = output_dir
        self.metrics = MetricsFile(output_dir / "metrics.json")
        self._start = start
        self._config = config
        self._console = console
        self._stack = ExitStack()
        self._wandb: Any = None
        self._progress: Progress | None = None

    def __enter__(self) -> LogBook:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self.metrics.truncate(self._start)
        self._board = SummaryWriter(str(self.output_dir), purge_step=self._start)
        self._stack.callback(self._board.close)
        if self._config.train.wandb.enabled:
            self._wandb = _start_wandb(self._config, self.output_dir)
            self._stack.callback(self._wandb.finish)
        if self._console.is_terminal:
            self._progress = self._stack.enter_context(_progress(self._console))
            self._task = self._progress.add_task(
                "train", total=self._config.train.max_iter, completed=self._start, numbers=""
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def advance(self, iteration: int) -> None:
        """Move the bar to the end of `iteration`."""
        if self._progress is not None:
            self._progress.update(self._task, completed=iteration + 1)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Record `values` (training medians, evaluation scores, or both) for `iteration`."""
        self.metrics.append(iteration, values)
        for name, value in values.items():
            self._board.add_scalar(name, value, iteration)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=iteration)
        if "total_loss" in values:
            line = training_line(iteration, values)
            logger.info(line, extra={"on_bar": True})
            if self._progress is not None:
                self._progress.update(self._task, numbers=_short(values))

    def draw(self) -> Path:
        """(Re)draw curves.png and flush TensorBoard."""
        path = self.output_dir / "curves.png"
        draw_curves(self.metrics.read(), path)
        self._board.flush()
        return path


def training_line(iteration: int, values: Mapping[str, float]) -> str:
    """detectron2's line for the terminal, but only with the losses of the last stage."""
    losses = [name for name in values if name == "total_loss" or (name.startswith("loss_") and name.count("_") == 1)]
    parts = [f"eta: {timedelta(seconds=int(values['eta_seconds']))}", f"iter: {iteration}"]
    parts += [f"{name}: {values[name]:.4g}" for name in sorted(losses, key=lambda name: name != "total_loss")]
    parts += [f"time: {values['time']:.4f}", f"data_time: {values['data_time']:.4f}", f"lr: {values['lr']:.4g}"]
    if torch.cuda.is_available():
        parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
    return "  ".join(parts)


def _short(values: Mapping[str, float]) -> str:
    return f"loss {values['total_loss']:.4g}  lr {values['lr']:.3g}"


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    return Progress(*columns, console=console)


def _start_wandb(config: DictConfig, output_dir: Path) -> Any:
    import wandb  # an optional package; `setup.check_values` has checked that it is installed

    params: Any = OmegaConf.to_container(config.train.wandb.params, resolve=True)
    return wandb.init(**{"dir": str(output_dir), **params}, config={"yaml": (output_dir / "config.yaml").read_text()})
