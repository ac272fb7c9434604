"""Turns the predictions of the last stage into detections in the original image."""

import torch
from torch import Tensor, nn

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
    """

    def __init__(self, num_select: int = 300, *, clip: bool = True, nms_threshold: float | None = None) -> None:
        super().__init__()
        self.num_select, self.clip, self.nms_threshold = num_select, clip, nms_threshold

    def forward(self, outputs: StageOutputs, batch: ImageBatch) -> list[Detections]:
        """Return the detections of each image, best first, in pixels of the original image."""
        scores, labels, boxes = best_pairs(outputs.logits[-1], outputs.boxes[-1], self.num_select)
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
