"""From matches to class targets: DETR's rule. `csla` has the cross-stage one."""

import torch
from torch import Tensor

from crossstage.structures import PaddedTargets, StageOutputs


def matched_labels(matches: Tensor, labels: Tensor, *, background: int) -> Tensor:
    """Class of each query's object, `background` without one. int64 [S, B, N], int64 [B, T] -> int64 [S, B, N]."""
    if labels.shape[1] == 0:
        return torch.full_like(matches, background)
    classes = labels.expand(len(matches), -1, -1).gather(-1, matches.clamp(min=0))
    return classes.masked_fill(matches < 0, background)


class OwnStageLabels:
    """A query is a positive of the class that it was matched with at its own stage (DETR)."""

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, matches: Tensor) -> Tensor:
        """matches: int64 [S, B, N] -> class targets, bool [S, B, N, K]."""
        num_classes = outputs.logits.shape[-1]
        classes = matched_labels(matches, targets.labels, background=num_classes).flatten()
        cells = classes.numel() * num_classes
        # what is none is written behind the end: no index is looked for, no device is waited for
        first_cell = torch.arange(0, cells, num_classes, device=classes.device)
        index = torch.where(classes < num_classes, first_cell + classes, cells)
        positives = torch.zeros(cells + 1, dtype=torch.bool, device=classes.device).index_fill_(0, index, True)
        return positives[:-1].view(*matches.shape, num_classes)
