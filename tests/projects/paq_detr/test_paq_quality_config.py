"""`with_quality`: what it changes in each group, with CSLA and DCA in any order, and errors where the call is."""

from itertools import permutations

import pytest
import torch
from crossstage.projects.paq_detr.modeling.quality import QualityCopies
from crossstage.projects.paq_detr.quality_config import with_quality
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.modeling.supervision.criterion import SetCriterion
from crossstage.modeling.supervision.labels import OverlapTargets, OwnStageLabels
from crossstage.modeling.supervision.losses import FocalClassLoss, SoftmaxClassLoss, VarifocalClassLoss
from crossstage.modeling.supervision.matching import Pairs
from crossstage.structures import GroupOutputs, PaddedTargets, QueryGroup, StageOutputs
from csla import CrossStageBoxMatches, with_csla
from dca import with_dca
from tests.random_scenes import image_batch, objects_of, predictions, tiny_dino_node
from tests.tiny_models import plain


def toy(name: str) -> DictConfig:
    """The model of one of our configs for the generated data set."""
    return LazyConfig.load(find_config(name)).model


def group_of(criterion: SetCriterion, name: str = "matching"):
    return criterion.groups[name]


def test_the_named_group_gets_copies_and_every_group_overlaps_as_targets():
    before = tiny_dino_node()
    written = plain(before)
    criterion = instantiate(with_quality(before, k=5).criterion)
    assert plain(before) == written
    for name, supervision in criterion.groups.items():
        assert isinstance(supervision.labels, OwnStageLabels)
        assert isinstance(supervision.class_loss, VarifocalClassLoss)
        assert [type(rule) for rule in supervision.adjustments] == [OverlapTargets]
        assert isinstance(supervision.matcher.copies, QualityCopies) == (name == "matching")
        assert supervision.normalizer.copies == 1
    assert group_of(criterion).matcher.copies.k == 5
    assert isinstance(instantiate(before.criterion).groups["matching"].class_loss, FocalClassLoss)


def test_weights_and_costs_stay_the_hosts():
    ours, theirs = (node.criterion.groups.matching for node in (with_quality(tiny_dino_node()), tiny_dino_node()))
    assert ours.weights == theirs.weights
    assert {**ours.matcher, "copies": 1} == theirs.matcher


def test_the_hybrid_branch_keeps_its_repeats():
    criterion = instantiate(with_csla(with_quality(toy("h_detr_toy"))).criterion)
    branch = group_of(criterion, "one_to_many")
    assert (branch.matcher.copies, branch.normalizer.copies) == (3, 3)
    assert isinstance(branch.labels, OwnStageLabels)
    assert isinstance(branch.class_loss, VarifocalClassLoss)


def test_proposals_have_one_stage_which_is_not_plain_where_they_are_named():
    both = with_quality(with_quality(tiny_dino_node()), groups=("proposals",), minimum=2)
    criterion = instantiate(both.criterion)
    matching, proposals = (group_of(criterion, name).matcher.copies for name in ("matching", "proposals"))
    assert (matching.plain_last_stages, matching.minimum) == (1, 1)
    assert (proposals.plain_last_stages, proposals.minimum) == (0, 2)
    targets = PaddedTargets.of(objects_of(3, 2))
    assert (proposals(Pairs(predictions(1, 2, 40), targets))[:, targets.valid] >= 2).all()


def test_the_last_call_decides():
    twice = with_quality(with_quality(tiny_dino_node(), k=6, gamma=0.1), k=3)
    assert plain(twice) == plain(with_quality(tiny_dino_node(), k=3))


@pytest.mark.parametrize("host", ["dino_toy", "h_detr_toy", "dn_detr_toy"])
def test_the_order_of_plug_ins_plays_no_role(host):
    plug_ins = [with_quality, with_csla] + [with_dca] * (host == "dino_toy")
    model, results = toy(host), []
    for order in permutations(plug_ins):
        changed = model
        for plug_in in order:
            changed = plug_in(changed)
        results.append(plain(changed))
    assert all(result == results[0] for result in results)
    labels = results[0]["criterion"]["groups"]["matching"]["labels"]
    assert labels["plain_last_stages"] == 1


def test_localisation_comes_after_the_targets_in_both_orders():
    node = tiny_dino_node()
    first, second = with_csla(with_quality(node), localisation=True), with_quality(with_csla(node, localisation=True))
    assert plain(first) == plain(second)
    adjustments = group_of(instantiate(first.criterion)).adjustments
    assert [type(rule) for rule in adjustments] == [OverlapTargets, CrossStageBoxMatches]


