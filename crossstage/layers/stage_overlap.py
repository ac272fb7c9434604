"""How well each stage's boxes fit the objects that any stage matched: what labels across stages are made from."""

from torch import Tensor

from crossstage.layers.boxes import iou_by_coordinate


def stage_overlap(boxes: Tensor, matches: Tensor, objects: Tensor) -> Tensor:
    """IoU of the box that stage i predicts with the object that the same query was matched with at stage j.

    Args:
        boxes: [S, B, N, 4] as predicted, normalised cxcywh.
        matches: int64 [S, B, N], each query's object in its image, or -1.
        objects: [B, T, 4], normalised cxcywh, padded to T.

    Returns:
        [S (i), S (j), B, N]; of no meaning where stage j matched the query with nothing.
    """
    if objects.shape[1] == 0:
        return boxes.new_zeros(len(boxes), *matches.shape)
    index = matches.clamp(min=0).expand(4, -1, -1, -1)
    matched = objects.movedim(-1, 0)[:, None].expand(-1, len(matches), -1, -1).gather(-1, index)  # [4, S, B, N]
    predicted = boxes.movedim(-1, 0).contiguous()[:, :, None]
    return iou_by_coordinate(predicted.unbind(0), matched[:, None].unbind(0))
