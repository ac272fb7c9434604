"""A row of a paper's table as data, and choosing among rows. The tables are in `detr_rows` and `mixer_rows`."""

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
        name: of its folder of runs and in --rows.
        config: the config for COCO, a short name or a file.
        toy_config: the config for the generated set.
        paper_ap: AP on COCO that `source` published; None where we know no figure.
        source: who published it, "" for nobody.
        baseline: the row of the same table that it is compared with, "" for none.
        epochs: over COCO.
        overrides: key=value for both configs.
        toy_overrides: further ones for the generated set's config.
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
    """The rows that fit a name or shell pattern, all without any; InputError for one that fits none."""
    names = [row.name for row in rows]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = suggestion(pattern, names)
            raise InputError(f"--rows {pattern}: the table has no such row.{near} It has: {', '.join(names)}")
    return tuple(row for row in rows if any(fnmatchcase(row.name, pattern) for pattern in patterns or ["*"]))


def length(row: Row, rows: tuple[Row, ...]) -> float:
    """A row's epochs over the fewest epochs of its project's rows: a factor of its toy config's iterations."""
    project = find_config(row.toy_config).parent
    return row.epochs / min(other.epochs for other in rows if find_config(other.toy_config).parent == project)
