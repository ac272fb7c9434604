"""A training step of StageInteractor against AdaMixer's on a GPU: time and peak memory, in float32 and under bfloat16.

Both detectors are R50 with 100 queries, on two images of 800 x 1333 (padded to 1344). Without a GPU there is nothing
to compare; a quick run takes a CPU, to show that all runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from benchmarks.detectors import BASELINE, OURS, image_batch, model_node, row
from benchmarks.measure import Comparison, Setting, Target, interleaved
from benchmarks.pyramid_sampling import QUICK_IMAGE
from crossstage.config import instantiate

IMAGE, IMAGES = (800, 1344), 2
MB = 2**20


class TrainingStep:
    """A detector with its optimizer and a batch; called, it takes a step and waits for the device."""

    def __init__(self, name: str, *, device: torch.device, dtype: torch.dtype, quick: bool) -> None:
        self.model = instantiate(model_node(name, quick=quick)).train().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2.5e-5)
        self.batch = image_batch(QUICK_IMAGE if quick else IMAGE, IMAGES).to(device)
        self.device, self.dtype = device, dtype

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            losses = self.model(self.batch)
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self) -> float:
        """MB that torch holds on the GPU at most during a step: parameters, gradients, Adam's state, activations."""
        self()  # the first one makes Adam's state
        torch.cuda.reset_peak_memory_stats(self.device)
        self()
        return torch.cuda.max_memory_allocated(self.device) / MB


def compare(setting: Setting) -> Iterator[Comparison]:
    """Rows for each precision."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not setting.quick:
        return
    for dtype in (torch.float32, torch.bfloat16):
        step = partial(TrainingStep, device=device, dtype=dtype, quick=setting.quick)
        case = f"training step on {device.type}, {IMAGES} images, {str(dtype).removeprefix('torch.')}"
        if device.type == "cuda":
            peaks = [step(name).peak() for name in (BASELINE, OURS)]
            yield row(f"{case}, peak memory", BASELINE, *peaks, target=Target(at_most=1.05), unit="MB")
        times = interleaved({name: step(name) for name in (BASELINE, OURS)}, setting.rounds)
        yield row(case, BASELINE, times[BASELINE], times[OURS])
