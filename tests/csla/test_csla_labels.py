"""The equation of CSLA against its sentence, read aloud as loops; and what follows from it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from csla import ANY_OVERLAP, cross_stage_box_matches, cross_stage_labels, cross_stage_scores
from csla.labels import stage_window
from tests.cross_stage_loops import in_window, iou, scores_by_loops
from tests.random_scenes import boxes_inside

CLASSES = 3
THIRDS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])  # coarse boxes overlap often, and by exact fractions
SCOPES = [(0, 0), (1, 0), (1, 1), (1, None), (None, None), (0, None), (2, 1)]  # Table 13, and others


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """matches [S, B, N], boxes [S, B, N, 4], labels [B, T], objects [B, T, 4]; sizes down to nothing."""
    stages, batch, queries, objects = (draw(st.integers(low, high)) for low, high in ((1, 4), (1, 2), (1, 4), (0, 3)))
    counts = [draw(st.integers(0, objects)) for _ in range(batch)]
    seed = draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)

    def coarse(*shape: int) -> Tensor:
        low = torch.randint(0, 3, (*shape, 2), generator=generator) / 4
        return torch.cat([low + 0.25, torch.randint(0, 4, (*shape, 2), generator=generator) / 4], -1).double()

    matches = torch.full((stages, batch, queries), -1)
    for stage in range(stages):
        for image, count in enumerate(counts):
            some = torch.randperm(max(queries, count), generator=generator)[:queries]
            matches[stage, image] = torch.where(some < count, some, -1)
    labels = torch.randint(0, CLASSES, (batch, objects), generator=generator)
    return matches, coarse(stages, batch, queries), labels, coarse(batch, objects)


@given(
    scenes(),
    st.sampled_from(SCOPES),
    st.sampled_from([0.0, ANY_OVERLAP, 0.25, 1 / 3, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 3),
)
def test_labels_and_scores_are_those_of_the_sentence(scene, scope, threshold, filter_own, plain):
    options = {
        "iou_threshold": threshold,
        "look_back": scope[0],
        "look_ahead": scope[1],
        "filter_own": filter_own,
        "plain_last_stages": plain,
    }
    expected = scores_by_loops(scene, num_classes=CLASSES, **options)
    assert cross_stage_labels(*scene, num_classes=CLASSES, **options).equal(expected >= 0)
    scores = cross_stage_scores(*scene, num_classes=CLASSES, **options)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)


def box_matches_by_loops(scene, *, iou_threshold, look_back, look_ahead) -> Tensor:
    """Table 12: a query without a match takes the object of the later stage that it overlaps most, if that is more
    than its overlap with what the stages before matched it with."""
    matches, boxes, _, objects = scene
    stages, batch, queries = matches.shape
    regrouped = matches.clone()
    for i in range(stages):
        for image in range(batch):
            for query in range(queries):
                if matches[i, image, query] >= 0:
                    continue
                overlaps = {
                    j: iou(boxes[i, image, query].tolist(), objects[image, matches[j, image, query]].tolist())
                    for j in range(stages)
                    if in_window(i, j, look_back, look_ahead) and matches[j, image, query] >= 0
                }
                best = max([overlap for j, overlap in overlaps.items() if j > i], default=0.0)
                before = max([overlap for j, overlap in overlaps.items() if j < i], default=0.0)
                if best > before and best >= iou_threshold:
                    stage = min(j for j, overlap in overlaps.items() if j > i and overlap == best)
                    regrouped[i, image, query] = matches[stage, image, query]
    return regrouped


@given(scenes(), st.sampled_from(SCOPES), st.sampled_from([ANY_OVERLAP, 0.25, 0.5]))
def test_gathered_box_targets_are_those_of_the_sentence(scene, scope, threshold):
    options = {"iou_threshold": threshold, "look_back": scope[0], "look_ahead": scope[1]}
    matches, boxes, _, objects = scene
    assert cross_stage_box_matches(matches, boxes, objects, **options).equal(box_matches_by_loops(scene, **options))


def one_query(matches: list[int], boxes: list[list[float]], objects: list[list[float]], labels: list[int]):
    """One image with one query through S stages."""
    return (
        torch.tensor(matches).view(-1, 1, 1),
        torch.tensor(boxes).view(-1, 1, 1, 4),
        torch.tensor(labels).view(1, -1),
        torch.tensor(objects).view(1, -1, 4),
    )


LEFT, RIGHT = [0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]  # the halves of the image
WHOLE = [0.5, 0.5, 1.0, 1.0]  # overlaps each half by exactly a half

# matches of 3 stages, boxes, options, the classes of each stage; object 0 is LEFT of class 0, object 1 RIGHT of class 1
TABLE = [
    ([0, 0, 0], [LEFT] * 3, {}, [[0], [0], [0]], "agreement: one label, once"),
    ([0, -1, -1], [LEFT] * 3, {}, [[0], [0], []], "a label reaches one stage back's successor, not two"),
    ([-1, -1, 0], [LEFT] * 3, {}, [[0], [0], [0]], "a later match reaches all earlier stages"),
    ([-1, -1, 0], [LEFT] * 3, {"look_ahead": 0}, [[], [], [0]], "unless nobody looks ahead"),
    ([0, -1, -1], [LEFT] * 3, {"look_back": None}, [[0], [0], [0]], "all earlier stages"),
    ([0, 1, 1], [WHOLE] * 3, {}, [[0, 1], [0, 1], [1]], "two classes: multi-hot; 0.5 >= 0.5 counts"),
    ([0, 1, 1], [WHOLE] * 3, {"iou_threshold": 0.5 + 2**-20}, [[], [], []], "just above: nobody's, own matches too"),
    ([0, 1, 1], [WHOLE] * 3, {"iou_threshold": 0.75, "filter_own": False}, [[0], [1], [1]], "own match kept"),
    ([0, 0, 1], [RIGHT, LEFT, RIGHT], {}, [[1], [0], [1]], "the box of stage i decides, not that of stage j"),
    ([0, 0, 0], [RIGHT] * 3, {}, [[], [], []], "own matches that overlap too little are negatives"),
    ([0, 0, 0], [RIGHT] * 3, {"iou_threshold": 0.0}, [[0], [0], [0]], "threshold 0 asks for no overlap"),
    ([0, 0, 0], [RIGHT] * 3, {"iou_threshold": ANY_OVERLAP}, [[], [], []], "any overlap is more than touching"),
    ([0, 1, 0], [WHOLE] * 3, {"plain_last_stages": 2}, [[0, 1], [1], [0]], "only stages 1..L-2 (Table 13)"),
    ([0, 1, 0], [RIGHT] * 3, {"plain_last_stages": 3}, [[0], [1], [0]], "plain: not filtered either"),
]


@pytest.mark.parametrize(("matches", "boxes", "options", "expected", "reason"), TABLE, ids=[row[-1] for row in TABLE])
def test_hand_made_stages(matches, boxes, options, expected, reason):
    targets = cross_stage_labels(*one_query(matches, boxes, [LEFT, RIGHT], [0, 1]), num_classes=2, **options)
    assert [row.nonzero().flatten().tolist() for row in targets[:, 0, 0]] == expected, reason


@pytest.mark.parametrize(
    ("matches", "boxes", "expected"),
    [
        ([0, -1, 1], [LEFT, WHOLE, RIGHT], [0, -1, 1]),  # no more than the overlap before: stays without
        ([0, -1, 1], [LEFT, RIGHT, RIGHT], [0, 1, 1]),  # more: taken from later
        ([0, -1, 1], [LEFT, LEFT, RIGHT], [0, -1, 1]),  # never taken from before
        ([-1, 1, 0], [WHOLE, RIGHT, LEFT], [1, 1, 0]),  # two later stages overlap alike: the first of them
        ([1, 0, 0], [LEFT, LEFT, LEFT], [1, 0, 0]),  # an own match is never replaced
    ],
)
def test_hand_made_box_targets(matches, boxes, expected):
    matches, boxes, _, objects = one_query(matches, boxes, [LEFT, RIGHT], [0, 1])
    assert cross_stage_box_matches(matches, boxes, objects).flatten().tolist() == expected


def test_windows_of_the_papers_table():
    def rows(**window):
        return ["".join("x" if seen else "." for seen in row) for row in stage_window(4, device="cpu", **window)]

    assert rows(look_back=0, look_ahead=0) == ["x...", ".x..", "..x.", "...x"]
    assert rows(look_back=1, look_ahead=0) == ["x...", "xx..", ".xx.", "..xx"]
    assert rows(look_back=1, look_ahead=1) == ["xx..", "xxx.", ".xxx", "..xx"]
    assert rows(look_back=1, look_ahead=None) == ["xxxx", "xxxx", ".xxx", "..xx"]
    assert rows(look_back=None, look_ahead=None) == ["xxxx"] * 4


def random_scene(stages=4, batch=2, queries=6, objects=5):
    matches = torch.stack([torch.stack([torch.randperm(queries) for _ in range(batch)]) for _ in range(stages)])
    matches = matches.where(matches < objects, -1)
    boxes = boxes_inside(stages, batch, queries).requires_grad_()
    return matches, boxes, torch.randint(0, CLASSES, (batch, objects)), boxes_inside(batch, objects)


def test_permuted_queries_give_permuted_labels():
    matches, boxes, labels, objects = random_scene()
    order = torch.randperm(6)
    targets = cross_stage_labels(matches, boxes, labels, objects, num_classes=CLASSES, iou_threshold=0.1)
    permuted = cross_stage_labels(
        matches[..., order], boxes[:, :, order], labels, objects, num_classes=CLASSES, iou_threshold=0.1
    )
    assert targets.any()
    assert permuted.equal(targets[:, :, order])


def test_images_do_not_read_each_other():
    matches, boxes, labels, objects = random_scene()
    targets = cross_stage_labels(matches, boxes, labels, objects, num_classes=CLASSES, iou_threshold=0.1)
    second = cross_stage_labels(
        matches[:, 1:], boxes[:, 1:], labels[1:], objects[1:], num_classes=CLASSES, iou_threshold=0.1
    )
    assert second.equal(targets[:, 1:])


def test_labels_take_no_gradient_and_change_nothing():
    scene = random_scene()
    before = [tensor.detach().clone() for tensor in scene]
    targets = cross_stage_labels(*scene, num_classes=CLASSES)
    assert not targets.requires_grad
    assert targets.dtype == torch.bool
    assert all(old.equal(new) for old, new in zip(before, scene, strict=True))


def test_zero_area_and_inverted_boxes_are_nobodys():
    point, inverted = [0.5, 0.5, 0.0, 0.0], [0.5, 0.5, -0.5, -0.5]
    for box in (point, inverted):
        for thing in (point, WHOLE):
            scene = one_query([0, 0], [box, box], [thing], [0])
            assert not cross_stage_labels(*scene, num_classes=1, iou_threshold=ANY_OVERLAP).any()
