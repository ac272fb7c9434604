"""A detector of a hundred parameters with all that makes resuming exactly hard: dropout, draws, buffers, accidents."""

import os
import signal
import time

import torch
from torch import Tensor, distributed, nn

from crossstage.errors import InputError
from crossstage.structures import Detections, ImageBatch, Losses


class TinyDetector(nn.Module):
    """Predicts one box per image from its mean colour; its losses are means over images: two processes can equal one.

    noise: dropout probability, and scale of a random factor.  accident: what happens in training step `accident_at`:
    "loss" and "gradient" (become NaN), "kill" (-9), "SIGINT", "SIGTERM", "input" (InputError of process 1).
    """

    def __init__(self, num_classes: int, *, noise: float = 0.0, accident: str = "", accident_at: int = -1) -> None:
        super().__init__()
        self.num_classes, self.noise, self.accident, self.accident_at = num_classes, noise, accident, accident_at
        self.backbone = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.ReLU())
        self.dropout = nn.Dropout(noise)
        self.class_head = nn.Linear(8, num_classes)
        self.box_head = nn.Linear(8, 4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer(
            "brightness", torch.zeros(())
        )  # of the last batch of this process; replaced, not changed in place
        self.has_compared = False

    def forward(self, batch: ImageBatch) -> dict[str, Tensor] | list[Detections]:
        inside = ~batch.mask[:, None]
        colours = (batch.pixels / 255 * inside).sum((2, 3)) / inside.sum((2, 3))
        self.brightness = colours.mean() if self.training else self.same_everywhere(self.brightness)
        features = self.dropout(self.backbone(colours))
        logits, boxes = self.class_head(features), self.box_head(features).sigmoid()
        if self.training:
            return self.losses(logits, boxes, batch)
        return [self.detection(*prediction) for prediction in zip(logits, boxes, batch.original_sizes, strict=True)]

    def same_everywhere(self, buffer: Tensor) -> Tensor:
        """Fail, in the first evaluation, if the processes hold different values."""
        if distributed.is_initialized() and not self.has_compared:
            values = [None] * distributed.get_world_size()
            distributed.all_gather_object(values, buffer.item())
            assert len(set(values)) == 1, f"processes evaluate with different buffers: {values}"
            self.has_compared = True
        return buffer

    def losses(self, logits: Tensor, boxes: Tensor, batch: ImageBatch) -> Losses:
        counts = [torch.bincount(target.labels, minlength=self.num_classes) for target in batch.targets]
        wanted = torch.stack(counts).clamp(max=1).to(logits)
        middles = torch.stack([t.boxes.mean(0) if len(t) else t.boxes.new_full((4,), 0.5) for t in batch.targets])
        loss_class = nn.functional.binary_cross_entropy_with_logits(logits.float(), wanted)
        loss_bbox = (boxes.float() - middles).abs().mean()
        if self.noise:
            loss_bbox = loss_bbox * (1 + self.noise * torch.rand(()).to(loss_bbox))
        if self.accident and self.steps == self.accident_at:
            loss_class = self.have_accident(loss_class)
        self.steps += 1
        return Losses.of({"loss_class": loss_class, "loss_bbox": loss_bbox}, {"objects": wanted.sum()})

    def have_accident(self, loss: Tensor) -> Tensor:
        if self.accident in ("kill", "SIGINT", "SIGTERM"):
            os.kill(os.getpid(), {"kill": signal.SIGKILL}.get(self.accident) or signal.Signals[self.accident])
            time.sleep(0.05)
        if self.accident == "input" and distributed.get_rank() == 1:
            raise InputError("000000000017.jpg: truncated; copy it again")
        if self.accident == "gradient":
            self.class_head.weight.register_hook(lambda gradient: gradient * float("nan"))
        return loss * (float("nan") if self.accident == "loss" else 1)

    def detection(self, logits: Tensor, box: Tensor, size: tuple[int, int]) -> Detections:
        height, width = size
        x, y, w, h = box.unbind(-1)
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * box.new_tensor([width, height] * 2)
        scores, labels = logits.sigmoid().sort(descending=True)
        return Detections(boxes_xyxy=corners.expand(len(labels), 4), scores=scores, labels=labels)
