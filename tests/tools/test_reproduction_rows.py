"""Every row of every table: its values exist, and the parts that they change build with them."""

import copy
from functools import cache

import pytest
import torch
from omegaconf import DictConfig

from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.reproduction.tables import TABLES

CHANGED = sorted(
    {
        (row.config_for(data), row.overrides_for(data))
        for rows in TABLES.values()
        for row in rows
        for data in ("coco", "toy")
        if row.overrides_for(data)
    }
)
loaded = cache(lambda config: LazyConfig.load(find_config(config)))


def model_of(config: str, overrides: tuple[str, ...]) -> DictConfig:
    return LazyConfig.apply_overrides(copy.deepcopy(loaded(config)), overrides).model


@pytest.mark.parametrize(("config", "overrides"), CHANGED, ids=[f"{c} {' '.join(o)}" for c, o in CHANGED])
def test_a_changed_model_builds(config: str, overrides: tuple[str, ...]):
    model = model_of(config, overrides)
    with torch.device("meta"):
        assert instantiate(model.decoder).layers
    assert instantiate(model.criterion).groups["matching"].labels
    assert instantiate(model.queries)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_compares_its_rows_with_one_of_them(table: str):
    names = [row.name for row in TABLES[table]]
    assert len(set(names)) == len(names)
    assert {row.baseline for row in TABLES[table]} <= {"", *names}
