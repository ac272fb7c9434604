"""How well each stage's boxes fit the objects that its own or another stage matched."""

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
    predicted = boxes.movedim(-1, 0).contiguous()[:, :, None]
    return iou_by_coordinate(predicted.unbind(0), _matched_objects(matches, objects)[:, None].unbind(0))


def own_overlap(boxes: Tensor, matches: Tensor, objects: Tensor) -> Tensor:
    """IoU of each box with the object that the query was matched with at the same stage: the diagonal of the above.

    Arguments as above; returns [S, B, N].
    """
    if objects.shape[1] == 0:
        return boxes.new_zeros(matches.shape)
    return iou_by_coordinate(boxes.movedim(-1, 0).contiguous().unbind(0), _matched_objects(matches, objects).unbind(0))


def _matched_objects(matches: Tensor, objects: Tensor) -> Tensor:
    """The four coordinates of each query's object, [4, S, B, N]."""
    index = matches.clamp(min=0).expand(4, -1, -1, -1)
    return objects.movedim(-1, 0)[:, None].expand(-1, len(matches), -1, -1).gather(-1, index)
