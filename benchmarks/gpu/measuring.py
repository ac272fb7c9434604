"""Times, peak memory and waits for the device."""

from __future__ import annotations

import collections
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Function = Callable[[], Any]

CYCLES = 2e9  # of a GPU in a second, at most


class Meter:
    """Measures functions on a device; on a CPU with the clock, and memory and waits are 0."""

    def __init__(self, device: torch.device, *, tiny: bool) -> None:
        self.device = device
        self.tiny = tiny
        self._flush: Tensor | None = None

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def clock(
        self, function: Function, *, rounds: int = 30, warm: int = 5, cold: bool = False, most: float = 1.5
    ) -> float:
        """The median milliseconds that the device takes for a call.

        The device is kept busy until the host has queued the whole call, so that the time which the host needs for it
        does not count: `host` measures that.

        Args:
            function: what is measured.
            rounds: calls that count.
            warm: calls before them.
            cold: empty the L2 cache before each.
            most: seconds after which no further round starts.
        """
        rounds, warm = (2, 1) if self.tiny else (rounds, warm)
        began = time.monotonic()
        for _ in range(warm):
            function()
            if time.monotonic() - began > most:
                break
        self.wait()
        if not self.cuda:
            return statistics.median(self._wall_clock(function) for _ in range(rounds))
        pairs, cycles = [], int(1.5e-3 * self.host(function, rounds=3) * CYCLES)
        for _ in range(rounds):
            if cold:
                self._flush_l2()
            torch.cuda._sleep(cycles)
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            function()
            last.record()
            pairs.append((first, last))
            if time.monotonic() - began > most:
                break
        self.wait()
        return statistics.median(first.elapsed_time(last) for first, last in pairs)

    def host(self, function: Function, *, rounds: int = 10) -> float:
        """The median milliseconds until the host has queued a call on an idle device."""
        times = []
        for _ in range(2 if self.tiny else rounds):
            self.wait()
            times.append(self._wall_clock(function))
        self.wait()
        return statistics.median(times)

    def peak(self, function: Function) -> float:
        """The MB that a call needs above what is held before it."""
        if not self.cuda:
            return 0.0
        gc.collect()
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        function()
        self.wait()
        return round((torch.cuda.max_memory_allocated() - held) / 2**20, 1)

    def waits(self, function: Function) -> list[Any]:
        """How often a call waits for the device, and where: [count, {file:line: count}].

        Waits for an event do not count: the matcher's costs are waited for in this way.
        """
        if not self.cuda:
            function()
            return [0, {}]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                function()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = collections.Counter(
            f"{'/'.join(Path(warning.filename).parts[-3:])}:{warning.lineno}"
            for warning in caught
            if "called a synchronizing" in str(warning.message)
        )
        return [sum(places.values()), dict(places.most_common(12))]

    def _wall_clock(self, function: Function) -> float:
        began = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - began)

    def _flush_l2(self) -> None:
        if self._flush is None:
            self._flush = torch.empty(64 * 2**20, dtype=torch.int32, device=self.device)  # 256 MB
        self._flush.zero_()
