"""Sections correct, tiles, msda and compiled: deformable sampling in several forms."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu import kernels
from benchmarks.gpu.forms import bag_form, deformops_form, gather_form, gradients, grid_form
from benchmarks.gpu.record import Check
from benchmarks.gpu.reference_op import OP
from benchmarks.gpu.scenes import Scene, coco_shapes, decoder_queries, levels_of, sampling_scene

Form = Callable[..., Tensor]

BAG, TRITON, REFERENCE = "bag", "triton (ours)", "CUDA op (reference)"
ODD_SHAPES = ((7, 5), (4, 3), (1, 2), (1, 1))
DTYPES = (torch.float32, torch.bfloat16)


def section_correct(check: Check) -> None:
    """Triton against float64 (the plain form), on odd shapes and at full size; NaN and far locations."""
    if not kernels.can_run(check):
        return check.put("correct", "triton", "not here")
    queries = 20 if check.tiny else 1100
    cases = {
        "odd shapes": sampling_scene(check, 37, shapes=ODD_SHAPES),
        "decoder": sampling_scene(check, queries),
        "encoder": sampling_scene(check, None, batch=1),
    }
    for name, scene in cases.items():
        shapes, locations = coco_shapes(check), scene.locations
        if name == "odd shapes":
            shapes, locations = ODD_SHAPES, locations * 1.6 - 0.3
            for query, far in enumerate((float("nan"), float("inf"), 1e30, -1e9)):
                locations[0, query] = far
        up = torch.randn(*locations.shape[:2], scene.values.shape[2] * scene.values.shape[3], device=check.device)
        doubles = [tensor.double() for tensor in (locations, scene.weights, up)]
        truth = gradients(bag_form, scene.values.double(), levels_of(check, shapes, torch.float64), *doubles)
        forms = [("triton", kernels.triton_form, dtype) for dtype in DTYPES] + [("bag", bag_form, torch.float32)]
        for label, form, dtype in forms:
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                ours = gradients(form, scene.values.to(dtype), scene.levels, locations, scene.weights, up)
                errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(ours, truth, strict=True)]
                finite = all(bool(tensor.isfinite().all()) for tensor in ours)
                key = f"{name} {label} {short(dtype)} out/values/locations/weights"
                check.put("correct", key, [f"{error:.1e}" for error in errors] + [finite])
    return None


def section_tiles(check: Check) -> None:
    """Rows and warps of a Triton program, forward and backward apart."""
    if not kernels.can_run(check):
        return
    blocks = ((32, 4), (64, 4)) if check.tiny else ((4, 2), (8, 4), (16, 4), (16, 8), (32, 4), (32, 8))
    for name, queries in (("encoder", None), ("decoder", decoder_queries(check))):
        for dtype in DTYPES:
            scene, case = sampling_scene(check, queries, dtype=dtype), f"{name} {short(dtype)}"
            times = {tile: time_tile(check, scene, tile) for tile in blocks}
            best = tuple(min(times, key=lambda tile, way=way, times=times: times[tile][way]) for way in (0, 1))
            kernels.BEST[name, dtype] = best
            shown = [best[0], round(times[best[0]][0], 4), best[1], round(times[best[1]][1], 4)]
            check.put("tiles", f"{case} best forward, backward", shown)
            every = {str(tile): [round(value, 4) for value in both] for tile, both in times.items()}
            check.keep("tiles", f"{case} all", every)
            form = partial(kernels.triton_form, tiles=best)
            _, locations, weights = scene.leaves
            fixed = Scene(scene.values.detach(), scene.levels, locations, weights)
            call = partial(forward_and_backward, form, fixed, [locations, weights])
            key = f"{case} forward + backward without grad of values (no atomics)"
            check.put("tiles", key, round(check.meter.clock(call, rounds=10, most=0.5), 4))
    kernels.use_tiles(*kernels.BEST["encoder", torch.float32])
    if check.tiny:  # what was measured says nothing
        kernels.BEST.clear()
        kernels.set_up(check)


def time_tile(check: Check, scene: Scene, tile: kernels.Tile) -> tuple[float, float]:
    """Milliseconds of the forward and of the backward pass with a tile."""
    form, leaves = partial(kernels.triton_form, tiles=(tile, tile)), scene.leaves
    out = call(form, scene)
    up = torch.randn_like(out)
    forward = check.meter.clock(partial(without_gradients, form, scene), rounds=15, warm=3, most=0.2)
    backward = partial(torch.autograd.grad, out, leaves, up, retain_graph=True)
    return forward, check.meter.clock(backward, rounds=15, warm=3, most=0.3)


def section_msda(check: Check) -> None:
    """Every form: forward alone, forward + backward, peak memory; ratios to the project's path."""
    forms = forms_here(check)
    for name, queries in (("encoder", None), ("decoder", decoder_queries(check))):
        for dtype in DTYPES:
            scene, base = sampling_scene(check, queries, dtype=dtype), None
            for label, form in forms.items():
                if label == TRITON and (name, dtype) in kernels.BEST:
                    kernels.use_tiles(*kernels.BEST[name, dtype])
                try:
                    base = measure_form(check, f"{name} {short(dtype)} {label}", form, scene, base)
                except Exception as error:
                    check.put_error("msda", f"{name} {dtype} {label}", error)
    scene = sampling_scene(check, None)
    call_both = partial(forward_and_backward, bag_form, scene, scene.leaves)
    check.put("msda", "bag f+b: waits for the device", check.meter.waits(call_both))
    for spread in ("init", "uniform"):
        scene = sampling_scene(check, None, spread=spread)
        for label in (label for label in (BAG, REFERENCE, TRITON) if label in forms):
            both = partial(forward_and_backward, forms[label], scene, scene.leaves)
            check.put("msda", f"encoder float32 {spread} {label}: f+b ms", round(check.meter.clock(both, rounds=15), 3))


