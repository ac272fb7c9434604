"""Turns the predictions of the last stage into detections in the original image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossstage.errors import InputError
from crossstage.layers.boxes import box_iou, cxcywh_to_xyxy
from crossstage.structures import Detections, ImageBatch, StageOutputs


def best_pairs(logits: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The (query, class) pairs with the highest scores in each image, without suppression or a threshold.

    Args:
        logits: [B, N, K].
        boxes: normalised cxcywh, [B, N, 4].
        count: number of pairs per image.

    Returns:
        Scores [B, D], labels int64 [B, D] and normalised boxes_xyxy [B, D, 4], best first; D = min(count, N * K).
    """
    classes = logits.shape[-1]
    scores, index = logits.sigmoid().flatten(1).topk(min(count, logits[0].numel()), dim=1)
    chosen = boxes.gather(1, (index // classes)[..., None].expand(-1, -1, 4))
    return scores, index % classes, cxcywh_to_xyxy(chosen)


def suppress(boxes_xyxy: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression within each class.

    A box is removed if a better box of the same class is kept and their IoU exceeds `threshold`. Each round decides
    at least one more box; usually a few rounds decide all. torchvision's compiled function is not used because not
    every CPU build contains it.

    Args:
        boxes_xyxy: [D, 4], best first.
        labels: int64 [D].
        threshold: the largest IoU that two kept boxes of one class may have.

    Returns:
        bool [D], True for the boxes to keep.
    """
    overlap = box_iou(boxes_xyxy[:, None], boxes_xyxy[None], eps=1e-12)
    beats = ((overlap > threshold) & (labels[:, None] == labels)).triu(1)
    kept, settled = torch.ones_like(labels, dtype=torch.bool), None
    while settled is None or not kept.equal(settled):
        settled, kept = kept, ~(beats & kept[:, None]).any(dim=0)
    return kept


class TopK(nn.Module):
    """Deformable-DETR's post-processing: the best (query, class) pairs of the last stage become detections.

    Args:
        num_select: number of detections per image, before boxes are dropped.
        clip: whether boxes are clipped to the image and dropped if they become empty. AdaMixer does not clip.
        nms_threshold: see `suppress`; None means no suppression.
        classes: the classes that are detected, by class index; None means all. All detections of an image are of
            these classes, also the first `num_select`. In a config they may be names, which `settle_data` replaces by
            the indices that the training set or the weights give them.

    Raises:
        InputError: for an impossible value; and when called, for a class index that the model does not have.
    """

    classes: Tensor | None

    def __init__(
        self,
        num_select: int = 300,
        *,
        clip: bool = True,
        nms_threshold: float | None = None,
        classes: Sequence[int | str] | None = None,
    ) -> None:
        super().__init__()
        if num_select < 1:
            raise InputError(f"postprocess.num_select={num_select}: expected at least 1")
        if nms_threshold is not None and not 0 <= nms_threshold <= 1:
            raise InputError(f"postprocess.nms_threshold={nms_threshold}: expected an IoU from 0 to 1, or null")
        self.num_select, self.clip, self.nms_threshold = num_select, clip, nms_threshold
        indices = None if classes is None else _class_indices(classes)
        self._largest = max(indices or [0])
        kept = None if indices is None else torch.tensor(indices)
        self.register_buffer("classes", kept, persistent=False)  # moves with the model and is no weight

    def best(self, outputs: StageOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of the last stage among the chosen classes; what `best_pairs` returns."""
        logits, classes = outputs.logits[-1], self.classes
        if self._largest >= logits.shape[-1]:
            raise InputError(
                f"postprocess.classes: the model has no class {self._largest}; expected 0 to {logits.shape[-1] - 1}"
            )
        if classes is None:
            return best_pairs(logits, outputs.boxes[-1], self.num_select)
        scores, labels, boxes = best_pairs(logits[..., classes], outputs.boxes[-1], self.num_select)
        return scores, classes[labels], boxes

    def forward(self, outputs: StageOutputs, batch: ImageBatch) -> list[Detections]:
        """Return the detections of each image, best first, in pixels of the original image."""
        scores, labels, boxes = self.best(outputs)
        detections = []
        for image, (height, width) in enumerate(batch.original_sizes):
            extent = boxes.new_tensor([width, height, width, height])
            absolute = boxes[image] * extent
            kept = torch.ones_like(labels[image], dtype=torch.bool)
            if self.clip:
                absolute = torch.minimum(absolute.clamp(min=0), extent)
                kept = ((absolute[:, 2:] - absolute[:, :2]) > 0).all(dim=-1)
            if self.nms_threshold is not None:
                kept = kept & suppress(absolute, labels[image], self.nms_threshold)
            detections.append(Detections(absolute[kept], scores[image][kept], labels[image][kept]))
        return detections


def _class_indices(classes: Sequence[int | str]) -> list[int]:
    """The same classes as a list. Raises InputError unless they are different class indices."""
    given = list(classes)
    if unresolved := [name for name in given if isinstance(name, str)]:
        raise InputError(
            f"postprocess.classes: the class names are not known, so that {', '.join(unresolved)} cannot be found; "
            "expected class indices, such as [0,2]"
        )
    if not given or len(set(given)) < len(given) or not all(isinstance(one, int) and one >= 0 for one in given):
        raise InputError(f"postprocess.classes={given}: expected at least one class index, none twice, or null")
    return [int(one) for one in given]
