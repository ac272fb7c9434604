"""From the last stage's predictions to detections in the original image."""

import torch
from torch import Tensor, nn

from crossstage.layers.boxes import box_iou, cxcywh_to_xyxy
from crossstage.structures import Detections, ImageBatch, StageOutputs


def best_pairs(logits: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best (query, class) pairs of each image: no suppression, no threshold.

    logits: [B, N, K], boxes: [B, N, 4]. Returns scores [B, D], labels int64 [B, D] and boxes_xyxy [B, D, 4]
    (normalised), best first; D = min(count, N * K).
    """
    classes = logits.shape[-1]
    scores, index = logits.sigmoid().flatten(1).topk(min(count, logits[0].numel()), dim=1)
    chosen = boxes.gather(1, (index // classes)[..., None].expand(-1, -1, 4))
    return scores, index % classes, cxcywh_to_xyxy(chosen)


def suppress(boxes_xyxy: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression within each class: bool [D], what is kept of boxes [D, 4], best first.

    A box goes if a kept better one of its class overlaps it by more than `threshold`. Each round settles at least one
    more box, and usually a few rounds settle all. (torchvision's compiled one is not there on every CPU build.)
    """
    overlap = box_iou(boxes_xyxy[:, None], boxes_xyxy[None], eps=1e-12)
    beats = ((overlap > threshold) & (labels[:, None] == labels)).triu(1)
    kept, settled = torch.ones_like(labels, dtype=torch.bool), None
    while settled is None or not kept.equal(settled):
        settled, kept = kept, ~(beats & kept[:, None]).any(dim=0)
    return kept


class TopK(nn.Module):
    """Deformable-DETR's post-processing: the `num_select` best of all queries and classes of the last stage.

    clip: cut boxes to the image and drop those that become empty; AdaMixer leaves them as they are.
    nms_threshold: IoU beyond which a better box of the same class suppresses another; None for no suppression.
    """

    def __init__(self, num_select: int = 300, *, clip: bool = True, nms_threshold: float | None = None) -> None:
        super().__init__()
        self.num_select, self.clip, self.nms_threshold = num_select, clip, nms_threshold

    def forward(self, outputs: StageOutputs, batch: ImageBatch) -> list[Detections]:
        """Detections in pixels of each original image, best first."""
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
