"""Criteria that call themselves as detrex's SetCriterion does, for tests without detrex. None of its code is here."""

from typing import Any

import torch
from torch import Tensor, nn

from crossstage.layers.focal import sigmoid_focal_loss
from csla import CrossStageLabels
from csla.detrex import CrossStageCriterion

STAGES, QUERIES, CLASSES = 3, 4, 3


def stage(*order: int) -> dict[str, Tensor]:
    """One image; the queries in the order in which the matcher takes them. All boxes lie on the objects'."""
    logits = torch.full((1, QUERIES, CLASSES), -3.0)
    for rank, query in enumerate(order):
        logits[0, query, 0] = 5.0 - rank
    boxes = torch.tensor([0.5, 0.5, 0.4, 0.4]).repeat(1, QUERIES, 1)
    return {"pred_logits": logits.requires_grad_(), "pred_boxes": boxes}


def scene() -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Three stages that match one object of class 2 with the queries 0, 1 and 2."""
    outputs = stage(2) | {"aux_outputs": [stage(0), stage(1)]}
    return outputs, [{"labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}]


def adapted(criterion: nn.Module, **options: Any) -> CrossStageCriterion:
    """The adapter with these options of the label rule; `groups` and `num_stages` are the adapter's."""
    own = {name: options.pop(name) for name in ("groups", "num_stages", "box_matches") if name in options}
    return CrossStageCriterion(criterion, labels=CrossStageLabels(**options), **own)


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
    """What csla.detrex relies on, and no more: `loss_labels`, `loss_boxes`, `losses`, the focal parameters."""

    alpha, gamma, num_classes = 0.25, 2.0, CLASSES

    def __init__(
        self,
        matcher: nn.Module | None = None,
        losses: tuple[str, ...] = ("class", "boxes"),
        loss_class_type: str = "focal_loss",
    ) -> None:
        super().__init__()
        self.loss_class_type = loss_class_type
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

    def assign(self, outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
        return self.matcher(outputs, targets)

    def forward(self, outputs: dict[str, Any], targets: list[dict[str, Tensor]], dn: Any = None) -> dict[str, Tensor]:
        stages = {"": outputs} | {f"_{i}": stage for i, stage in enumerate(outputs.get("aux_outputs", []))}
        losses = {}
        known = [(torch.arange(len(t["labels"])),) * 2 for t in targets]
        for suffix, stage in stages.items():
            indices = self.assign({k: v for k, v in stage.items() if k != "aux_outputs"}, targets)
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


class OneToMany(StandIn):
    """Assigns two queries to each object, without its matcher, as DETA does."""

    def assign(self, outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
        found = []
        for logits, target in zip(outputs["pred_logits"], targets, strict=True):
            objects = torch.arange(len(target["labels"])).repeat(2)
            found.append((logits[:, 0].topk(len(objects)).indices, objects))
        return found


class KeepsTheFirstMatch(StandIn):
    """Changes the matches before its losses: the first one of each image stays."""

    def assign(self, outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
        return [(queries[:1], objects[:1]) for queries, objects in self.matcher(outputs, targets)]


class ChangesTargets(StandIn):
    """Sets all labels to 0 after its losses, as DINO's `two_stage_binary_cls` does."""

    def forward(self, outputs: dict[str, Any], targets: list[dict[str, Tensor]], dn: Any = None) -> dict[str, Tensor]:
        losses = super().forward(outputs, targets, dn)
        for target in targets:
            target["labels"] = torch.zeros_like(target["labels"])
        return losses


class WeighsItsLosses(StandIn):
    """Calculates with its class loss, of which the value comes later."""

    def get_loss(self, loss: str, *arguments: Any) -> dict[str, Tensor]:
        return {name: 2.0 * value for name, value in super().get_loss(loss, *arguments).items()}


class DropsALoss(StandIn):
    """Does not return the class loss of the first stage."""

    def forward(self, *arguments: Any) -> dict[str, Tensor]:
        losses = super().forward(*arguments)
        del losses["loss_class_0"]
        return losses


class OfItsOwnFamily(nn.Module):
    """The form of a SetCriterion with the focal loss, without deriving from it, as Group-DETR's."""

    alpha, gamma, num_classes, losses = 0.25, 2.0, CLASSES, ("class", "boxes")
    loss_labels, loss_boxes, get_loss = StandIn.loss_labels, StandIn.loss_boxes, StandIn.get_loss
    assign, forward = StandIn.assign, StandIn.forward

    def __init__(self) -> None:
        super().__init__()
        self.matcher, self.own_class_losses = Matcher(), []


class OfAnotherFamily(OfItsOwnFamily):
    """The same form, with a class loss that is not the focal loss."""

    def loss_labels(self, *arguments: Any) -> dict[str, Tensor]:
        return {"loss_class": 1.5 * StandIn.loss_labels(self, *arguments)["loss_class"]}
