"""The criterion: detrex's names and weights, groups that do not mix, and batches of every composition."""

from dataclasses import replace

import pytest
import torch

from crossstage.layers.multi_hot import matched_labels
from crossstage.modeling.supervision.criterion import SetCriterion
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.modeling.supervision.losses import SoftmaxClassLoss
from crossstage.modeling.supervision.matching import (
    HungarianMatcher,
    PendingMatches,
    SoftmaxClassCost,
    start_matching,
)
from crossstage.modeling.supervision.normalizers import LabelCount, ObjectCount, mean_over_ranks
from crossstage.modeling.supervision.supervision import Supervision
from crossstage.structures import Assignment, GroupOutputs, PaddedTargets, QueryGroup, StageOutputs, Target
from tests.random_scenes import objects_of, predictions
from tests.supervisions import WEIGHTS, criterion, supervision

KINDS = tuple(f"loss_{kind}" for kind in WEIGHTS)


def denoising_group(targets: PaddedTargets, repetitions: int = 2) -> QueryGroup:
    """Every object `repetitions` times, as positives."""
    objects = targets.labels.shape[1]
    order = torch.where(targets.valid, torch.arange(objects), -1)
    return QueryGroup("denoising", repetitions * objects, matches=order.repeat(1, repetitions), block=objects)


def three_groups(
    targets: PaddedTargets, *, stages: int = 3, queries: int = 7, dtype=torch.float32
) -> list[GroupOutputs]:
    """Denoising, matching and proposals, as DINO has them."""
    batch = len(targets.counts)
    noised = denoising_group(targets)
    return [
        GroupOutputs(noised, predictions(stages, batch, noised.size, dtype=dtype)),
        GroupOutputs(QueryGroup("matching", queries), predictions(stages, batch, queries, dtype=dtype)),
        GroupOutputs(QueryGroup("proposals", queries), predictions(1, batch, queries, dtype=dtype)),
    ]


def detached(predicted: GroupOutputs) -> GroupOutputs:
    outputs = predicted.outputs
    return GroupOutputs(predicted.group, StageOutputs(outputs.logits.detach().clone(), outputs.boxes.detach().clone()))


def names(*suffixes: str) -> set[str]:
    return {kind + suffix for kind in KINDS for suffix in suffixes}


def test_the_names_of_dino_are_detrexs():
    targets = PaddedTargets.of(objects_of(3, 1))
    losses = criterion()(three_groups(targets, stages=6), targets).terms
    earlier = [f"_{stage}" for stage in range(5)]
    assert set(losses) == names("", "_enc", "_dn", *earlier, *(f"_dn{suffix}" for suffix in earlier))
    assert len(losses) == 39
    assert all(loss.shape == () for loss in losses.values())


def test_a_decoder_may_name_its_stages():
    targets = PaddedTargets.of(objects_of(3, 1))
    (_, matched, _) = three_groups(targets, stages=3)
    named = GroupOutputs(matched.group, replace(matched.outputs, names=("init", "iter1", "iter6")))
    numbered, losses = (criterion()([group], targets).terms for group in (matched, named))
    assert set(losses) == names("_init", "_iter1", "")
    assert [loss.item() for loss in losses.values()] == [loss.item() for loss in numbered.values()]


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_the_number_of_stages_changes_suffixes_alone(stages):
    targets = PaddedTargets.of(objects_of(3, 1))
    groups = three_groups(targets, stages=4)
    losses = criterion()(groups, targets).terms
    fewer = [
        GroupOutputs(part.group, StageOutputs(part.outputs.logits[-stages:], part.outputs.boxes[-stages:]))
        for part in groups
    ]
    some = criterion()(fewer, targets).terms
    assert len(some) == 3 * (2 * stages + 1)
    for stage in range(stages):
        old, new = (f"_{s}" if s < last else "" for s, last in ((stage + 4 - stages, 3), (stage, stages - 1)))
        for kind in KINDS:
            torch.testing.assert_close(some[kind + new], losses[kind + old])
            torch.testing.assert_close(some[f"{kind}_dn{new}"], losses[f"{kind}_dn{old}"])


