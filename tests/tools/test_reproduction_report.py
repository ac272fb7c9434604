"""What the report of a table says of the files of its runs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from crossstage.reproduction import report
from crossstage.reproduction.course import course_lines, course_of
from tests.finished_runs import CONFIG, ROWS, finish, reports_of, request_of

pytestmark = pytest.mark.usefixtures("standin_table")


def test_query_metrics_have_columns_and_change_no_settings():
    request = request_of(
        (ROWS[0], replace(ROWS[1], overrides=(*ROWS[1].overrides, "train.query_metrics.enabled=True")))
    )
    finish(request, 0, [11.0])
    finish(request, 1, [12.0])
    for folder, queries in (("plain", None), ("rule", {"gini_0.3": 0.91, "gini_0.5": None})):
        path = Path(f"out/toy/{folder}/seed0/results.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **({"queries": queries} if queries else {})}))
    plain, rule = reports_of(request)
    assert (plain.gini[".3"], rule.gini[".3"].mean, rule.gini[".5"]) == (None, 0.91, None)
    text = Path("out/toy/report.md").read_text()
    assert "| delta | Gini of activations at .3 | Gini of activations at .5 | training time |" in text
    assert "| +1.00 vs plain (1 seed) | 0.91 | - | 0:01:00 |" in text and "| baseline | - | - | 0:01:00 |" in text
    overridden = replace(request, overrides=("train.query_metrics.enabled=False",))
    assert overridden.runs(request.table.rows[1])[0].differences() == []


T2 = 0.95 / math.sqrt(2 * 0.975 * 0.025)  # Student's t at 97.5 %, in closed form with 2 degrees of freedom


def test_report_says_what_the_disk_holds(tmp_path):
    plain = replace(ROWS[0], figure="DINO, 12 epochs")
    request = request_of((plain, ROWS[1], ROWS[3]), scale=0.5, seeds=3)
    finish(request, 0, [11.0, 32.0, 53.0])
    finish(request, 1, [12.0, 34.0, 56.0])
    _, rule, longer = reports_of(request)
    assert rule.ap.mean == pytest.approx(34) and rule.ap50.mean == pytest.approx(54)
    assert rule.delta.signed() == "+2.00 ± 2.48"  # by seed 1, 2, 3, though both rows vary by much more
    assert longer.missing == "seed 0: not run; seed 1: not run; seed 2: not run" and longer.delta is None
    text = (request.folder / "report.md").read_text()
    assert "| plain | 6 | 49.2 | 11.00 / 32.00 / 53.00 | 32.00 ± 52.17 |" in text
    assert "| rule | 6 | - | 12.00 / 34.00 / 56.00 |" in text
    assert "+2.00 ± 2.48 vs plain (3 seeds) | 0:01:00 / 0:01:00 / 0:01:00 |" in text  # 20 x 1 s + 10 x 4 s
    assert "published AP, COCO" in text and "cannot be compared" in text and "commit c0ffee" in text
    assert f"--config-file {CONFIG} --resume model.noise=0 dataloader.root=data train.max_iter=6 " in text
    written = json.loads((request.folder / "report.json").read_text())
    assert [row["finished"] for row in written["rows"]] == [True, True, False]
    assert written["rows"][1]["delta"]["half_width"] == pytest.approx(T2 / math.sqrt(3))
    assert request.runs(ROWS[3])[0].settings["train.max_iter"] == 12  # 12 of the config x 24 / 12 epochs x 0.5


@pytest.mark.parametrize(
    ("data", "named", "rule"),
    [
        ("toy", "(toy)", "toy config, times the row's epochs over"),
        ("coco", "(coco)", "row's config times --epochs-scale"),
        ("own", "(cells)", "toy config, times the row's epochs over"),
    ],
)
def test_the_head_of_a_report_names_the_data_and_how_long_was_trained(data, named, rule):
    request = replace(request_of(), data=data, root=Path("pictures/cells"))
    title, measured, *_ = report.markdown([], request).split("\n\n")
    assert title == f"# {request.table.title} {named}"
    assert rule in measured and ("the pictures of cells" in measured) == (data == "own")


def test_runs_with_other_settings_do_not_count():
    finish(request_of(scale=0.5), 0, [11.0])
    request = request_of()
    finish(request, 1, [12.0])
    plain, rule, *_ = reports_of(request)
    assert plain.ap is None and "train.max_iter=6 (asked: 12)" in plain.missing
    assert rule.ap.mean == 12 and rule.ap.half_width is None and rule.delta is None


def test_a_score_is_the_mean_of_the_last_evaluations_of_averaged_weights_where_there_are_any():
    request = request_of(evaluations=4, last=2, seeds=2)
    finish(request, 0, [30.0, 40.0])
    first, second = request.runs(ROWS[0])
    assert first.settings["train.eval_period"] == 3  # of 12 iterations
    for run, task in ((first, "bbox"), (second, "ema_bbox")):
        rows = [{"iteration": at, f"{task}/AP": at, f"{task}/AP50": 2 * at, "time": 1.0} for at in (3, 6, 9, 12)]
        rows = [{**row, "bbox/AP": row.get("bbox/AP", 99)} for row in rows]
        (run.folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, *_ = reports_of(request)
    assert plain.ap.mean == 10.5 and plain.ap50.mean == 21
    assert "mean of its last 2 evaluations" in (request.folder / "report.md").read_text()
    course = course_of([first, second])
    assert course == {at: {0: ap, 1: ap} for at, ap in ((4, 3), (7, 6), (10, 9), (12, 12))}
    (second.folder / "metrics.json").write_text(json.dumps({"iteration": 12, "bbox/AP": 1, "bbox/AP50": 1}) + "\n")
    assert "has 1 evaluations; expected --last 2 or more" in reports_of(request)[0].missing


def test_the_course_of_a_training_has_the_paired_differences_of_each_evaluation():
    request = request_of(ROWS[:2], evaluations=2, seeds=3)
    finish(request, 0, [30.0, 40.0, 50.0])
    finish(replace(request, seeds=2), 1, [31.0, 43.0])
    planned = {row.name: request.runs(row) for row in ROWS[:2]}
    for name, halves in (("plain", [10, 20, 30]), ("rule", [15, 25])):
        for run, half in zip(planned[name], halves, strict=False):
            ends = {"plain": 30 + 10 * run.seed, "rule": 31 + 12 * run.seed}
            rows = [{"iteration": 5, "bbox/AP": half, "bbox/AP50": 0}, {"iteration": 12, "bbox/AP": ends[name]}]
            (run.folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = course_lines(ROWS[:2], planned)
    assert [line[0] for line in lines] == ["row", "plain", "rule", "rule less plain"]
    assert lines[0][1:] == ["6", "12"] and lines[1][1].startswith("20.00 ± ")
    assert lines[3][1] == "+5.00 ± 0.00" and lines[3][2].startswith("+2.00 ± ")  # of +1 and +3; seed 2 has no pair
    report.write(request, planned)
    assert "| rule less plain | +5.00 ± 0.00 |" in (request.folder / "report.md").read_text()
    unfinished = request.runs(ROWS[1])[0].folder / "results.json"
    unfinished.unlink()
    assert course_lines(ROWS[:2], planned)[3][2] == "+3.00"
