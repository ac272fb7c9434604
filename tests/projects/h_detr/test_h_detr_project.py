"""H-DETR's configs against detrex's: tensors, sizes and recipe; CSLA as the only difference of its configs."""

from pathlib import Path

import pytest

from crossstage.config import LazyConfig
from csla import CrossStageLabels
from tests.foreign_names import PROJECTS, detector_and_table, foreign_shapes, parameter_counts, reached_names

RECIPES = {
    "h_detr_r50_two_stage_12ep": 90000,
    "h_detr_r50_two_stage_36ep": 270000,
    "h_detr_r50_one_stage_50ep": 375000,
}


def load(name: str):
    return LazyConfig.load(str(PROJECTS / f"h_detr/configs/{name}.py"))


def test_every_name_of_detrex_is_one_of_ours_and_back():
    detector, table = detector_and_table("h_detr/configs/h_detr_r50_two_stage_12ep.py")
    foreign = foreign_shapes(Path(__file__).parent / "data/detrex_h_deformable_detr_r50_two_stage_12ep.txt")
    reached = reached_names(detector, table, foreign)
    assert parameter_counts(detector) == (47_926_284, 47_916_876)
    assert {native for native, names in reached.items() if len(names) == 2} == {
        native for native in reached if "class_head" in native or "box_head" in native
    }


def test_the_one_stage_model_has_a_name_for_each_tensor_too():
    detector, table = detector_and_table("h_detr/configs/h_detr_r50_one_stage_50ep.py")
    for name in detector.state_dict():
        assert [table.native_name(theirs) for theirs in table.foreign_names(name)] in ([name], [name, name])


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_is_detrexs(name: str):
    config = load(name)
    assert config.train.max_iter == RECIPES[name]
    queries = config.model.queries
    assert (queries.num_queries, queries.one_to_many.num_queries, queries.one_to_many.repeats) == (300, 1500, 6)
    assert config.model.decoder.look_forward_twice is True
    assert config.model.decoder.layer.ffn.feedforward_dim == 2048
    assert config.model.criterion.weights == {"loss_class": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}


@pytest.mark.parametrize("name", RECIPES)
def test_csla_changes_the_labels_alone(name: str):
    plain, other = load(name), load(f"{name}_csla")
    assert other.model.criterion.labels._target_ is CrossStageLabels
    other.model.criterion.update(labels=plain.model.criterion.labels, box_matches=None)
    other.train.output_dir = plain.train.output_dir
    assert other == plain
