"""Times of a training step's parts."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.measuring import Meter

PARTS = ("backbone", "neck", "encoder", "queries", "decoder", "criterion", "matcher")
BACKWARD = {  # each mark after the forward pass, and the part that ends there
    "b:decoder>": "backward: criterion+decoder",
    "b:encoder>": "backward: encoder+neck",
    "backward>": "backward: backbone",
    "clip>": "clip",
    "optimizer>": "optimizer",
}


class Marks:
    """Marks at the borders of a step's parts; in the backward pass by hooks on the tensors between them."""

    def __init__(self, model: nn.Module, meter: Meter) -> None:
        self.on = False
        self._meter = meter
        self._at: dict[str, Any] = {}
        for name in PARTS[:-1]:
            part = getattr(model, name)
            part.register_forward_pre_hook(lambda *_, name=name: self.mark(f"{name}<"))
            part.register_forward_hook(lambda _module, _inputs, out, name=name: self._after(name, out))
        self._mark_matching(model.criterion)

    def begin(self) -> None:
        """Forget the last step and note the next one."""
        self.on, self._at = True, {}

    def mark(self, name: str) -> None:
        """Note the time of a border, if `on`; the last of a name counts."""
        if not self.on:
            return
        if self._meter.cuda:
            self._at[name] = torch.cuda.Event(enable_timing=True)
            self._at[name].record()
        else:
            self._at[name] = time.perf_counter()

    def times(self) -> dict[str, float]:
        """End the step; returns the milliseconds of each part."""
        self.on = False
        self._meter.wait()
        parts = {name: self._between(f"{name}<", f"{name}>") for name in PARTS if f"{name}>" in self._at}
        borders = ["backward<", *(name for name in BACKWARD if name in self._at)]
        for first, last in pairwise(borders):
            parts[BACKWARD[last]] = self._between(first, last)
        parts["step"] = self._between("step<", "optimizer>")
        return parts

    def _between(self, first: str, last: str) -> float:
        first, last = self._at[first], self._at[last]
        return first.elapsed_time(last) if self._meter.cuda else 1e3 * (last - first)

    def _after(self, name: str, out: Any) -> None:
        self.mark(f"{name}>")
        if not self.on:
            return
        if name == "encoder" and out.tokens.requires_grad:
            out.tokens.register_hook(lambda _: self.mark("b:decoder>"))
        if name == "backbone":
            for level in (level for level in out if level.requires_grad):
                level.register_hook(lambda _: self.mark("b:encoder>"))

    def _mark_matching(self, criterion: Any) -> None:
        """Mark the time from the costs to the first group that waited for them; known groups' losses lie between."""
        matches = criterion.matches

        def timed(groups: Any, targets: Any) -> Any:
            self.mark("matcher<")
            waits = True
            for index, found in matches(groups, targets):
                if waits and groups[index].group.matches is None:
                    self.mark("matcher>")
                    waits = False
                yield index, found

        criterion.matches = timed
