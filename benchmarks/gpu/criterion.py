"""Section criterion: matching and losses on what a model could have given."""

from __future__ import annotations

import torch

from benchmarks.gpu.record import Check
from benchmarks.gpu.scenes import batch_of
from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.modeling.supervision.matching import Pairs
from crossstage.structures import GroupOutputs, PaddedTargets, QueryGroup, StageOutputs

CASES = {  # config: stages, queries
    "dino_r50_4scale_12ep_csla": (7, 900),
    "stage_interactor_r50_12ep": (6, 100),
}


def section_criterion(check: Check) -> None:
    """The whole criterion with its gradients, the matcher, the cost; peak memory and waits."""
    for name, sizes in CASES.items():
        for objects in (7, 20):
            measure(check, name, *((2, 9) if check.tiny else sizes), objects)


def measure(check: Check, name: str, stages: int, queries: int, objects: int) -> None:
    """Measure the criterion of a config."""
    criterion = instantiate(LazyConfig.load(find_config(name)).model.criterion).to(check.device)
    targets = PaddedTargets.of(batch_of(check, objects).targets)
    torch.manual_seed(2)
    shape = (stages, 2, queries)
    logits = torch.randn(*shape, 80, device=check.device).sub_(3).requires_grad_()
    boxes = torch.cat([torch.rand(*shape, 2) * 0.6 + 0.2, torch.rand(*shape, 2) * 0.3 + 0.05], -1)
    boxes = boxes.to(check.device).requires_grad_()
    groups = [GroupOutputs(QueryGroup("matching", queries), StageOutputs(logits, boxes))]

    def whole() -> None:
        torch.autograd.grad(criterion(groups, targets).total, (logits, boxes))

    functions = (
        whole,
        lambda: criterion.match(groups, targets),
        lambda: criterion.groups["matching"].matcher.cost(Pairs(groups[0].outputs, targets)),
    )
    case = f"{name} {stages}x2x{queries}x80, {objects} objects"
    times = [round(check.meter.clock(function, rounds=2 if check.tiny else 20), 3) for function in functions]
    check.put("criterion", f"{case}: f+b, match, cost ms; peak MB", [*times, check.meter.peak(whole)])
    check.put("criterion", f"{case}: waits", check.meter.waits(whole))
