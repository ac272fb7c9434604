"""Predictions as a half-trained detector makes them: some queries near each object, the rest anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crossstage.structures import GroupOutputs, PaddedTargets, QueryGroup, StageOutputs, Target

QUERIES_NEAR_AN_OBJECT = 4


@dataclass(frozen=True)
class Scene:
    """logits: [S, B, N, K] and boxes: [S, B, N, 4], leaves that want gradients.  targets: one an image."""

    logits: Tensor
    boxes: Tensor
    targets: tuple[Target, ...]

    @property
    def groups(self) -> list[GroupOutputs]:
        """All queries as the one group of a detector without denoising."""
        group = QueryGroup(name="matching", size=self.logits.shape[2])
        return [GroupOutputs(group, StageOutputs(self.logits, self.boxes))]

    @property
    def padded(self) -> PaddedTargets:
        return PaddedTargets.of(self.targets)

    @property
    def shape(self) -> str:
        """S x B x N x K and the objects of each image."""
        counts = "+".join(str(len(target)) for target in self.targets)
        return f"{'x'.join(map(str, self.logits.shape))}, {counts} objects"

    def clear(self) -> None:
        """Drop the gradients."""
        self.logits.grad = self.boxes.grad = None


def make_scene(stages: int, queries: int, classes: int, *, counts: tuple[int, ...], seed: int = 0) -> Scene:
    """A Scene of `len(counts)` images with so many objects each; later stages are nearer to them."""
    random = torch.Generator().manual_seed(seed)
    shape = (stages, len(counts), queries)
    targets = tuple(
        Target(torch.randint(classes, (count,), generator=random), _boxes((count,), random)) for count in counts
    )
    logits = torch.randn(*shape, classes, generator=random) - 4
    boxes = _boxes(shape, random)
    jitter = torch.linspace(0.2, 0.05, stages)[:, None, None]
    for image, target in enumerate(targets):
        near = torch.randperm(queries, generator=random)[: QUERIES_NEAR_AN_OBJECT * len(target)]
        which = torch.arange(len(near)) % max(1, len(target))
        noise = torch.randn(stages, len(near), 4, generator=random) * jitter
        size = target.boxes[which, 2:].repeat(1, 2)
        boxes[:, image, near] = (target.boxes[which] + noise * size).clamp(0.01, 0.99)
        logits[:, image, near, target.labels[which]] += 4
    return Scene(logits.requires_grad_(), boxes.requires_grad_(), targets)


def _boxes(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """[*shape, 4] normalised cxcywh."""
    centre = torch.rand(*shape, 2, generator=random) * 0.6 + 0.2
    return torch.cat([centre, torch.rand(*shape, 2, generator=random) * 0.35 + 0.05], dim=-1)
