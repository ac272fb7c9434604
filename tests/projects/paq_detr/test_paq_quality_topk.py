"""The matcher that takes the best predictions by quality: by hand, and beside the usual one."""

import numpy as np
import pytest
from crossstage.projects.paq_detr.modeling.quality import QualityCopies, quality_scores
from crossstage.projects.paq_detr.modeling.quality_topk import QualityTopK, best_queries
from crossstage.projects.paq_detr.quality_config import with_quality

from crossstage.config import instantiate
from crossstage.modeling.supervision.matching import HungarianMatcher, Pairs
from tests.projects.paq_detr.test_paq_quality import STAGES, matched_times, scene
from tests.random_scenes import image_batch, tiny_dino_node


@pytest.mark.parametrize(
    ("scores", "times", "of_query"),
    [
        ([[0.9, 0.8, 0.1, 0.0], [0.0, 0.1, 0.7, 0.6]], [2, 1], [0, 0, 1, -1]),
        ([[0.9, 0.8, 0.1, 0.0], [0.0, 0.85, 0.7, 0.6]], [2, 2], [0, 1, 1, -1]),  # the higher score wins, in place of it
        ([[0.9, 0.8, 0.1, 0.0], [0.95, 0.1, 0.0, 0.0]], [1, 1], [1, -1, -1, -1]),  # the loser gets nothing
        ([[-0.1, -0.2, -0.3, -0.4], [-0.4, -0.3, -0.2, -0.1]], [1, 0], [0, -1, -1, -1]),
        ([[0.5, 0.6, 0.7, 0.8]], [9], [0, 0, 0, 0]),
    ],
)
def test_each_object_takes_its_best_queries(scores, times, of_query):
    objects, queries = best_queries(np.array(scores), np.array(times))
    found = np.full(4, -1)
    found[queries] = objects
    assert found.tolist() == of_query


@pytest.mark.parametrize("counts", [(5, 4), (1, 9), (0, 3), (0, 0)])
def test_early_stages_take_the_best_and_the_last_is_plain(counts, transfers):
    outputs, targets = scene(*counts)
    rule = QualityCopies()
    wanted = rule(Pairs(outputs, targets))
    transfers.clear()
    matches = QualityTopK(copies=rule)(outputs, targets)
    assert transfers == ["cpu"]
    assert matches[-1].equal(HungarianMatcher()(outputs, targets)[-1])
    times = matched_times(matches, targets.labels.shape[1])
    assert (times <= wanted).all()
    scores = quality_scores(Pairs(outputs, targets))
    for stage, image, t in (times == wanted).nonzero().tolist():  # no query was lost to another object
        if stage < STAGES - 1 and targets.valid[image, t]:
            best = scores[stage, image, t].topk(int(wanted[stage, image, t])).indices.sort().values
            assert (matches[stage, image] == t).nonzero().flatten().equal(best)
    assert (times == wanted).sum() > (~targets.valid).sum() * STAGES or not targets.num_objects


def test_twins_share_the_best_queries_early_and_have_one_each_at_the_last_stage():
    outputs, targets = scene(2)
    targets.boxes[0, 1], targets.labels[0, 1] = targets.boxes[0, 0], targets.labels[0, 0]
    matches = QualityTopK(copies=QualityCopies())(outputs, targets)
    assert matched_times(matches, 2)[-1].tolist() == [[1, 1]]
    assert (matched_times(matches, 2)[:-1, 0, 1] == 0).all()  # of equal scores, the first object has them all


def test_it_fits_the_config_that_with_quality_makes():
    node = with_quality(tiny_dino_node())
    node.criterion.groups.matching.matcher._target_ = QualityTopK
    losses = instantiate(node)(image_batch(3, 0))
    losses.total.backward()
    assert losses.total.isfinite()


def test_another_rule_of_copies_is_refused():
    outputs, targets = scene(2)
    with pytest.raises(TypeError, match="QualityTopK: copies is a int; expected QualityCopies"):
        QualityTopK()(outputs, targets)
