"""The papers and their tables. To add a table, add a tuple of rows to one of the files `*_rows`."""

from __future__ import annotations

from crossstage.errors import InputError
from crossstage.reproduction.deqdet_rows import DEQDET_TABLES
from crossstage.reproduction.detr_rows import DETR_TABLES
from crossstage.reproduction.mixer_rows import MIXER_TABLES
from crossstage.reproduction.paq_rows import PAQ_TABLES
from crossstage.reproduction.rows import Row, Table

PAPERS: dict[str, dict[str, tuple[Row, ...]]] = {
    "stageinteractor": {**DETR_TABLES, **MIXER_TABLES},
    "deqdet": DEQDET_TABLES,
    "paq_detr": PAQ_TABLES,
}


def table_of(paper: str, name: str) -> Table:
    """A table of a paper. Raises InputError for an unknown table; the message lists all tables of the paper."""
    tables = PAPERS[paper]
    if not tables:
        raise InputError(f"--paper {paper}: this version has no rows for its tables yet")
    if name not in tables:
        known = ", ".join(sorted(tables, key=lambda name: (len(name), name)))
        raise InputError(f"--table {name}: no rows are known for it in {paper}; expected one of {known}")
    return Table(paper, name, tables[name])
