"""All tables of `crossstage reproduce`. To add a table, add a tuple of rows to `detr_rows` or `mixer_rows`."""

from __future__ import annotations

from crossstage.errors import InputError
from crossstage.reproduction.detr_rows import DETR_TABLES
from crossstage.reproduction.mixer_rows import MIXER_TABLES
from crossstage.reproduction.rows import Row

_ALL = {**DETR_TABLES, **MIXER_TABLES}
TABLES: dict[str, tuple[Row, ...]] = {name: _ALL[name] for name in sorted(_ALL, key=lambda name: (len(name), name))}


def rows_of(table: str) -> tuple[Row, ...]:
    """The rows of a table. Raises InputError for an unknown table; the message lists all tables."""
    if table not in TABLES:
        raise InputError(f"--table {table}: no rows are known for it; expected one of {', '.join(TABLES)}")
    return TABLES[table]
