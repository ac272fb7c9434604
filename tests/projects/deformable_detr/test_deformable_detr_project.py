"""Deformable-DETR's configs against detrex's: tensors, sizes and recipe; CSLA as the only difference of its configs."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from crossstage.config import LazyConfig
from crossstage.modeling.supervision.labels import OwnStageLabels
from csla import CrossStageLabels
from tests.foreign_names import PROJECTS, detector_and_table, foreign_shapes, parameter_counts, reached_names

CONFIGS = PROJECTS / "deformable_detr/configs"
PARAMETERS = {
    "deformable_detr_r50_50ep": (40_066_838, 40_057_430),
    "deformable_detr_r50_with_box_refinement_50ep": (40_832_698, 40_823_290),
    "deformable_detr_r50_two_stage_50ep": (41_161_740, 41_152_332),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_name_of_detrex_is_one_of_ours_and_back(name: str):
    detector, table = detector_and_table(f"deformable_detr/configs/{name}.py")
    reached = reached_names(detector, table, foreign_shapes(Path(__file__).parent / f"data/detrex_{name}.txt"))
    assert parameter_counts(detector) == PARAMETERS[name]
    times = {len(names) for native, names in reached.items() if "box_head" in native}
    assert times == ({6} if detector.decoder.refine is False else {2})  # plain: the shared head, listed for each layer


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_recipe_is_detrexs(name: str):
    config = LazyConfig.load(str(CONFIGS / f"{name}.py"))
    layer, queries = config.model.decoder.layer, config.model.queries.source
    assert config.train.max_iter == 375000
    assert (config.model.embed_dim, layer.ffn.feedforward_dim, queries.num_queries) == (256, 1024, 300)
    dropouts = {layer.ffn.dropout, layer.self_attn.dropout, layer.cross_attn.dropout}
    dropouts |= {config.model.encoder.layer.ffn.dropout, config.model.encoder.layer.self_attn.dropout}
    assert dropouts == {0.1}
    assert config.model.criterion.groups.matching.weights == {"class": 1.0, "bbox": 5.0, "giou": 2.0}
    assert config.model.decoder.look_forward_twice is False


@pytest.mark.parametrize("name", PARAMETERS)
def test_csla_is_the_only_difference_of_its_config(name: str):
    plain, other = (
        OmegaConf.to_container(LazyConfig.load(str(CONFIGS / f"{name}{suffix}.py")), resolve=False)
        for suffix in ("", "_csla")
    )
    rules = [config["model"]["criterion"]["groups"]["matching"].pop("labels") for config in (other, plain)]
    assert [rule["_target_"] for rule in rules] == [CrossStageLabels, OwnStageLabels]
    assert other["train"].pop("output_dir") == plain["train"].pop("output_dir") + "_csla"
    assert plain == other
