"""What the losses of a group are divided by."""

from collections.abc import Sequence

import torch
from torch import Tensor

from crossstage.modeling.stages import of_stage
from crossstage.structures import Assignment, PaddedTargets


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a tensor over the processes of a distributed run; the tensor itself elsewhere."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


class ObjectCount:
    """DETR's normaliser: the objects of the batch, at least 1, for class and box losses alike.

    A group of several blocks holds every object once per block (denoising): its objects count once per block.

    Args:
        copies: how often an object counts, a number or one per stage (the last one for all later stages); for
            one-to-many matching the number of queries per object.

    Raises:
        ValueError: for a matcher's rule, whose numbers differ from object to object.
    """

    def __init__(self, *, copies: int | Sequence[int] = 1) -> None:
        if callable(copies):
            raise ValueError(
                f"normalizer.copies is a {type(copies).__name__}: expected a number; 1 counts objects once"
            )
        self.copies = copies

    def __call__(self, targets: PaddedTargets, assignment: Assignment) -> tuple[Tensor, Tensor]:
        """Divisors of class and box losses, each [] or [S]: means over the processes."""
        copies: int | Tensor
        if isinstance(self.copies, int):
            copies = self.copies
        else:
            numbers = [of_stage(self.copies, stage) for stage in range(len(assignment.matches))]
            copies = targets.boxes.new_tensor(numbers)
        count = mean_over_ranks(targets.valid.sum().to(targets.boxes.dtype) * copies).clamp(min=1)
        count = count * assignment.group.num_blocks
        return count, count


class LabelCount:
    """StageInteractor's normaliser: labels or matched queries, whichever are more; boxes by matched queries.

    At least 1, where the released code divides an empty batch by 0.
    """

    def __call__(self, targets: PaddedTargets, assignment: Assignment) -> tuple[Tensor, Tensor]:
        """Divisors of class and box losses, two [S]: means over the processes. Copies of objects are counted."""
        assert assignment.labels is not None  # the label rules come first
        matched, regressed = ((found >= 0).flatten(1).sum(-1) for found in (assignment.matches, assignment.box_matches))
        positives = (assignment.labels > 0).flatten(1).sum(-1)
        counts = torch.stack([torch.maximum(positives, matched), regressed])
        class_count, box_count = mean_over_ranks(counts.to(targets.boxes.dtype)).clamp(min=1).unbind(0)
        return class_count, box_count
