"""Every row of every table: its values exist, and the parts that they change build with them."""

import copy
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.reproduction.rows import Table
from crossstage.reproduction.tables import PAPERS, table_of

TABLES = [table_of(paper, name) for paper, tables in PAPERS.items() for name in tables]
CHANGED = sorted(
    {
        (row.config_for(data), row.overrides_for(data))
        for table in TABLES
        for row in table.rows
        for data in ("coco", "toy")
        if row.overrides_for(data)
    }
)
loaded = cache(lambda config: LazyConfig.load(find_config(config)).model)


@pytest.mark.parametrize(("config", "overrides"), CHANGED, ids=[f"{c} {' '.join(o)}" for c, o in CHANGED])
def test_what_a_row_changes_in_a_model_builds(config: str, overrides: tuple[str, ...]):
    changed = LazyConfig.apply_overrides(OmegaConf.create({"model": copy.deepcopy(loaded(config))}), overrides).model
    parts = {text.lstrip("+").split(".")[1] for text in overrides}  # decoder or criterion
    assert parts <= {"decoder", "criterion"}
    with torch.device("meta"):
        for part in parts:
            assert isinstance(instantiate(changed[part]), nn.Module)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_a_table_refers_to_its_own_rows_and_to_existing_configs_and_figures(table: Table):
    rows = {row.name: row for row in table.rows}
    assert len(rows) == len(table.rows)
    for row in table.rows:
        assert find_config(row.config).is_file() and find_config(row.toy_config).is_file()
        assert row.baseline in ("", *rows) and row.baseline != row.name
        assert ("AP" in table.published(row)) == bool(row.figure)
        if row.trained_as:
            trained = rows[row.trained_as]
            assert (trained.trained_as, trained.config) == ("", row.config)


@pytest.mark.parametrize(
    ("paper", "table", "row", "ap"),
    [
        ("stageinteractor", "4", "dino_12ep_csla_dca", "50.0"),
        ("stageinteractor", "6", "grouped_sampler", "-"),
        ("stageinteractor", "15", "dynamic", "43.9"),  # of the supplementary; the paper's own table has 43.5
        ("deqdet", "2", "deqdet_64points_nf6", "45.7"),
        ("deqdet", "4c", "k_1", "41.9"),
    ],
)
def test_a_row_stands_next_to_the_papers_figure(paper: str, table: str, row: str, ap: str):
    found = table_of(paper, table)
    (named,) = (other for other in found.rows if other.name == row)
    assert found.published_ap(named) == ap


def test_four_evaluations_of_deqdet_share_one_training():
    rows = [row for row in table_of("deqdet", "2").rows if row.name.startswith("deqdet_nf")]
    assert [row.trained_as for row in rows] == ["deqdet_nf25"] * 3 + [""]
    assert [row.overrides for row in rows] == [(f"model.decoder.eval_steps={n}",) for n in (5, 7, 15, 24)]
