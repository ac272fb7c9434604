"""A run of the check: what it is given, the time left, and what it has found so far."""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.measuring import Meter


class Check:
    """One run.

    Attributes:
        args: the command line.
        device: where everything is measured.
        meter: measures times, memory and waits on that device.
        results: by section and key, as gpu_check.json has them.
    """

    def __init__(self, args: argparse.Namespace, *, device: torch.device, start: float) -> None:
        self.args = args
        self.device = device
        self.meter = Meter(device, tiny=args.tiny)
        self.results: dict[str, dict[str, Any]] = {}
        self._start = start
        self._end_of_section = float("inf")

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def tiny(self) -> bool:
        """Whether everything has the smallest size."""
        return self.args.tiny

    @property
    def project(self) -> Path:
        """The checkout that is measured."""
        return Path(self.args.project)

    @cached_property
    def out(self) -> Path:
        """The folder of what is kept."""
        folder = Path(self.args.out)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def scratch(self) -> Path:
        """A folder for files that nobody needs after the run."""
        return Path(tempfile.mkdtemp(prefix="gpu_check_"))

    def left(self) -> float:
        """Seconds of the budget, or of the section."""
        return min(self.args.budget, self._end_of_section) - self.seconds()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Raise TimeoutError in the main thread when a section takes longer than `seconds`."""

        def stop(*_: Any) -> None:
            raise TimeoutError(f"longer than its {seconds:.0f} s")

        before = signal.signal(signal.SIGALRM, stop)
        self._end_of_section = self.seconds() + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self._end_of_section = float("inf")

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def say(self, *words: Any) -> None:
        """Print words with the time."""
        print(f"[{self.seconds():6.1f}s]", *words, flush=True)

    def put(self, section: str, key: str, value: Any) -> None:
        """Keep a result and print it."""
        self.keep(section, key, value)
        self.say(f"{section:9s} {key:66s} {value}")

    def keep(self, section: str, key: str, value: Any) -> None:
        """Keep a result without printing it."""
        self.results.setdefault(section, {})[key] = value

    def put_error(self, section: str, key: str, error: Exception) -> None:
        """Keep an exception as the result."""
        self.put(section, key, f"{type(error).__name__}: {str(error)[:200]}")

    def write(self) -> None:
        """Write all results so far."""
        (self.out / "gpu_check.json").write_text(json.dumps(self.results, indent=1, default=str))

    def print_all(self) -> list[str]:
        """Print the table and the JSON in one line; returns the sections that failed."""
        print("\n=== table")
        for section, values in self.results.items():
            for key, value in values.items():
                print(f"{section} | {key} | {value}")
        print("=== json")
        print(json.dumps(self.results, default=str, separators=(",", ":"))[:11000])
        failed = [name for name, values in self.results.items() if fails(values)]
        print(f"=== {self.seconds():.0f} s, sections failed: {failed or 'none'}", flush=True)
        return failed


def fails(values: dict[str, Any]) -> bool:
    """Whether a section ended by an exception, or one of its comparisons found what must not be."""
    return "FAILED" in values or any(str(value).startswith("FAILED") for value in values.values())