def test_each_group_has_weights_of_its_own():
    targets = PaddedTargets.of(objects_of(3, 1))
    groups = three_groups(targets)
    plain = criterion(weights=dict.fromkeys(WEIGHTS, 1.0))(groups, targets).terms
    own = {"denoising": {"weights": {**WEIGHTS, "class": 0.5}}, "proposals": {"weights": {**WEIGHTS, "giou": 0.0}}}
    for name, loss in criterion(own)(groups, targets).terms.items():
        kind, group = name.split("_")[1], (name.split("_") + [""])[2]
        factor = {("class", "dn"): 0.5, ("giou", "enc"): 0.0}.get((kind, group), WEIGHTS[kind])
        torch.testing.assert_close(loss, factor * plain[name])


def test_the_total_is_the_sum_of_the_terms():
    targets = PaddedTargets.of(objects_of(3, 1))
    losses = criterion()(three_groups(targets), targets)
    torch.testing.assert_close(losses.total, sum(losses.terms.values()))
    assert losses.metrics == {}


def test_losses_of_known_matches_are_computed_while_the_costs_travel(monkeypatch):
    targets = PaddedTargets.of(objects_of(3, 1))
    noised, matched, proposals = three_groups(targets)
    calls = []
    start, finish, losses = start_matching, PendingMatches.finish, Supervision.losses
    sends = "crossstage.modeling.supervision.criterion.start_matching"
    monkeypatch.setattr(sends, lambda requests: calls.append("send the costs") or start(requests))
    monkeypatch.setattr(PendingMatches, "finish", lambda self: calls.append("wait") or finish(self))
    monkeypatch.setattr(Supervision, "losses", lambda *given: calls.append(given[1].group.name) or losses(*given))
    terms = criterion()([matched, noised, proposals], targets).terms
    assert calls == ["send the costs", "denoising", "wait", "matching", "proposals"]
    suffixes = [name.removeprefix("loss_class") for name in terms if name.startswith("loss_class")]
    assert suffixes == ["_0", "_1", "", "_dn_0", "_dn_1", "_dn", "_enc"], "in the order of the groups"


def test_known_matches_alone_need_no_matching():
    targets = PaddedTargets.of(objects_of(3, 1))
    noised, *_ = three_groups(targets)
    (known,) = criterion().match([noised], targets)
    assert known.equal(noised.group.matches.expand(3, -1, -1))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weights": {**WEIGHTS, "bbx": 1.0}}, r"weights\.bbx: there is no such loss\. .* Did you mean bbox\?"),
        ({"weights": {**WEIGHTS, "loss_class": 1.0}}, r"weights\.loss_class: .* Did you mean class\?"),
        ({"weights": {"class": 1.0}}, "weights lack bbox, giou; 0 switches a loss off"),
        ({"names": "dn"}, "names='dn': expected a pattern with {loss}"),
    ],
)
def test_a_weight_or_name_that_means_nothing_is_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        supervision(**changes)


def test_a_group_without_supervision_is_named_with_the_nearest():
    targets = PaddedTargets.of(objects_of(3, 1))
    wrong = GroupOutputs(QueryGroup("maching", 7), predictions(2, 2, 7))
    with pytest.raises(ValueError, match=r"no supervision for the query group 'maching'\. .* Did you mean matching\?"):
        criterion()([wrong], targets)


def test_two_groups_may_not_call_their_losses_the_same():
    with pytest.raises(ValueError, match=r"groups\.b\.names='\{loss\}\{stage\}' is that of a"):
        SetCriterion(groups={"a": supervision(), "b": supervision()})


@pytest.mark.parametrize("changed", [0, 1, 2], ids=["denoising", "matching", "proposals"])
def test_groups_do_not_mix(changed):
    """transformers #48528: a main loss that also ran over the denoising queries went unnoticed for years."""
    targets = PaddedTargets.of(objects_of(3, 1))
    groups = [detached(part) for part in three_groups(targets)]
    before = criterion()(groups, targets).terms
    groups[changed].outputs.logits.neg_()
    groups[changed].outputs.boxes.mul_(0.5)
    after = criterion()(groups, targets).terms
    own = {
        0: lambda name: "_dn" in name,
        1: lambda name: "_dn" not in name and "_enc" not in name,
        2: lambda name: "_enc" in name,
    }
    for name, loss in before.items():
        assert loss.equal(after[name]) != own[changed](name), name


