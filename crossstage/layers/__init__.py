"""Tensor building blocks that are independent of detectors.

- `boxes`: formats, IoU, distances and refinement of boxes
- `box_sums`: L1 distance and GIoU of matched boxes, with their gradient
- `position`: embeddings of map cells and of boxes
- `position_vector`: AdaMixer's boxes as centre, scale and shape
- `mlp`: stacks of linear layers: heads and feed-forward networks
- `attention`: dense attention
- `ops`: the operations that take most of the time
- `deformable`: multi-scale deformable attention
- `sampling`: sampling a feature pyramid at (x, y, scale)
- `deform_conv`: modulated deformable convolution
- `focal`: the sigmoid focal loss
- `stage_overlap`: IoU of each stage's boxes with the objects that any stage matched
- `multi_hot`: multi-hot class targets
"""
