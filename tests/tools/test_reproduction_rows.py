"""Every row of every table: its values exist, and the parts that they change build with them."""

import copy
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.reproduction.rows import Table, paper_figures
from crossstage.reproduction.tables import PAPERS, table_of

TABLES = [table_of(paper, name) for paper, tables in PAPERS.items() for name in tables]
CHANGED = sorted(
    {
        (row.config_for(data), changes)
        for table in TABLES
        for row in table.rows
        for data in ("coco", "toy")
        if (changes := tuple(text for text in row.overrides_for(data) if not text.startswith("train.")))
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
        ("stageinteractor", "1", "baseline", "43.0"),  # StageInteractor without CSLA, not AdaMixer
        ("stageinteractor", "1", "repeated_2x_first_half", "41.8"),
        ("stageinteractor", "4", "deformable_detr_50ep", "46.1"),
        ("stageinteractor", "16", "none", "43.9"),
        ("stageinteractor", "16", "channel", "44.0"),  # of the supplementary
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


# By paper and table: how many cells have a number, and their sum. A wrong digit or a lost row changes them.
SUMS = {
    "stageinteractor": """
        table_1: 15 455.8; table_2: 74 4117.2; table_3: 229 15297.2; table_4: 48 2349.7; table_5: 6 383.1;
        table_6: 24 1138.7; table_7: 24 1142.3; table_8: 21 877.1; table_9: 6 124.8; table_10: 35 1457.8;
        table_11: 24 1153.5; table_12: 12 584.6; table_13: 37 1727.0; table_14: 21 870.2; table_15: 18 863.6;
        table_16: 18 866.3; table_17: 18 867.0; table_18: 28 1331.8; table_19: 14 372.35; table_20: 24 1303.2;
        supplementary.table_1: 24 1151.6; supplementary.table_2: 24 1154.7; text: 15 551.46;
        supplementary.table_3: 18 867.0; supplementary.table_4: 28 1331.8; supplementary.table_5: 14 372.35;
        supplementary.table_6: 24 1303.2""",
    "deqdet": """
        table_1: 84 3669.2; table_2: 156 83636.2; table_3: 240 13566.4; table_4a: 11 571.0; table_4b: 12 476.0;
        table_4c: 16 635.5; table_4d: 20 662.3; table_4e: 12 629.1; table_4f: 19 863.4; table_4g: 20 785.0;
        table_4h: 12 534.8; readme: 12 692.9; text: 5 88.5""",
    "paq_detr": """
        article: 14 326.46; table_1: 24 1258.7; table_2: 3 172.4; table_3: 2 104.5; table_4: 2 107.6;
        table_5: 4 153.4; table_6: 28 1327.61; table_7: 8 525.82; table_8: 8 341.1; figure_3: 7 360.3""",
}


@pytest.mark.parametrize("paper", SUMS)
def test_the_cells_of_each_table_have_their_number_and_sum(paper: str):
    figures = paper_figures(paper)
    tables = {name: rows for name, rows in figures.items() if isinstance(rows, list) and not name.startswith("_")}
    more = figures.get("supplementary", {})
    tables |= {f"supplementary.{name}": rows for name, rows in more.items() if isinstance(rows, list)}
    found = {}
    for name, rows in tables.items():
        cells = [cell for row in rows for cell in row.values() if type(cell) in (int, float)]
        found[name] = (len(cells), round(sum(cells), 2))
    assert found == {
        name.strip(): (int(cells.split()[0]), float(cells.split()[1]))
        for name, cells in (text.split(":") for text in SUMS[paper].split(";"))
    }


def test_a_run_that_several_tables_print_has_the_same_figures_in_all():
    figures = paper_figures("stageinteractor")
    default = {"AP": 44.8, "AP50": 63.0, "AP75": 48.4, "APs": 27.5, "APm": 48.0, "APl": 61.3}
    tables = [name for name in PAPERS["stageinteractor"] if name not in ("1", "3", "4", "5")]
    for name in tables:
        rows = [row for row in figures[f"table_{name}"] if {key: row.get(key) for key in default} == default]
        assert len(rows) == 1, name
    without_labels = [figures[table][row] for table, row in (("table_1", 0), ("table_6", 1), ("table_7", 0))]
    assert [row["AP"] for row in without_labels] == [43.0] * 3


def test_a_row_without_a_figure_says_why_and_hybrid_matching_replaces_the_labels_of_other_stages():
    for table in TABLES:
        for row in table.rows:
            assert row.figure or row.note, f"{table.title}: {row.name}"
    rows = {row.name: row for row in table_of("stageinteractor", "1").rows}
    own = {*rows["baseline"].overrides}
    assert len(own) == 3
    for name in ("repeated_2x_first_half", "repeated_4x_first_half"):
        assert own < {*rows[name].overrides} and rows[name].baseline == "baseline"
    assert not rows["ours"].overrides