def test_gradients_do_not_cross_groups():
    targets = PaddedTargets.of(objects_of(3, 1))
    groups = three_groups(targets)
    losses = criterion()(groups, targets).terms
    sum(loss for name, loss in losses.items() if "_dn" not in name and "_enc" not in name).backward()
    for part in groups:
        gradients = part.outputs.logits.grad, part.outputs.boxes.grad
        used = [gradient is not None and bool(gradient.count_nonzero()) for gradient in gradients]
        assert used == [part.group.name == "matching"] * 2


def test_the_losses_of_a_hand_made_scene():
    """One object, two queries, the first one right: every number can be worked out on paper."""
    targets = PaddedTargets.of([Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.5, 0.5]]))])
    logits = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]]]])
    boxes = torch.tensor([[[[0.5, 0.5, 0.5, 0.25], [0.1, 0.1, 0.1, 0.1]]]])
    losses = criterion()([GroupOutputs(QueryGroup("matching", 2), StageOutputs(logits, boxes))], targets).terms
    log2 = 0.6931471805599453
    assert losses["loss_class"].item() == pytest.approx((0.25 + 3 * 0.75) * 0.25 * log2)
    assert losses["loss_bbox"].item() == pytest.approx(5 * 0.25)
    assert losses["loss_giou"].item() == pytest.approx(2 * 0.5, abs=1e-4)


def test_known_matches_are_divided_by_their_copies():
    targets = PaddedTargets.of(objects_of(2, 1))
    once, outputs = denoising_group(targets, 1), predictions(2, 2, 2)
    twice = denoising_group(targets, 2)
    doubled = StageOutputs(torch.cat([outputs.logits] * 2, dim=2), torch.cat([outputs.boxes] * 2, dim=2))
    first = criterion()([GroupOutputs(once, outputs)], targets).terms
    second = criterion()([GroupOutputs(twice, doubled)], targets).terms
    for name, loss in first.items():
        torch.testing.assert_close(second[name], loss)


def test_an_all_empty_batch_has_the_same_names_finite_losses_and_gradients():
    some, none = PaddedTargets.of(objects_of(3, 1)), PaddedTargets.of(objects_of(0, 0))
    groups = three_groups(none)
    losses = criterion()(groups, none).terms
    assert list(losses) == list(criterion()(three_groups(some), some).terms)
    for name, loss in losses.items():
        assert loss.isfinite()
        assert (loss == 0) == ("class" not in name or "_dn" in name), name
    sum(losses.values()).backward()
    assert groups[1].outputs.logits.grad.count_nonzero() > 0  # everything is background
    assert groups[1].outputs.boxes.grad.count_nonzero() == 0


def test_the_order_of_images_does_not_matter():
    objects = objects_of(3, 0, 5, dtype=torch.float64)
    targets, order = PaddedTargets.of(objects), [2, 0, 1]
    shuffled = PaddedTargets.of([objects[i] for i in order])
    groups = three_groups(targets, dtype=torch.float64)
    moved = [
        GroupOutputs(group, StageOutputs(part.outputs.logits[:, order], part.outputs.boxes[:, order]))
        for part, group in zip(groups, [denoising_group(shuffled), groups[1].group, groups[2].group], strict=True)
    ]
    again = criterion()(moved, shuffled).terms
    for name, loss in criterion()(groups, targets).terms.items():
        torch.testing.assert_close(again[name], loss, rtol=0, atol=1e-12)


def test_targets_and_predictions_are_not_changed():
    targets = PaddedTargets.of(objects_of(3, 1))
    groups = three_groups(targets)
    tensors = [targets.labels, targets.boxes, targets.valid, groups[0].group.matches]
    tensors += [tensor for part in groups for tensor in (part.outputs.logits, part.outputs.boxes)]
    before = [tensor.detach().clone() for tensor in tensors]
    criterion()(groups, targets).total.backward()
    assert all(old.equal(new) for old, new in zip(before, tensors, strict=True))


