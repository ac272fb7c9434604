"""Quality-aware assignment: how many queries an object gets, and that the rest of matching stays what it was."""

from dataclasses import replace

import pytest
import torch
from crossstage.projects.paq_detr.modeling.quality import QualityCopies, copies_of, quality_scores
from torch import Tensor

from crossstage.errors import NonFiniteError
from crossstage.layers.boxes import box_iou, cxcywh_to_xyxy
from crossstage.modeling.supervision.labels import OverlapTargets
from crossstage.modeling.supervision.losses import VarifocalClassLoss
from crossstage.modeling.supervision.matching import HungarianMatcher, Pairs
from crossstage.structures import GroupOutputs, PaddedTargets, QueryGroup, StageOutputs
from tests.random_scenes import objects_of, predictions
from tests.supervisions import criterion

STAGES, QUERIES = 4, 40


def scene(*counts: int, queries: int = QUERIES) -> tuple[StageOutputs, PaddedTargets]:
    """Objects, and predictions of which every second one lies near an object."""
    targets = PaddedTargets.of(objects_of(*counts, dtype=torch.float64))
    outputs = predictions(STAGES, len(counts), queries, dtype=torch.float64)
    boxes = outputs.boxes.detach().clone()
    for image, count in enumerate(counts):
        if count:
            near = targets.boxes[image, torch.arange(0, queries, 2) % count]
            boxes[:, image, ::2] = (near + 0.02 * torch.randn(STAGES, *near.shape)).clamp(0.01, 0.99)
    return StageOutputs((outputs.logits.detach() - 2).requires_grad_(), boxes.requires_grad_()), targets


def matched_times(matches: Tensor, objects: int) -> Tensor:
    """How often each object was matched, [S, B, T]."""
    return (matches[..., None, :] == torch.arange(objects)[:, None]).sum(-1)


def test_the_quality_is_the_overlap_less_a_share_of_the_confidence():
    outputs, targets = scene(3, 2)
    scores = quality_scores(Pairs(outputs, targets), gamma=0.3)
    assert not scores.requires_grad
    for stage, image, t, n in ((0, 0, 2, 4), (2, 1, 1, 7), (3, 1, 0, 0)):
        box, logits = outputs.boxes[stage, image, n], outputs.logits[stage, image, n]
        overlap = box_iou(cxcywh_to_xyxy(box), cxcywh_to_xyxy(targets.boxes[image, t]), eps=0.0)
        expected = overlap - 0.3 * logits[targets.labels[image, t]].sigmoid()
        torch.testing.assert_close(scores[stage, image, t, n], expected.detach(), rtol=0, atol=1e-12)


