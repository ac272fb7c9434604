"""Criteria that call themselves as detrex's SetCriterion does, for tests without detrex. None of its code is here."""

from typing import Any

import torch
from torch import Tensor, nn

from crossstage.layers.focal import sigmoid_focal_loss


class Matcher(nn.Module):
    """Query q of a stage goes to the object that its first logit names; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, outputs: dict[str, Any], targets: list[dict[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        self.calls += 1
        found = []
        for logits, target in zip(outputs["pred_logits"], targets, strict=True):
            objects = torch.arange(len(target["labels"]))
            found.append((logits[:, 0].topk(len(objects)).indices, objects))
        return found


class StandIn(nn.Module):
    """What csla.detrex relies on, and no more: `self.matcher`, `self.loss_labels`, `losses`, the focal parameters."""

    loss_class_type, alpha, gamma = "focal_loss", 0.25, 2.0

    def __init__(self, matcher: nn.Module | None = None, losses: tuple[str, ...] = ("class", "boxes")) -> None:
        super().__init__()
        self.matcher = Matcher() if matcher is None else matcher
        self.losses, self.weight_dict = list(losses), {"loss_class": 1.0}
        self.own_class_losses: list[Tensor] = []

    def loss_labels(self, outputs: Any, targets: Any, indices: Any, num_boxes: float) -> dict[str, Tensor]:
        labels = torch.zeros_like(outputs["pred_logits"], dtype=torch.bool)
        for image, (queries, objects) in enumerate(indices):
            labels[image, queries, targets[image]["labels"][objects]] = True
        self.own_class_losses.append(outputs["pred_logits"])
        return {"loss_class": sigmoid_focal_loss(outputs["pred_logits"][None], labels[None])[0] / num_boxes}

    def loss_boxes(self, outputs: Any, targets: Any, indices: Any, num_boxes: float) -> dict[str, Tensor]:
        pairs = zip(outputs["pred_boxes"], targets, indices, strict=True)
        return {"loss_bbox": sum((boxes[q] - t["boxes"][o]).abs().sum() for boxes, t, (q, o) in pairs) / num_boxes}

    def get_loss(self, loss: str, *arguments: Any) -> dict[str, Tensor]:
        return {"class": self.loss_labels, "boxes": self.loss_boxes}[loss](*arguments)

    def forward(self, outputs: dict[str, Any], targets: list[dict[str, Tensor]], dn: Any = None) -> dict[str, Tensor]:
        stages = {"": outputs} | {f"_{i}": stage for i, stage in enumerate(outputs.get("aux_outputs", []))}
        losses = {}
        known = [(torch.arange(len(t["labels"])),) * 2 for t in targets]
        for suffix, stage in stages.items():
            indices = self.matcher({k: v for k, v in stage.items() if k != "aux_outputs"}, targets)
            for loss in self.losses:
                losses |= {k + suffix: v for k, v in self.get_loss(loss, stage, targets, indices, 2.0).items()}
        if "enc_outputs" in outputs:
            agnostic = [t | {"labels": torch.zeros_like(t["labels"])} for t in targets]
            indices = self.matcher(outputs["enc_outputs"], agnostic)
            losses["loss_class_enc"] = self.loss_labels(outputs["enc_outputs"], agnostic, indices, 2.0)["loss_class"]
        if dn:
            stage = dn["output_known_lbs_bboxes"]
            losses["loss_class_dn"] = self.loss_labels(stage, targets, known, 2.0)["loss_class"]
        return losses


class WithExtraLoss(StandIn):
    """A user's own subclass: one loss more, and a look at the matches."""

    def loss_count(self, outputs: Any, targets: Any, indices: Any, num_boxes: float) -> dict[str, Tensor]:
        return {"loss_count": torch.tensor(float(sum(len(queries) for queries, _ in indices)))}

    def get_loss(self, loss: str, *arguments: Any) -> dict[str, Tensor]:
        return self.loss_count(*arguments) if loss == "count" else super().get_loss(loss, *arguments)


class WithOwnClassLoss(StandIn):
    """A class loss that cannot be told multi-hot labels."""

    def loss_labels(self, outputs: Any, *arguments: Any) -> dict[str, Tensor]:
        return {"loss_class": outputs["pred_logits"].sum()}


class PastTheHooks(StandIn):
    """Computes its class loss by another way."""

    def get_loss(self, loss: str, *arguments: Any) -> dict[str, Tensor]:
        return StandIn.loss_labels(self, *arguments) if loss == "class" else super().get_loss(loss, *arguments)


class AsksForOtherTargets(StandIn):
    """Also matches each stage with no object at all."""

    def loss_boxes(self, outputs: Any, targets: Any, *arguments: Any) -> dict[str, Tensor]:
        none = [{name: value[:0] for name, value in target.items()} for target in targets]
        ((queries, _),) = self.matcher(outputs, none)
        return {"loss_bbox": torch.tensor(float(len(queries)))}