def pretend_two_ranks(monkeypatch, other: float) -> None:
    """torch.distributed as on one of two processes, whose sums get `other` from the second one."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(other))


@pytest.mark.parametrize(("here", "there", "divisor"), [(4, 2, 3), (4, 0, 2), (0, 6, 3), (1, 0, 1), (0, 0, 1)])
def test_the_normaliser_is_the_mean_over_ranks_at_least_one(monkeypatch, here, there, divisor):
    targets = PaddedTargets.of(objects_of(here))
    pretend_two_ranks(monkeypatch, there)
    matches = torch.full((2, 1, 3), -1)
    counts = ObjectCount()(targets, Assignment(QueryGroup("matching", 3), matches, matches))
    assert [count.item() for count in counts] == [divisor, divisor]
    assert targets.num_objects == here


def test_the_mean_over_ranks_leaves_what_it_was_given(monkeypatch):
    value = torch.tensor([2.0, 4.0])
    assert mean_over_ranks(value) is value
    pretend_two_ranks(monkeypatch, 2)
    assert mean_over_ranks(value).tolist() == [2, 3]
    assert value.tolist() == [2, 4]


def test_losses_of_two_ranks_average_to_those_of_one(monkeypatch):
    """What gradient averaging of DDP does: the mean of both ranks' losses is the loss of the whole batch."""
    objects = objects_of(5, 1, dtype=torch.float64)
    outputs = predictions(2, 2, 7, dtype=torch.float64)

    def losses(images: slice) -> dict[str, torch.Tensor]:
        part = StageOutputs(outputs.logits[:, images], outputs.boxes[:, images])
        return criterion()([GroupOutputs(QueryGroup("matching", 7), part)], PaddedTargets.of(objects[images])).terms

    whole = losses(slice(0, 2))
    pretend_two_ranks(monkeypatch, 1)
    first = losses(slice(0, 1))
    pretend_two_ranks(monkeypatch, 5)
    second = losses(slice(1, 2))
    for name, loss in whole.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, loss, rtol=0, atol=1e-12)


def test_label_count_divides_classes_by_labels_or_matches_and_boxes_by_matches():
    targets = PaddedTargets.of(objects_of(2))
    matches = torch.tensor([[[0, 1, -1]], [[0, -1, -1]], [[-1, -1, -1]]])
    labels = torch.zeros(3, 1, 3, 8, dtype=torch.bool)
    labels[0, 0, 0, :5] = True
    assignment = Assignment(QueryGroup("matching", 3), matches, matches, labels=labels)
    classes, boxes = LabelCount()(targets, assignment)
    assert classes.tolist() == [5, 1, 1]
    assert boxes.tolist() == [2, 1, 1]


def test_own_labels_are_one_hot_at_the_matched_class():
    targets = PaddedTargets.of(
        [Target(torch.tensor([3, 0]), torch.rand(2, 4)), Target(torch.tensor([2]), torch.rand(1, 4))]
    )
    matches = torch.tensor([[[1, -1, 0], [-1, 0, -1]]])
    assignment = Assignment(QueryGroup("matching", 3), matches, matches)
    labels = OwnStageLabels()(predictions(1, 2, 3, classes=4), targets, assignment).labels
    assert labels.nonzero().tolist() == [[0, 0, 0, 0], [0, 0, 2, 3], [0, 1, 1, 2]]
    classes = matched_labels(matches, targets.labels)
    assert classes[matches >= 0].tolist() == [0, 3, 2]


def test_detrs_softmax_criterion_fits_the_same_parts():
    targets = PaddedTargets.of(objects_of(3, 1, classes=7))
    softmax = criterion(class_loss=SoftmaxClassLoss(), matcher=HungarianMatcher(class_cost=SoftmaxClassCost()))
    groups = three_groups(targets)
    losses = softmax(groups, targets)
    assert len(losses.terms) == 21
    losses.total.backward()
    assert all(part.outputs.logits.grad.isfinite().all() for part in groups)


def test_autocast_does_not_reach_the_losses():
    targets = PaddedTargets.of(objects_of(3, 1))
    groups = three_groups(targets)
    exact = criterion()(groups, targets).terms
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(loss.equal(exact[name]) for name, loss in criterion()(groups, targets).terms.items())
