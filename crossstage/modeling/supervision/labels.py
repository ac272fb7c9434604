"""Label rules: from matches to class targets. `csla` has the cross-stage one.

A rule takes what is known of a group and returns it with more: `rule(outputs, targets, assignment) -> assignment`.
The first rule of a supervision sets `labels`; the adjustments after it may change them, and `box_matches` too.
"""

from dataclasses import replace

import torch

from crossstage.layers.multi_hot import largest_per_class, matched_labels, multi_hot
from crossstage.layers.stage_overlap import stage_overlap
from crossstage.structures import Assignment, PaddedTargets, StageOutputs


class OwnStageLabels:
    """A query is a positive of the class that it was matched with at its own stage (DETR)."""

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        """Set the assignment's labels, bool [S, B, N, K]."""
        matches = assignment.matches
        classes = matched_labels(matches, targets.labels)[:, None]
        labels = multi_hot(classes, (matches >= 0)[:, None], num_classes=outputs.logits.shape[-1])
        return replace(assignment, labels=labels, label_stages=None)


class OverlapTargets:
    """Replace the 1 of each positive by the IoU of the query's box with the object of that class.

    After `OwnStageLabels` the object is the query's own match. After `csla.CrossStageLabels` several stages may give
    the same class: the largest IoU counts. IoUs carry no gradient, and are kept above 0, so that a matched query
    whose box misses its object remains a positive.
    """

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        """Replace the assignment's labels by numbers in (0, 1] where they are positive: [S, B, N, K]."""
        if assignment.labels is None:
            raise ValueError("OverlapTargets changes labels: give a rule that sets them before it")
        boxes = outputs.boxes.detach()
        overlap = stage_overlap(boxes, assignment.matches, targets.boxes.to(boxes.dtype))
        stages = assignment.label_stages
        if stages is None:  # the own stage alone
            stages = torch.eye(len(boxes), dtype=torch.bool, device=boxes.device)[:, :, None, None]
        keep = stages & (assignment.matches >= 0)
        classes = matched_labels(assignment.matches, targets.labels)
        values = largest_per_class(overlap, classes, keep, num_classes=outputs.logits.shape[-1])
        least = torch.finfo(boxes.dtype).tiny
        labels = values.clamp_(min=least, max=1).mul_(assignment.labels > 0)
        return replace(assignment, labels=labels)
