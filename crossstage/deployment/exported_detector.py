"""A detector as one function of tensors: uint8 pixels in, boxes, scores and labels out.

An exported graph has no padding masks: all images of a batch have one size, and all of their pixels are image. The
number of detections is fixed, so boxes that clipping makes empty stay in the list; whoever reads the file drops them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossstage.errors import InputError
from crossstage.modeling.detector import Detector, group_named
from crossstage.modeling.postprocess import TopK
from crossstage.structures import ImageBatch


class ExportedDetector(nn.Module):
    """The detector in evaluation mode, with normalisation, top-k and clipping inside.

    Args:
        detector: a detector whose graph does not depend on the image.
        any_size: whether the graph is to take images of more than one size.

    Attributes:
        multiples: the numbers of which height and width must be multiples; (1, 1) except for a Swin of any size.

    Raises:
        InputError: if the detector has a part that cannot be exported; names its key in the config.
    """

    def __init__(self, detector: nn.Module, *, any_size: bool = False) -> None:
        super().__init__()
        self.detector, self.chosen = exportable(detector)
        self.multiples = whole_windows(self.detector.backbone) if any_size else (1, 1)
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect objects.

        Args:
            pixels: uint8 [B, 3, H, W], RGB, of images that all have the size H x W.

        Returns:
            boxes_xyxy [B, D, 4], absolute corners in pixels of the input; scores [B, D]; labels int64 [B, D]. Best
            first; D = model.postprocess.num_select, or the number of (query, class) pairs if that is smaller.

        Raises:
            RuntimeError: if height or width is not a multiple of `multiples`.
        """
        if self.multiples != (1, 1):
            pixels = in_multiples(pixels, *self.multiples)
        mask = torch.zeros_like(pixels[:, 0], dtype=torch.bool)
        # The sizes are those of the pixels; as Python numbers they would fix the size of the batch.
        _, groups = self.detector.predict(ImageBatch(pixels, mask, sizes=(), original_sizes=()))
        scores, labels, boxes_xyxy = self.chosen.best(group_named("matching", groups).outputs)
        height, width = pixels.shape[-2:]
        extent = torch.stack([boxes_xyxy.new_full((), side) for side in (width, height, width, height)])
        boxes_xyxy = boxes_xyxy * extent
        if self.chosen.clip:
            boxes_xyxy = torch.minimum(boxes_xyxy.clamp(min=0), extent)
        return boxes_xyxy, scores, labels


def whole_windows(backbone: Any) -> tuple[int, int]:
    """The numbers of rows and columns of pixels in whose multiples every map of a Swin consists of whole windows.

    (1, 1) for a backbone without windows. A Swin pads other maps inside its blocks; torch.export can record that for
    one size, but for any size it simplifies the formulas of the padded sizes for longer than anybody waits.
    """
    windows = [part.window_size for part in backbone.modules() if isinstance(getattr(part, "window_size", None), tuple)]
    if not windows:
        return 1, 1
    stride = max(backbone.strides)
    return stride * max(rows for rows, _ in windows), stride * max(columns for _, columns in windows)


def in_multiples(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """The same pixels [B, 3, H, W], whose sizes a graph then knows as multiples of `rows` and `columns`.

    The reshape is what fails in a runtime that is given another size. Raises RuntimeError in torch.
    """
    batch, channels, height, width = pixels.shape
    for side, multiple in ((height, rows), (width, columns)):
        torch._check(side % multiple == 0, lambda: f"height and width must be multiples of {rows} and {columns}")
    blocks = pixels.reshape(batch, channels, height // rows, rows, width // columns, columns)
    return blocks.reshape(pixels.shape)[:, :, : height // rows * rows, : width // columns * columns]


def rounded_up(size: tuple[int, int], multiples: tuple[int, int]) -> tuple[int, int]:
    """The smallest (height, width) of these multiples that is not below `size` on either side."""
    height, width = (-(-side // multiple) * multiple for side, multiple in zip(size, multiples, strict=True))
    return height, width


def exportable(detector: nn.Module) -> tuple[Detector, TopK]:
    """The same detector and its top-k. Raises InputError for a part that cannot be exported; names its key."""
    if not isinstance(detector, Detector):
        raise InputError(
            f"model: is a {type(detector).__name__}, and export knows crossstage.modeling.detector.Detector alone"
        )
    postprocess = detector.postprocess
    if not isinstance(postprocess, TopK):
        raise InputError(f"model.postprocess: is a {type(postprocess).__name__}, and export knows TopK alone")
    if postprocess.nms_threshold is not None:
        raise InputError(
            f"model.postprocess.nms_threshold={postprocess.nms_threshold}: the number of boxes that suppression keeps "
            "depends on the image; export with model.postprocess.nms_threshold=null, and suppress after the file"
        )
    tolerance = getattr(getattr(detector.decoder, "solver", None), "tolerance", None)
    if tolerance is not None:
        raise InputError(
            f"model.decoder.solver.tolerance={tolerance}: an exported graph takes the same number of steps for every "
            "image; export with model.decoder.solver.tolerance=null, which takes all model.decoder.eval_steps steps"
        )
    return detector, postprocess
