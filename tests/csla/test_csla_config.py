"""`with_csla`: a copy with other labels, however the config came in, and errors at the line that caused them."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from crossstage.config import LazyConfig, instantiate
from csla import CrossStageBoxMatches, CrossStageLabels, with_csla
from tests.random_scenes import MODELS, image_batch, tiny_dino_node


def plain(node) -> dict:
    return OmegaConf.to_container(node, resolve=False)


def test_the_node_that_went_in_stays_as_it_was():
    node = tiny_dino_node()
    before = plain(node)
    with_csla(node, look_back=2, localisation=True)
    assert plain(node) == before


def test_only_the_label_rule_of_the_group_changes():
    node = tiny_dino_node()
    ours, theirs = plain(with_csla(node, look_back=2)), plain(node)
    rules = [model["criterion"]["groups"]["matching"].pop("labels") for model in (ours, theirs)]
    assert rules[0] != rules[1]
    assert ours == theirs


def test_groups_are_chosen_by_name():
    model = with_csla(tiny_dino_node(), groups=("denoising", "proposals"))
    rules = {name: group.labels._target_ is CrossStageLabels for name, group in model.criterion.groups.items()}
    assert rules == {"matching": False, "denoising": True, "proposals": True}


def test_an_unknown_group_is_an_error_with_the_nearest_name():
    """`label_groups=["maching"]` used to train the baseline without a word."""
    with pytest.raises(ValueError, match=r"no query group 'maching'\. .* Did you mean matching\?"):
        with_csla(tiny_dino_node(), groups=("maching",))


def test_options_reach_the_rule():
    model = instantiate(
        with_csla(
            tiny_dino_node(),
            iou_threshold=0.7,
            look_back=None,
            look_ahead=1,
            filter_own=False,
            plain_last_stages=2,
        )
    )
    supervision = model.criterion.groups["matching"]
    rule = supervision.labels
    assert isinstance(rule, CrossStageLabels)
    found = (rule.iou_threshold, rule.look_back, rule.look_ahead, rule.filter_own, rule.plain_last_stages)
    assert found == (0.7, None, 1, False, 2)
    assert supervision.adjustments == []


def test_the_papers_options_are_the_defaults():
    rule = CrossStageLabels()
    found = (rule.iou_threshold, rule.look_back, rule.look_ahead, rule.filter_own, rule.plain_last_stages)
    assert found == (0.5, 1, None, True, 0)


def test_localisation_gathers_boxes_in_the_same_window():
    model = instantiate(with_csla(tiny_dino_node(), localisation=True, iou_threshold=0.3, look_ahead=2))
    (box_matches,) = model.criterion.groups["matching"].adjustments
    assert isinstance(box_matches, CrossStageBoxMatches)
    assert (box_matches.iou_threshold, box_matches.look_back, box_matches.look_ahead) == (0.3, 1, 2)


def test_the_last_call_decides():
    twice = with_csla(with_csla(tiny_dino_node(), look_back=2, localisation=True), look_back=3)
    assert plain(twice) == plain(with_csla(tiny_dino_node(), look_back=3))


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"iou_treshold": 0.5}, TypeError, "iou_treshold"),
        ({"iou_threshold": 50}, ValueError, "iou_threshold=50: expected a number from 0 to 1"),
        ({"look_back": -1}, ValueError, "look_back=-1"),
        ({"plain_last_stages": -1}, ValueError, "plain_last_stages=-1: expected a number of stages, 0 for none"),
    ],
)
def test_a_wrong_option_fails_where_it_is_given(options, error, complaint):
    with pytest.raises(error, match=complaint):
        with_csla(tiny_dino_node(), **options)


def test_a_model_without_a_criterion_is_refused():
    node = tiny_dino_node()
    del node.criterion
    with pytest.raises(ValueError, match=r"needs a model node that has `criterion\.groups`"):
        with_csla(node)


def test_a_config_loaded_from_its_file():
    loaded = LazyConfig.load(str(MODELS / "dino_r50.py"))
    model = with_csla(loaded.model)
    assert isinstance(instantiate(model.criterion).groups["matching"].labels, CrossStageLabels)
    assert model.neck.out_channels == 256  # interpolations still resolve in the copy


def test_a_config_imported_as_a_module():
    from crossstage.projects.dino.configs.models.dino_r50 import model

    assert isinstance(instantiate(with_csla(model).criterion).groups["matching"].labels, CrossStageLabels)
    assert "CrossStage" not in str(model.criterion)


def test_it_survives_saving_and_loading(tmp_path: Path):
    config = OmegaConf.create(
        {"model": with_csla(tiny_dino_node(), look_back=None, localisation=True)}, flags={"allow_objects": True}
    )
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    criterion = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).model).criterion
    supervision = criterion.groups["matching"]
    assert isinstance(supervision.labels, CrossStageLabels)
    assert (supervision.labels.look_back, supervision.adjustments[0].look_back) == (None, None)


def test_a_detector_trains_with_it():
    model = instantiate(with_csla(tiny_dino_node(), iou_threshold=0.0))
    losses = model(image_batch(3, 0))
    losses.total.backward()
    assert all(loss.isfinite() for loss in losses.terms.values())


def test_its_options_are_overrides_of_the_command_line():
    """The path that the README prints."""
    config = OmegaConf.create({"model": with_csla(tiny_dino_node())}, flags={"allow_objects": True})
    LazyConfig.apply_overrides(config, ["model.criterion.groups.matching.labels.iou_threshold=0.6"])
    assert instantiate(config.model).criterion.groups["matching"].labels.iou_threshold == 0.6
