"""StageInteractor against AdaMixer: cost of each part, time and memory; 3-D sampling against `grid_sample`,
and with one gradient for all stages against one for each.

Rows in M are millions of multiply-adds of a query, or of parameters, over the decoder's six stages: the closed form of
`mixing_cost.py` (baseline) against what fvcore and the modules count. The two detectors compute different things: their
rows compare time and memory alone. StageInteractor says of the whole detectors: 1.16 times the time of an image, on a
GPU, and 5 % more memory in training.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from fvcore.nn import FlopCountAnalysis

from benchmarks import mixing_cost, pyramid_sampling, stage_gradients, training_step
from benchmarks.attention import kilobytes
from benchmarks.detectors import BASELINE, OURS, QUICK_SIZES, DecoderOnPyramid, image_batch, model_node, row
from benchmarks.measure import Comparison, Setting, Target, interleaved
from benchmarks.mixing_cost import CHANNELS, EXTRAS, GENERATION, OUTPUT, POINTS, SAMPLING, STATIC, StageSizes
from benchmarks.pyramid_sampling import IMAGE, QUICK_IMAGE
from crossstage.config import instantiate
from crossstage.evaluation.cost import HANDLES

PARTS = {
    ".sampler": SAMPLING,
    ".mixing.filters": GENERATION,
    ".mixing.biases": EXTRAS,
    ".mixing.channel_shares": EXTRAS,
    ".mixing.reused_biases": EXTRAS,
    ".mixing.row_shares": EXTRAS,
    ".mixing.point_shares": EXTRAS,
    ".mixing.over_details": STATIC,
    ".mixing.over_anchors": STATIC,
    ".mixing.project": OUTPUT,
}
"""Modules of a layer, by part; the products of filters and samples are the mixing's own."""
PRODUCTS = f"{CHANNELS} and points"


def run(setting: Setting) -> list[Comparison]:
    """Cost by part, decoder time, training memory, sampling."""
    rows = []
    for name in (BASELINE, OURS):
        rows += _cost_rows(name, setting.quick)
    rows += _times(setting) + _training_memory(setting) + pyramid_sampling.compare(setting)
    return [*rows, *stage_gradients.compare(setting), *training_step.compare(setting)]


def stage_sizes(name: str, *, quick: bool) -> list[StageSizes]:
    """The same for the closed form."""
    sizes = QUICK_SIZES if quick else {}
    if name == BASELINE:
        return mixing_cost.adamixer_stages(**sizes, **({"anchors": 6, "fresh_rows": 8} if quick else {}))
    return mixing_cost.stage_interactor_stages(**sizes, **({"anchors": (3, 2), "details": 2} if quick else {}))


def counted(name: str, *, quick: bool) -> tuple[dict[str, float], dict[str, int]]:
    """Multiply-adds of a query, as fvcore counts them, and parameters, as the modules hold them, by part."""
    node = model_node(name, quick=quick)
    node.queries.source.num_queries = 2
    decoder = DecoderOnPyramid(node, QUICK_IMAGE)
    with torch.no_grad():
        analysis = FlopCountAnalysis(decoder, decoder.memory.tokens.detach())
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.set_op_handle(**HANDLES)
        operators = analysis.by_module_and_operator()
    multiply_adds = dict.fromkeys((*PARTS.values(), PRODUCTS), 0.0)
    parameters = dict.fromkeys((*PARTS.values(), PRODUCTS), 0)
    for index, layer in enumerate(decoder.decoder.layers):
        prefix = f"decoder.layers.{index}"
        multiply_adds[PRODUCTS] += operators[f"{prefix}.mixing"]["matmul"] / 2
        for suffix, part in PARTS.items():
            multiply_adds[part] += sum(operators.get(prefix + suffix, {}).values()) / 2
            names = (f"{suffix.removeprefix('.')}.",)
            parameters[part] += sum(p.numel() for key, p in layer.named_parameters() if key.startswith(names))
    return multiply_adds, parameters


