"""DEQDet and RNNDet beside AdaMixer: parameters, what autograd keeps for the backward pass, inference, training steps.

All have a ResNet-50, 100 queries and 32 points, and see one image of 800 x 1088. NF counts refinements, the initial one
included, as in the paper; AdaMixer has 6. Decoder rows: queries and decoder on random features. With `recompute`, the
activations of a branch are computed again in the backward pass, one branch at a time; they are not among the bytes that
are kept.

The targets are the paper's ratios to AdaMixer in training on GPUs: 0.81 of the memory, 25.5 hours for 14. The memory of
a training step is computed: twice what is kept for one image (the paper has two images per GPU), parameters, gradients
and the two moments of AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks.detectors import BASELINE, EQUILIBRIUM, DecoderOnPyramid, image_batch, model_node
from benchmarks.detectors import row as comparison
from benchmarks.measure import Comparison, Setting, Target, interleaved, saved_bytes
from benchmarks.pyramid_sampling import IMAGE, QUICK_IMAGE
from crossstage.config import instantiate
from crossstage.structures import ImageBatch

PAPERS_MEMORY, PAPERS_TIME = Target(at_most=0.81), Target(at_most=1.82)
REFINEMENTS = (6, 8, 16, 20, 25)
CHAINS = {f"RNNDet, NF = {count}": count for count in (6, 20)}
RECOMPUTED = {f"{EQUILIBRIUM}, recompute": True, f"{EQUILIBRIUM}, no recompute": False}
IMAGES = 2
MB = 2**20

row = partial(comparison, benchmark="deqdet", baseline=BASELINE)


def run(setting: Setting) -> list[Comparison]:
    """Rows for the decoder, then for the whole detector."""
    nodes = training_nodes(quick=setting.quick)
    return [*_decoder_rows(nodes, setting), *_detector_rows(nodes, setting)]


def _decoder_rows(nodes: Mapping[str, DictConfig], setting: Setting) -> list[Comparison]:
    image = QUICK_IMAGE if setting.quick else IMAGE
    decoders = {name: DecoderOnPyramid(node, image).train() for name, node in nodes.items()}
    passes = {name: partial(_outputs, decoder) for name, decoder in decoders.items()}
    kept = {
        name: saved_bytes(forward, decoders[name].memory.tokens, *decoders[name].parameters()) / MB
        for name, forward in passes.items()
    }
    times = interleaved({name: partial(_step, forward) for name, forward in passes.items()}, setting.rounds)
    return [
        _parameters("decoder", decoders),
        *_against_baseline("decoder, kept for the backward pass", kept, unit="MB"),
        *_inference(decoders, setting),
        *_against_baseline("decoder, training step", times),
    ]


def _detector_rows(nodes: Mapping[str, DictConfig], setting: Setting) -> list[Comparison]:
    batch = image_batch(QUICK_IMAGE if setting.quick else IMAGE)
    detectors = {name: instantiate(nodes[name]).train() for name in (BASELINE, *RECOMPUTED)}
    losses = {name: partial(_loss, detector, batch) for name, detector in detectors.items()}
    times = interleaved({name: partial(_step, loss) for name, loss in losses.items()}, setting.rounds)
    kept = {name: saved_bytes(loss, *detectors[name].parameters()) / MB for name, loss in losses.items()}
    total = {name: IMAGES * kept[name] + 4 * _size(detector) for name, detector in detectors.items()}
    return [
        _parameters("detector", detectors),
        *_against_baseline("detector, kept for the backward pass", kept, unit="MB"),
        *_against_baseline("detector, memory of a training step", total, unit="MB", target=PAPERS_MEMORY),
        *_against_baseline("detector, training step", times, target=PAPERS_TIME),
    ]


def training_nodes(*, quick: bool) -> dict[str, DictConfig]:
    """The model nodes of AdaMixer, RNNDet and DEQDet, by the name of their rows."""
    nodes = {BASELINE: model_node(BASELINE, quick=quick)}
    for name, count in CHAINS.items():
        nodes[name] = model_node(EQUILIBRIUM, quick=quick)
        nodes[name].decoder.update(steps=0, supervised=[], extra_supervised=count - 1, perturbation=None)
    for name, recompute in RECOMPUTED.items():
        nodes[name] = model_node(EQUILIBRIUM, quick=quick)
        nodes[name].decoder.recompute = recompute
    return nodes


def _outputs(decoder: DecoderOnPyramid) -> Tensor:
    """A forward pass of a decoder: the sum of all that it predicts."""
    logits, boxes = decoder(decoder.memory.tokens)
    return logits.sum() + boxes.sum()


def _loss(detector: nn.Module, batch: ImageBatch) -> Tensor:
    return detector(batch).total


def _step(forward: Callable[[], Tensor]) -> None:
    forward().backward()


def _parameters(what: str, models: Mapping[str, nn.Module]) -> Comparison:
    """Of DEQDet; RNNDet has as many."""
    sides = (models[BASELINE], models[next(iter(RECOMPUTED))])
    theirs, ours = (sum(parameter.numel() for parameter in model.parameters()) / 1e6 for model in sides)
    return row(f"{what}, parameters", theirs=theirs, ours=ours, unit="M")


def _size(model: nn.Module) -> float:
    """MB of the parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / MB


def _inference(decoders: Mapping[str, DecoderOnPyramid], setting: Setting) -> list[Comparison]:
    """The same weights with other numbers of refinements; RNNDet of as many takes as long."""
    baseline, ours = decoders[BASELINE].eval(), decoders[next(iter(RECOMPUTED))].eval()

    def refined(count: int) -> None:
        ours.decoder.eval_steps = count - 1
        ours(ours.memory.tokens)

    sides: dict[str, Callable[[], object]] = {BASELINE: lambda: baseline(baseline.memory.tokens)}
    sides |= {f"NF = {count}": partial(refined, count) for count in REFINEMENTS}
    with torch.no_grad():
        return _against_baseline("decoder, inference", interleaved(sides, setting.rounds))


def _against_baseline(
    case: str, values: Mapping[str, float], *, unit: str = "ms", target: Target | None = None
) -> list[Comparison]:
    """One row for each of the others."""
    return [
        row(f"{case}: {name}", theirs=values[BASELINE], ours=value, unit=unit, target=target)
        for name, value in values.items()
        if name != BASELINE
    ]
