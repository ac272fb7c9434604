"""All tables that tools/reproduce.py knows. A new table is a tuple of rows in one of the files that this one joins."""

from __future__ import annotations

from crossstage.errors import InputError
from crossstage.reproduction.detr_rows import DETR_TABLES
from crossstage.reproduction.mixer_rows import MIXER_TABLES
from crossstage.reproduction.rows import Row

_ALL = {**DETR_TABLES, **MIXER_TABLES}
TABLES: dict[str, tuple[Row, ...]] = {name: _ALL[name] for name in sorted(_ALL, key=lambda name: (len(name), name))}


def rows_of(table: str) -> tuple[Row, ...]:
    """The rows of a table. Raises InputError, naming the tables that there are."""
    if table not in TABLES:
        raise InputError(f"--table {table}: no rows are known for it; expected one of {', '.join(TABLES)}")
    return TABLES[table]