def _cost_rows(name: str, quick: bool) -> list[Comparison]:
    expected = mixing_cost.decoder_cost(stage_sizes(name, quick=quick))
    multiply_adds, parameters = counted(name, quick=quick)
    closed = {part: expected[part] for part in dict.fromkeys(PARTS.values())}
    closed[PRODUCTS] = expected[CHANNELS] + expected[POINTS]
    rows = []
    for part, cost in closed.items():
        for kind, theirs, ours in (
            ("multiply-adds", cost.multiply_adds, multiply_adds[part]),
            ("parameters", cost.parameters, parameters[part]),
        ):
            if theirs or ours:
                case = f"{name}, {part}, {kind}"
                rows.append(row(case, "closed form", theirs / 1e6, ours / 1e6, unit="M", exact=True))
    stages = stage_sizes(name, quick=quick)
    own = sum(mixing_cost.stage_cost(sizes)[CHANNELS].multiply_adds / (1 + sizes.reused) for sizes in stages)
    made = sum(mixing_cost.channel_filters(sizes).multiply_adds for sizes in stages)
    case = f"{name}, {CHANNELS} with the stages' own filters, multiply-adds"
    return [*rows, row(case, "generation of these filters", made / 1e6, own / 1e6, unit="M")]


def _times(setting: Setting) -> list[Comparison]:
    """The decoders on one image, features given; the whole detectors on one image, as the papers measure them."""
    image = QUICK_IMAGE if setting.quick else IMAGE
    names = (BASELINE, OURS)
    decoders = {name: DecoderOnPyramid(model_node(name, quick=setting.quick), image) for name in names}

    def forward(decoder: DecoderOnPyramid) -> Callable[[], object]:
        return torch.no_grad()(lambda: decoder(decoder.memory.tokens))

    def both(decoder: DecoderOnPyramid) -> Callable[[], object]:
        return lambda: sum(part.sum() for part in decoder(decoder.memory.tokens)).backward()

    rows = []
    for kind, side in (("no gradients", forward), ("forward + backward", both)):
        times = interleaved({name: side(decoder) for name, decoder in decoders.items()}, setting.rounds)
        rows.append(row(f"decoder, one image, {kind}", BASELINE, times[BASELINE], times[OURS]))
    del decoders
    detectors = {name: instantiate(model_node(name, quick=setting.quick)).eval() for name in names}
    whole = {name: torch.no_grad()(partial(detector, image_batch(image))) for name, detector in detectors.items()}
    times = interleaved(whole, setting.rounds)
    target = Target(at_most=1.16)
    return [*rows, row("detector, one image, inference", BASELINE, times[BASELINE], times[OURS], target=target)]


def _training_memory(setting: Setting) -> list[Comparison]:
    """Memory of a training step of the whole detector on one image, without its parameters; in its own process."""
    if setting.quick:  # the figures mean nothing: starting processes can be spared
        peaks = [step_peak(name, True) for name in (BASELINE, OURS)]
    else:
        peaks = [_in_new_process(name) for name in (BASELINE, OURS)]
    return [row("detector, training step, extra peak memory", BASELINE, *peaks, target=Target(at_most=1.05), unit="MB")]


def _in_new_process(name: str) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(step_peak, (name, False))


def step_peak(name: str, quick: bool) -> float:
    """How far a training step raises this process's peak of resident memory, gradients included, in MB."""
    torch.set_num_threads(1)
    model = instantiate(model_node(name, quick=quick)).train()
    for image in (QUICK_IMAGE, QUICK_IMAGE if quick else IMAGE):  # what torch loads at the first call is not the step's
        model.zero_grad(set_to_none=True)
        batch = image_batch(image)
        _forget_peak()
        before = kilobytes("VmRSS")
        model(batch).total.backward()
    return max(1, kilobytes("VmHWM") - before) / 1024


def _forget_peak() -> None:
    """Give freed memory back and restart VmHWM, where Linux can, so that earlier peaks are not counted."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