def test_another_number_of_plain_stages_is_allowed():
    node = tiny_dino_node()
    assert with_csla(with_quality(node), plain_last_stages=0).criterion.groups.matching.labels.plain_last_stages == 0
    two = with_quality(with_csla(node, plain_last_stages=2))
    assert two.criterion.groups.matching.labels.plain_last_stages == 2
    branch = with_csla(toy("h_detr_toy"), groups=("one_to_many",)).criterion.groups.one_to_many
    assert branch.labels.plain_last_stages == 0  # a number of copies is one that the config means


def four_good_queries(stages: int, queries: int = 12) -> tuple[GroupOutputs, PaddedTargets]:
    """Two objects with four queries each whose boxes are theirs at all stages; the others are nowhere."""
    targets = PaddedTargets.of(objects_of(2))
    boxes = torch.full((stages, 1, queries, 4), 1e-3)
    for t in range(2):
        boxes[:, 0, 4 * t : 4 * t + 4] = targets.boxes[0, t]
    outputs = StageOutputs(torch.full((stages, 1, queries, 8), -4.0), boxes)
    return GroupOutputs(QueryGroup("matching", queries), outputs), targets


@pytest.mark.parametrize("plug_ins", [(with_quality, with_csla), (with_csla, with_quality)])
def test_the_last_stage_teaches_one_positive_per_object(plug_ins):
    """Otherwise the last stage listens to the one before it, and detections need NMS."""
    node = tiny_dino_node()
    for plug_in in plug_ins:
        node = plug_in(node)
    predicted, targets = four_good_queries(stages=3)

    def positives(criterion: SetCriterion) -> list[int]:
        (matches,) = criterion.match([predicted], targets)
        labels = criterion.supervision("matching").assign(predicted, targets, matches).labels
        return (labels > 0).flatten(1).sum(-1).tolist()

    node.criterion.groups.matching.matcher.copies.share = 1.0
    assert positives(instantiate(node.criterion)) == [8, 8, 2]
    node.criterion.groups.matching.labels.plain_last_stages = 0
    assert positives(instantiate(node.criterion)) == [8, 8, 8]


@pytest.mark.parametrize("groups", [("matching",), ("matching", "proposals")])
def test_a_detector_trains_with_it(groups):
    detector = instantiate(with_csla(with_quality(tiny_dino_node(), groups=groups)))
    losses = detector(image_batch(3, 0))
    losses.total.backward()
    assert all(loss.isfinite() for loss in losses.terms.values())


def test_a_stored_config_can_be_changed_again(tmp_path):
    node = with_csla(with_quality(tiny_dino_node()), localisation=True)
    LazyConfig.save(OmegaConf.create({"model": node}, flags={"allow_objects": True}), str(tmp_path / "config.yaml"))
    stored = LazyConfig.load(str(tmp_path / "config.yaml")).model
    again = instantiate(with_csla(with_quality(stored), localisation=True).criterion)
    assert [type(rule) for rule in group_of(again).adjustments] == [OverlapTargets, CrossStageBoxMatches]
    assert group_of(again).labels.plain_last_stages == 1


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"kk": 3}, TypeError, "kk"),
        ({"k": 0}, ValueError, "k=0"),
        ({"groups": ("maching",)}, ValueError, r"no query group 'maching'\. .* Did you mean matching\?"),
    ],
)
def test_a_wrong_option_fails_where_it_is_given(options, error, complaint):
    with pytest.raises(error, match=complaint):
        with_quality(tiny_dino_node(), **options)


def test_a_softmax_detector_is_refused():
    """Its logits have a column for "no object", of which varifocal loss would make a class."""
    node = tiny_dino_node()
    node.criterion.groups.denoising.class_loss = L(SoftmaxClassLoss)()
    with pytest.raises(ValueError, match=r"groups\.denoising\.class_loss is a softmax"):
        with_quality(node)


def test_a_normaliser_that_would_count_by_a_rule_is_refused():
    """The shared config's normaliser follows the matcher's number of copies; a rule has none."""
    node = tiny_dino_node()
    node.criterion.groups.matching.matcher.copies = L(QualityCopies)()
    with pytest.raises(ValueError, match=r"normalizer\.copies is a QualityCopies: expected a number"):
        instantiate(node.criterion)
