"""Label rules: from matches to class targets. `csla` has the cross-stage one.

A rule takes what is known of a group and returns it with more: `rule(outputs, targets, assignment) -> assignment`.
The first rule of a supervision sets `labels`; the adjustments after it may change them, and `box_matches` too.
"""

from dataclasses import replace

import torch

from crossstage.layers.multi_hot import matched_labels, multi_hot, target_cells
from crossstage.layers.stage_overlap import own_overlap, stage_overlap
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
    whose box misses its object remains a positive. Labels of classes that no match gives stay as they are.
    """

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        """Replace the assignment's labels by numbers in (0, 1] where they are positive: [S, B, N, K]."""
        labels, matches, stages = assignment.labels, assignment.matches, assignment.label_stages
        if labels is None:
            raise ValueError("OverlapTargets changes labels: give a rule that sets them before it")
        boxes = outputs.boxes.detach()
        objects, classes, keep = targets.boxes.to(boxes.dtype), matched_labels(matches, targets.labels), matches >= 0
        if stages is None:  # the own stage alone
            overlap, classes, keep = (x[:, None] for x in (own_overlap(boxes, matches, objects), classes, keep))
        else:
            overlap, keep = stage_overlap(boxes, matches, objects), stages & keep
        cells = target_cells(classes, keep, num_classes=labels.shape[-1]).flatten()
        plain = labels.view(torch.uint8) if labels.dtype == torch.bool else labels  # bytes convert several times faster
        values = boxes.new_zeros(labels.numel() + 1)
        values[:-1] = plain.flatten()
        overlap = overlap.clamp(min=torch.finfo(boxes.dtype).tiny, max=1).flatten() * (values[cells] > 0)
        values.scatter_reduce_(0, cells, overlap, reduce="amax", include_self=False)
        return replace(assignment, labels=values[:-1].view(labels.shape))
