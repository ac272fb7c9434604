"""From the last stage's predictions to detections in the original image."""

import torch
from torch import Tensor, nn

from detrkit.layers.boxes import cxcywh_to_xyxy
from detrkit.structures import Detections, ImageBatch, StageOutputs


def best_pairs(logits: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best (query, class) pairs of each image: no suppression, no threshold.

    logits: [B, N, K], boxes: [B, N, 4]. Returns scores [B, D], labels int64 [B, D] and boxes_xyxy [B, D, 4]
    (normalised), best first; D = min(count, N * K).
    """
    classes = logits.shape[-1]
    scores, index = logits.sigmoid().flatten(1).topk(min(count, logits[0].numel()), dim=1)
    chosen = boxes.gather(1, (index // classes)[..., None].expand(-1, -1, 4))
    return scores, index % classes, cxcywh_to_xyxy(chosen)


class TopK(nn.Module):
    """Deformable-DETR's post-processing: the `num_select` best of all queries and classes of the last stage."""

    def __init__(self, num_select: int = 300) -> None:
        super().__init__()
        self.num_select = num_select

    def forward(self, outputs: StageOutputs, batch: ImageBatch) -> list[Detections]:
        """Detections in pixels of each original image, clipped to it; boxes that become empty are dropped."""
        scores, labels, boxes = best_pairs(outputs.logits[-1], outputs.boxes[-1], self.num_select)
        detections = []
        for image, (height, width) in enumerate(batch.original_sizes):
            extent = boxes.new_tensor([width, height, width, height])
            absolute = torch.minimum((boxes[image] * extent).clamp(min=0), extent)
            kept = ((absolute[:, 2:] - absolute[:, :2]) > 0).all(dim=-1)
            detections.append(Detections(absolute[kept], scores[image][kept], labels[image][kept]))
        return detections