def test_scores_are_at_least_float32():
    outputs, targets = scene(3)
    half = StageOutputs(outputs.logits.detach().half(), outputs.boxes.detach().half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quality_scores(Pairs(half, targets.to(dtype=torch.float16))).dtype == torch.float32


@pytest.mark.parametrize(
    ("scores", "options", "count"),
    [
        ([0.195] * 4, {}, 1),
        ([0.295] * 4, {}, 2),  # IoU .3 without confidence: so it is almost from the start
        ([0.54, 0.66, 0.66, 0.66], {}, 3),  # one of IoU .9 and confidence .9, three of .7 and .1
        ([0.54] * 4, {}, 3),
        ([0.93] * 4, {}, 4),
        ([0.93] * 6, {}, 4),  # the four best count
        ([0.93] * 6, {"k": 6, "minimum": 2}, 6),
        ([0.54] * 4, {"scale": 0.5}, 4),  # 4.32, and at most k
        ([0.54] * 4, {"scale": 2.0}, 2),
        ([-0.4] * 4, {}, 1),
        ([-0.4] * 4, {"minimum": 2}, 2),
        ([0.9, 0.9], {}, 2),  # fewer predictions than k
    ],
)
def test_an_object_gets_as_many_queries_as_its_best_scores_sum_up_to(scores, options, count):
    """The worked figures of the specification."""
    others = [-0.1] * 4 if len(scores) > 2 else []
    table = torch.tensor(scores + others).view(1, 1, 1, -1)
    assert copies_of(table, torch.ones(1, 1, dtype=torch.bool), **{"share": 1.0, **options}).item() == count


@pytest.mark.parametrize(
    ("counts", "queries", "levelled"),
    [
        ([4, 3, 1], 16, [4, 3, 1]),  # 8 of 16
        ([4, 3, 2], 16, [3, 3, 2]),
        ([4, 4, 4, 1], 16, [2, 2, 2, 1]),
        ([4, 4, 4, 1], 6, [1, 1, 1, 1]),  # more than the share allows: each keeps one
    ],
)
def test_the_largest_counts_are_lowered_until_the_share_is_kept(counts, queries, levelled):
    scores = torch.zeros(1, 1, len(counts), queries)
    for t, count in enumerate(counts):
        scores[0, 0, t, :count] = 0.95
    assert copies_of(scores, torch.ones(1, len(counts), dtype=torch.bool), minimum=1).tolist() == [[levelled]]


def test_counts_are_within_their_limits_and_together_within_the_share():
    outputs, targets = scene(3, 9, 0, 14)
    counts = QualityCopies(k=4, minimum=2)(Pairs(outputs, targets))
    assert counts.dtype == torch.int64
    assert counts.shape == (STAGES, 4, 14)
    assert (counts[:, ~targets.valid] == 0).all()
    assert (counts[-1][targets.valid] == 1).all()
    assert (counts.sum(-1) <= QUERIES / 2).all()
    roomy = counts[:-1, 0, :3]
    assert (roomy >= 2).all() and (roomy <= 4).all() and (roomy > 2).any()


def test_hopeless_predictions_give_the_minimum():
    outputs, targets = scene(3, 2)
    hopeless = StageOutputs(outputs.logits, torch.full_like(outputs.boxes, 1e-3))
    for minimum in (1, 2):
        counts = QualityCopies(minimum=minimum)(Pairs(hopeless, targets))
        assert (counts[:-1][:, targets.valid] == minimum).all()


def test_counts_do_not_depend_on_the_other_images_of_the_batch():
    counts = (3, 0, 9)
    outputs, targets = scene(*counts)
    together = QualityCopies()(Pairs(outputs, targets))
    for image, count in enumerate(counts):
        one = slice(image, image + 1)
        own = PaddedTargets(*(x[one, :count] for x in (targets.labels, targets.boxes, targets.valid)), (count,))
        alone = QualityCopies()(Pairs(StageOutputs(outputs.logits[:, one], outputs.boxes[:, one]), own))
        assert alone.equal(together[:, one, :count])


@pytest.mark.parametrize("counts", [(5, 4), (1, 9), (0, 3)], ids=["one padded block", "image by image", "empty image"])
def test_objects_get_their_counts_and_the_last_stage_is_plain(counts, transfers):
    outputs, targets = scene(*counts)
    expected = QualityCopies()(Pairs(outputs, targets))
    transfers.clear()
    matches = HungarianMatcher(copies=QualityCopies())(outputs, targets)
    assert transfers == ["cpu"]  # counts travel with the costs
    assert matched_times(matches, targets.labels.shape[1]).equal(expected)
    assert matches[-1].equal(HungarianMatcher()(outputs, targets)[-1])
    assert not matches[:-1].equal(HungarianMatcher()(outputs, targets)[:-1])


def losses_with(matcher: HungarianMatcher, outputs: StageOutputs, targets: PaddedTargets):
    changes = {"matcher": matcher, "adjustments": [OverlapTargets()], "class_loss": VarifocalClassLoss()}
    group = GroupOutputs(QueryGroup("matching", outputs.logits.shape[2]), outputs)
    return criterion({"matching": changes})([group], targets)


def test_one_copy_at_most_is_the_plain_criterion():
    outputs, targets = scene(5, 2)
    ours, plain = (
        losses_with(HungarianMatcher(copies=copies), outputs, targets).terms for copies in (QualityCopies(k=1), 1)
    )
    assert {name: loss.item() for name, loss in ours.items()} == {name: loss.item() for name, loss in plain.items()}


@pytest.mark.parametrize("counts", [(0, 4), (0, 0), (QUERIES + 3, 2), (QUERIES // 2 + 1,)])
def test_losses_are_finite_where_objects_are_missing_or_too_many(counts):
    outputs, targets = scene(*counts)
    losses = losses_with(HungarianMatcher(copies=QualityCopies()), outputs, targets)
    losses.total.backward()
    assert losses.total.isfinite()
    assert outputs.logits.grad.isfinite().all() and outputs.boxes.grad.isfinite().all()


def test_every_query_has_an_object_where_objects_are_too_many():
    outputs, targets = scene(QUERIES + 3)
    assert (HungarianMatcher(copies=QualityCopies())(outputs, targets) >= 0).all()


def test_a_prediction_that_is_not_finite_is_named_as_without_the_rule():
    outputs, targets = scene(3, 2)
    with torch.no_grad():
        outputs.boxes[1, 1, 5] = float("nan")
    with pytest.raises(NonFiniteError, match="stage 1, image 1 of the batch is not finite"):
        HungarianMatcher(copies=QualityCopies())(outputs, targets)


def test_plain_stages_are_counted_from_the_end():
    outputs, targets = scene(3, 2)
    for plain in (0, 2, STAGES + 1):
        counts = QualityCopies(plain_last_stages=plain, minimum=2)(Pairs(outputs, targets))[:, targets.valid]
        assert (counts > 1).all(-1).tolist() == [stage < STAGES - plain for stage in range(STAGES)]


def test_inputs_are_not_changed():
    outputs, targets = scene(3, 2)
    tensors = outputs.logits, outputs.boxes, targets.labels, targets.boxes, targets.valid
    before = [x.detach().clone() for x in tensors]
    QualityCopies()(Pairs(replace(outputs), targets))
    assert all(old.equal(new) for old, new in zip(before, tensors, strict=True))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"k": 2, "minimum": 3}, "minimum=3, k=2: expected 1 <= minimum <= k"),
        ({"minimum": 0}, "minimum=0"),
        ({"scale": 0.0}, "scale=0.0: expected a positive number"),
        ({"plain_last_stages": -1}, "plain_last_stages=-1: expected a number of stages"),
        ({"share": 0.0}, "share=0.0: expected a number above 0 and at most 1"),
    ],
)
def test_impossible_values_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        QualityCopies(**options)
