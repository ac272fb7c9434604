"""Sections steps and variants: whole training steps."""

from __future__ import annotations

import collections
import gc
import re
import statistics
import time
import traceback
import types
from collections.abc import Callable
from functools import partial

import torch
from omegaconf import OmegaConf
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks.gpu import kernels
from benchmarks.gpu.marks import Marks
from benchmarks.gpu.record import Check
from benchmarks.gpu.scenes import batch_of, build_model
from crossstage.config import get_config
from crossstage.engine.acceleration import compile_layers, place
from crossstage.structures import ImageBatch

COMPILATION = 100  # seconds that compiling the layers of a model may take


def section_steps(check: Check) -> None:
    """A training step of each model: its parts, kernels, waits and memory."""
    torch.backends.cudnn.benchmark = True
    for name in check.args.models.split(","):
        if check.left() < 8:
            return check.put("steps", name, f"left out: {check.left():.0f} s left")
        for dtype in (torch.float32, torch.bfloat16):
            for by_kernels in (False, True) if kernels.can_run(check) else (False,):
                label = f"{name} {str(dtype)[6:]} {'triton' if by_kernels else 'bag'}"
                try:
                    with kernels.sampling_by_kernels(by_kernels):
                        step = Step(build_model(check, name), batch_of(check), dtype)
                        measure(check, "steps", label, step)
                        detail(check, "steps", label, step)
                except Exception as error:
                    check.put_error("steps", label, error)
                    check.say(traceback.format_exc(limit=4))
                free(check)
        check.write()
    return None


class Step:
    """A training step that can be called; `mark` is called at its borders."""

    def __init__(self, model: nn.Module, batch: ImageBatch, dtype: torch.dtype, *, fused: bool | None = None) -> None:
        self.model = model
        self.mark: Callable[[str], None] = lambda name: None
        self._batch = batch
        self._dtype = dtype
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=1e-5, fused=fused)

    def __call__(self) -> None:
        self.mark("step<")
        self._optimizer.zero_grad(set_to_none=True)
        device = self._trained[0].device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            total = self.model(self._batch).total
        self.mark("backward<")
        total.backward()
        self.mark("backward>")
        nn.utils.clip_grad_norm_(self._trained, 0.1)
        self.mark("clip>")
        self._optimizer.step()
        self.mark("optimizer>")


def measure(check: Check, section: str, label: str, step: Step) -> None:
    """The time of a step, the host's part of it, and its memory."""
    for _ in range(1 if check.tiny else 3):
        step()
    check.meter.wait()
    walls, launches = [], []
    for _ in range(1 if check.tiny else 6):
        began = time.perf_counter()
        step()
        launches.append(1e3 * (time.perf_counter() - began))
        check.meter.wait()
        walls.append(1e3 * (time.perf_counter() - began))
    medians = [round(statistics.median(values), 1) for values in (walls, launches)]
    key = f"{label}: ms/step, host ms until all is queued, peak MB"
    check.put(section, key, [*medians, check.meter.peak(step)])


def detail(check: Check, section: str, label: str, step: Step) -> None:
    """The parts of a step, its waits, its kernels."""
    marks = Marks(step.model, check.meter)
    step.mark = marks.mark
    rows = []
    for _ in range(1 if check.tiny else 3):
        marks.begin()
        step()
        rows.append(marks.times())
    parts = {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
    check.put(section, f"{label}: parts ms", parts)
    check.put(section, f"{label}: waits per step", check.meter.waits(step))
    if not check.cuda:
        return
    number, busy, top = profiled(check, step)
    check.put(section, f"{label}: kernels, busy ms", [number, busy])
    check.keep(section, f"{label}: top kernels ms", dict(top[:14]))
    check.say("   top:", ", ".join(f"{name} {ms:.1f}" for name, ms in top[:8]))


def profiled(check: Check, step: Step) -> tuple[int, float, list[tuple[str, float]]]:
    """Kernels of a step, the milliseconds that they take together, and the slowest names with theirs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        check.meter.wait()
    number, times = 0, collections.Counter()
    for event in profiler.events():
        annotation = getattr(event, "is_user_annotation", False) or event.name.startswith("Optimizer.")
        if str(event.device_type).endswith("CUDA") and not annotation:
            number += 1
            times[re.sub(r"<.*", "", event.name)[:60]] += event.device_time_total / 1e3
    return number, round(times.total(), 1), [(name, round(ms, 2)) for name, ms in times.most_common()]


def section_variants(check: Check) -> None:
    """What each choice of `crossstage.engine.acceleration` is worth, those of a run on a GPU first."""
    bf16, fused = torch.bfloat16, True if check.cuda else None
    usual = partial(variant, check, change=last, dtype=bf16, fused=fused)
    usual("dino, as a run with amp")
    variant(check, "dino, float32 without TF32", first, dtype=torch.float32, tf32=False)
    usual("dino, as a run with amp and train.compile", change=compiled, needs=COMPILATION)
    variant(check, "dino, as a run: float32, TF32, channels_last, fused AdamW", last, dtype=torch.float32, fused=fused)
    usual("dino, as a run with amp, without cuDNN's measurement", benchmark=False)
    usual("dino, as a run with amp, timm's frozen norms", change=norms_of_torchvision)
    usual("dino, as a run with amp, AdamW not fused", fused=None)
    usual("dino, as a run with amp, channels first", change=first)
    mixer = partial(usual, name="stage_interactor")
    mixer("stage_interactor, as a run with amp")
    mixer("stage_interactor, as a run with amp and train.compile", change=compiled, needs=COMPILATION)


def variant(
    check: Check,
    label: str,
    change: Callable[[nn.Module, Check], None],
    *,
    dtype: torch.dtype,
    name: str = "dino",
    fused: bool | None = None,
    tf32: bool = True,
    benchmark: bool = True,
    needs: float = 4,
) -> None:
    """Measure a step of a model after a change of it, if there are `needs` seconds."""
    if change is compiled and not (check.cuda or check.args.compile):
        return check.put("variants", label, "left out: inductor is measured on a GPU alone (or with --compile)")
    if check.left() < needs:
        return check.put("variants", label, f"left out: {check.left():.0f} s left, {needs:.0f} needed")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark
    try:
        with kernels.sampling_by_kernels(kernels.can_run(check)):
            model = build_model(check, name)
            change(model, check)
            step = Step(model, batch_of(check), dtype, fused=fused)
            measure(check, "variants", label, step)
            if check.cuda:
                check.put("variants", f"{label}: kernels, busy ms", list(profiled(check, step)[:2]))
    except Exception as error:
        check.put_error("variants", label, error)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return free(check)


def first(model: nn.Module, check: Check) -> None:
    """The channels come first, as they are built."""


def last(model: nn.Module, check: Check) -> None:
    """The backbone with its channels last in memory."""
    train = OmegaConf.create({"train": {**get_config("common/train.py").train, "channels_last": True}})
    place(model, train, check.device)


def norms_of_torchvision(model: nn.Module, check: Check) -> None:
    """Frozen norms as timm has them: several kernels each, and float32 even under autocast."""
    last(model, check)
    for module in model.backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.forward = types.MethodType(FrozenBatchNorm2d.forward, module)


def compiled(model: nn.Module, check: Check) -> None:
    """The backbone and the layers of encoder and decoder compiled, as train.compile does."""
    last(model, check)
    compile_layers(model, "inductor")


def free(check: Check) -> None:
    """Give the memory of the last model back."""
    gc.collect()
    if check.cuda:
        torch.cuda.empty_cache()