def forms_here(check: Check) -> dict[str, Form]:
    """The forms that can run here; the project's is the first."""
    forms: dict[str, Form] = {BAG: bag_form, "grid_sample": grid_form}
    if OP.is_ready(patience=90):
        forms[REFERENCE] = OP.form
    check.put("msda", "reference CUDA op", OP.says)
    if kernels.can_run(check):
        forms[TRITON] = kernels.triton_form
    if importlib.util.find_spec("deformops"):
        forms["deformops"] = deformops_form
    else:
        check.put("msda", "deformops", "not here")
    return forms


def measure_form(
    check: Check, case: str, form: Form, scene: Scene, base: tuple[float, float] | None
) -> tuple[float, float]:
    """Measure a form; `base`: the times of the project's path, None for itself. Returns the base for the next."""
    clock = check.meter.clock
    forward = partial(without_gradients, form, scene)
    both = partial(forward_and_backward, form, scene, scene.leaves)
    times = (clock(forward), clock(both))
    cold = (clock(forward, cold=True, rounds=15), clock(both, cold=True, rounds=15))
    base = base or times
    host = (check.meter.host(forward), check.meter.host(both))
    shown = [round(value, 3) for value in (*times, *cold, *host)]
    check.put("msda", f"{case}: fwd, f+b, cold fwd, cold f+b, host fwd, host f+b ms", shown)
    ratios = [round(theirs / ours, 2) for theirs, ours in zip(base, times, strict=True)]
    check.put("msda", f"{case}: x bag fwd, f+b; peak MB f+b", [*ratios, check.meter.peak(both)])
    return base


def section_compiled(check: Check) -> None:
    """What inductor makes of grid_sample and of plain indexing; each is compiled once."""
    if not (check.cuda or check.args.compile):
        return check.put("compiled", "left out", "inductor is measured on a GPU alone (or with --compile)")
    for name, queries, forms in (
        ("encoder", None, (grid_form, gather_form)),
        ("decoder", decoder_queries(check), (gather_form,)),
    ):
        scene = sampling_scene(check, queries)
        for form in forms:
            if check.left() < 10:
                return check.put("compiled", f"{name} {form.__name__}", f"left out: {check.left():.0f} s left")
            began = time.monotonic()
            fast = torch.compile(form, dynamic=False, fullgraph=True)
            both = partial(forward_and_backward, fast, scene, scene.leaves)
            try:
                both()
                check.meter.wait()
                built = round(time.monotonic() - began, 1)
                forward = partial(without_gradients, fast, scene)
                times = [round(check.meter.clock(function), 3) for function in (forward, both)]
                key = f"{name} float32 {form.__name__}: fwd, f+b ms; peak MB; compilation s"
                check.put("compiled", key, [*times, check.meter.peak(both), built])
            except Exception as error:
                check.put_error("compiled", f"{name} {form.__name__}", error)
    return None


def call(form: Form, scene: Scene) -> Tensor:
    """The form on the scene."""
    return form(scene.values, scene.levels, locations=scene.locations, weights=scene.weights)


def without_gradients(form: Form, scene: Scene) -> None:
    """The forward pass alone."""
    with torch.no_grad():
        call(form, scene)


def forward_and_backward(form: Form, scene: Scene, leaves: list[Tensor]) -> None:
    """Both passes, with gradients of the leaves."""
    out = call(form, scene)
    torch.autograd.grad(out, leaves, torch.ones_like(out))


def short(dtype: torch.dtype) -> str:
    """`float32`."""
    return str(dtype).removeprefix("torch.")
