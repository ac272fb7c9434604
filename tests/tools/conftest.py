"""The table of the tests of `crossstage reproduce`."""

from pathlib import Path

import pytest

from crossstage.reproduction.tables import PAPERS
from tests.finished_runs import ROWS, STANDIN


@pytest.fixture
def standin_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PAPERS["stageinteractor"], "x", ROWS)
    monkeypatch.syspath_prepend(STANDIN)
    monkeypatch.setenv("PYTHONPATH", str(STANDIN))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
