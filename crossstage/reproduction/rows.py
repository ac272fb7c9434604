"""A row of a paper's table as data, and choosing among rows. The tables are in `detr_rows` and `mixer_rows`."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from crossstage.config.names import suggestion
from crossstage.errors import InputError


@dataclass(frozen=True)
class Row:
    """One row of a table.

    name: of its folder of runs and in --rows.  config, toy_config: the files, below the checkout, for COCO and for
    the generated set.  paper_ap: COCO AP that `source` published, None = not in our facts.  baseline: the row of the
    same table that it is compared with, "" for none.  epochs: over COCO.  overrides: key=value for both configs.
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
    """Those rows that a name or a shell pattern fits, in the table's order; all without any pattern.

    Raises InputError for a pattern that fits none, with the nearest name.
    """
    names = [row.name for row in rows]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"--rows {pattern}: the table has no such row.{suggestion(pattern, names)} It has: {', '.join(names)}"
            )
    return tuple(row for row in rows if not patterns or any(fnmatchcase(row.name, pattern) for pattern in patterns))


def length(row: Row, rows: tuple[Row, ...]) -> float:
    """How many times its toy config's iterations a row trains: its epochs over the fewest of its project's rows."""
    fewest = min(other.epochs for other in rows if _project(other) == _project(row))
    return row.epochs / fewest


def _project(row: Row) -> str:
    return row.toy_config.partition("/configs/")[0]
