"""csla.detrex takes the matches that a criterion gives to its class loss, wherever these come from."""

from typing import Any

import pytest
import torch
from detrex_stand_ins import (
    CLASSES,
    QUERIES,
    ChangesTargets,
    DropsALoss,
    KeepsTheFirstMatch,
    OfItsOwnFamily,
    OneToMany,
    StandIn,
    WeighsItsLosses,
    adapted,
)
from torch import Tensor

from crossstage.layers.boxes import box_iou, cxcywh_to_xyxy
from csla import CrossStageBoxMatches

pytestmark = pytest.mark.usefixtures("stand_in_detrex")
STAGE_ALONE = {"look_back": 0, "look_ahead": 0, "iou_threshold": 0.0}


def random_scene() -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Three stages, two images with two objects and one; queries on and beside the objects."""
    generator = torch.Generator().manual_seed(7)
    boxes = [torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.3]]), torch.tensor([[0.5, 0.5, 0.4, 0.4]])]
    targets = [{"labels": torch.arange(len(one)) + 1, "boxes": one} for one in boxes]

    def one_stage() -> dict[str, Tensor]:
        near = torch.stack([one[torch.randint(len(one), (QUERIES,), generator=generator)] for one in boxes])
        shifted = near + 0.1 * torch.rand(near.shape, generator=generator)
        return {"pred_logits": torch.randn(2, QUERIES, CLASSES, generator=generator), "pred_boxes": shifted}

    return one_stage() | {"aux_outputs": [one_stage(), one_stage()]}, targets


def losses_by_loops(criterion: Any, outputs: Any, targets: Any, *, threshold: float) -> list[float]:
    """The class losses by stage, from labels of three nested loops over the criterion's own matches."""
    stages = [*outputs["aux_outputs"], outputs]
    indices = [criterion.assign(stage, targets) for stage in stages]
    losses = []
    for i, stage in enumerate(stages):
        labels = torch.zeros(2, QUERIES, CLASSES)
        for j in range(max(0, i - 1), len(stages)):
            for image, (queries, objects) in enumerate(indices[j]):
                for query, index in zip(queries.tolist(), objects.tolist(), strict=True):
                    pair = (stage["pred_boxes"][image, query], targets[image]["boxes"][index])
                    overlap = box_iou(*(cxcywh_to_xyxy(box[None]) for box in pair)).item()
                    if overlap >= threshold:
                        labels[image, query, targets[image]["labels"][index]] = 1
        probability = stage["pred_logits"].sigmoid()
        right = torch.where(labels == 1, probability, 1 - probability)
        weight = torch.where(labels == 1, 0.25, 0.75)
        losses.append((-weight * (1 - right) ** 2 * right.log()).sum().item() / 2)
    return losses


@pytest.mark.parametrize("kind", [StandIn, OneToMany, KeepsTheFirstMatch, ChangesTargets, OfItsOwnFamily])
def test_labels_are_those_of_the_matches_that_the_criterion_used(kind):
    outputs, targets = random_scene()
    expected = losses_by_loops(kind(), outputs, targets, threshold=0.4)
    found = adapted(kind(), iou_threshold=0.4)(outputs, targets)
    assert [found[name].item() for name in ("loss_class_0", "loss_class_1", "loss_class")] == pytest.approx(expected)


@pytest.mark.parametrize("kind", [StandIn, OneToMany, KeepsTheFirstMatch, ChangesTargets, OfItsOwnFamily])
def test_the_stage_alone_is_the_wrapped_criterion(kind):
    plain, ours = kind()(*random_scene()), adapted(kind(), **STAGE_ALONE)(*random_scene())
    assert list(ours) == list(plain)
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name])


def test_a_criterion_that_calculates_with_a_loss_of_later_is_refused():
    with pytest.raises(RuntimeError, match=r"WeighsItsLosses calculates with loss_class.*weight_dict"):
        adapted(WeighsItsLosses())(*random_scene())
    with pytest.raises(RuntimeError, match="DropsALoss does not return all"):
        adapted(DropsALoss())(*random_scene())


@pytest.mark.parametrize("use", [lambda loss: torch.stack([loss]), lambda loss: torch.ones(1) * loss, float, sum])
def test_no_use_of_a_loss_of_later_is_silent(use):
    class Uses(StandIn):
        def loss_labels(self, *arguments: Any) -> dict[str, Tensor]:
            return super().loss_labels(*arguments)

        def get_loss(self, loss: str, *arguments: Any) -> dict[str, Tensor]:
            found = super().get_loss(loss, *arguments)
            if loss == "class" and self.training:
                use([found["loss_class"]] if use is sum else found["loss_class"])
            return found

    with pytest.raises(RuntimeError, match="calculates with loss_class"):
        adapted(Uses())(*random_scene())
    adapted(Uses()).eval()(*random_scene())


def test_a_query_with_two_objects_cannot_take_boxes_of_other_stages():
    class Twice(OneToMany):
        def assign(self, outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
            return [(torch.zeros(len(t["labels"]), dtype=torch.int64), torch.arange(len(t["labels"]))) for t in targets]

    adapted(Twice())(*random_scene())
    with pytest.raises(RuntimeError, match="two objects"):
        adapted(Twice(), box_matches=CrossStageBoxMatches())(*random_scene())
