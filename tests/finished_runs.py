"""A small table of a paper, and the files that its finished runs would leave."""

import json
from pathlib import Path

from crossstage.reproduction import report
from crossstage.reproduction.rows import Row, Table
from crossstage.reproduction.runs import Request

ROOT = Path(__file__).resolve().parents[1]
STANDIN = ROOT / "tests" / "crossstage" / "engine"
CONFIG = str(ROOT / "tests/crossstage/engine/engine_config.py")  # 12 iterations, by itself
ROWS = (
    Row("plain", CONFIG, CONFIG),
    Row("rule", CONFIG, CONFIG, "", "plain", 12, ("model.noise=0",)),
    Row("loud", CONFIG, CONFIG, "", "plain", 24, ("model.noise=9",), trained_as="longer"),
    Row("longer", CONFIG, CONFIG, "", "plain", 24),
)


def request_of(rows: tuple[Row, ...] = ROWS, **values) -> Request:
    return Request(Table("stageinteractor", "4", rows), "toy", Path("data"), Path("out"), **values)


def finish(request: Request, row: int, aps: list[float]) -> None:
    """The files that finished runs of the row leave, one run per seed."""
    for run, ap in zip(request.runs(ROWS[row]), aps, strict=True):
        run.note_start(command=run.command(1), commit="c0ffee", device="CPU")
        (run.folder / "last_checkpoint").write_text("model_final.pth")
        (run.folder / "results.json").write_text(json.dumps({"bbox": {"AP": ap, "AP50": ap + 20}}))
        lines = [{"iteration": 19, "time": 1.0}, {"iteration": 29, "time": 4.0}, {"iteration": 30, "bbox/AP": ap}]
        (run.folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def reports_of(request: Request) -> list[report.RowReport]:
    return report.write(request, {row.name: request.runs(row) for row in request.table.rows})
