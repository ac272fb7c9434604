"""Rows and tables of a paper as data, the figures that the paper published for them, and the choice of rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from crossstage.config.find import find_config
from crossstage.config.names import suggestion
from crossstage.errors import InputError


def paper_figures(paper: str) -> dict[str, Any]:
    """All figures that a paper published, as lists of rows by table, such as "table_2", from paper_figures.json."""
    path = Path(__file__).with_name("paper_figures.json")
    papers: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return papers[paper]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: name of the row in --rows, and of the folder of its runs.
        config: the config for COCO, a short name or a file.
        toy_config: the config for the generated set and for data of one's own.
        figure: the label of the paper's row in paper_figures.json, or "" if the paper has no such row.
        baseline: the row of the same table that it is compared with, or "".
        epochs: number of epochs on COCO.
        overrides: key=value for both configs.
        toy_overrides: further key=value for `toy_config`; they win over `overrides`.
        trained_as: the row of the same table whose weights this row evaluates with its own overrides; "" trains.
        note: for the reader of the report: why there is no figure, or in what the row differs from the paper's row.
    """

    name: str
    config: str
    toy_config: str
    figure: str = ""
    baseline: str = ""
    epochs: int = 12
    overrides: tuple[str, ...] = ()
    toy_overrides: tuple[str, ...] = ()
    trained_as: str = ""
    note: str = ""

    def config_for(self, data: str) -> str:
        """The config for "coco", "toy" or "own"."""
        return self.config if data == "coco" else self.toy_config

    def overrides_for(self, data: str) -> tuple[str, ...]:
        """The changes to the config for "coco", "toy" or "own"."""
        return self.overrides if data == "coco" else (*self.overrides, *self.toy_overrides)


@dataclass(frozen=True)
class Table:
    """Rows of a table of a paper: the paper's name in paper_figures.json, and the table's name, such as "4a".

    `asks` is the question that these rows answer, if they are a part of the table (`questions`).
    """

    paper: str
    name: str
    rows: tuple[Row, ...]
    asks: str = ""

    @property
    def title(self) -> str:
        """The table's name in reports."""
        return f"Table {self.name} of {self.paper}" + f": {self.asks}" * bool(self.asks)

    def published(self, row: Row) -> dict[str, Any]:
        """The paper's figures for a row by their names, such as AP; empty if there are none."""
        if not row.figure:
            return {}
        tables = paper_figures(self.paper)
        found = tables[f"table_{self.name}"]
        if instead := found[0].get("use_instead"):  # a table of the supplementary that corrects this one
            found = tables["supplementary"][instead.removeprefix("supplementary.")]
        return next(figures for figures in found if figures["row"] == row.figure)

    def published_ap(self, row: Row) -> str:
        """The paper's AP in words, or "-"."""
        figures = self.published(row)
        return f"{figures['AP']:.1f}{' (second hand)' * ('second_hand' in figures)}" if "AP" in figures else "-"

    def chosen(self, patterns: list[str]) -> tuple[Row, ...]:
        """Choose rows by names or shell patterns, and the rows whose weights they evaluate.

        Returns:
            The rows in the order of the table; all of them for an empty list.

        Raises:
            InputError: for a pattern that fits no row.
        """
        names = [row.name for row in self.rows]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                near = suggestion(pattern, names)
                raise InputError(f"--rows {pattern}: the table has no such row.{near} It has: {', '.join(names)}")
        found = [row for row in self.rows if any(fnmatchcase(row.name, pattern) for pattern in patterns or ["*"])]
        wanted = {name for row in found for name in (row.name, row.trained_as)}
        return tuple(row for row in self.rows if row.name in wanted)

    def length(self, row: Row) -> float:
        """The epochs of a row over the fewest epochs of its project's rows: the toy config trains so much longer."""
        project = find_config(row.toy_config).parent
        return row.epochs / min(other.epochs for other in self.rows if find_config(other.toy_config).parent == project)
