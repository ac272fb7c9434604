"""A row of a paper's table as data, and the choice of rows. The tables are in `detr_rows` and `mixer_rows`."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from crossstage.config.find import find_config
from crossstage.config.names import suggestion
from crossstage.errors import InputError


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: name of the row in --rows, and of the folder of its runs.
        config: the config for COCO, a short name or a file.
        toy_config: the config for the generated set.
        paper_ap: AP on COCO that `source` published; None if we know no figure.
        source: the publisher of the figure, or "".
        baseline: the row of the same table that it is compared with, or "".
        epochs: number of epochs on COCO.
        overrides: key=value for both configs.
        toy_overrides: further key=value for the config of the generated set.
    """

    name: str
    config: str
    toy_config: str
    paper_ap: float | None
    source: str
    baseline: str
    epochs: int
    overrides: tuple[str, ...] = ()
    toy_overrides: tuple[str, ...] = ()

    def config_for(self, data: str) -> str:
        """The config for "coco" or "toy"."""
        return self.toy_config if data == "toy" else self.config

    def overrides_for(self, data: str) -> tuple[str, ...]:
        """The changes to the config for "coco" or "toy"."""
        return (*self.overrides, *self.toy_overrides) if data == "toy" else self.overrides


def chosen(rows: tuple[Row, ...], patterns: list[str]) -> tuple[Row, ...]:
    """Choose rows of a table.

    Args:
        rows: all rows.
        patterns: names or shell patterns; an empty list chooses all rows.

    Returns:
        The chosen rows in the order of the table.

    Raises:
        InputError: for a pattern that fits no row.
    """
    names = [row.name for row in rows]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = suggestion(pattern, names)
            raise InputError(f"--rows {pattern}: the table has no such row.{near} It has: {', '.join(names)}")
    return tuple(row for row in rows if any(fnmatchcase(row.name, pattern) for pattern in patterns or ["*"]))


def length(row: Row, rows: tuple[Row, ...]) -> float:
    """The epochs of a row divided by the fewest epochs of its project's rows; the toy config trains so much longer."""
    project = find_config(row.toy_config).parent
    return row.epochs / min(other.epochs for other in rows if find_config(other.toy_config).parent == project)
