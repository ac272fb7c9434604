"""PaQ-DETR's tables as data; none yet. A `figure` is a label in paper_figures.json."""

from __future__ import annotations

from crossstage.reproduction.rows import Row

PAQ_TABLES: dict[str, tuple[Row, ...]] = {}
