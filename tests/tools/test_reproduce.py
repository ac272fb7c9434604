"""tools/reproduce.py: what it counts, what it runs, skips, resumes and refuses, and what its report says."""

import fcntl
import json
import os
import runpy
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crossstage.cli import reproduce
from crossstage.config import find_config
from crossstage.data.toy.generate import main as write_toy
from crossstage.errors import InputError
from crossstage.reproduction import runs
from crossstage.reproduction.convergence import write_curves
from crossstage.reproduction.merge import merge
from crossstage.reproduction.runs import Request
from crossstage.reproduction.tables import table_of
from tests.finished_runs import CONFIG, ROWS, finish, reports_of, request_of

pytestmark = pytest.mark.usefixtures("standin_table")

ROOT = Path(__file__).resolve().parents[2]
# Takes the command line of crossstage; what it does is the value of model.accident.
PROGRAM = """
import json, os, pathlib, signal, sys
given = dict(text.partition("=")[::2] for text in sys.argv[1:])
folder = pathlib.Path(given["train.output_dir"])
assert (folder / "run.json").is_file()
if sys.argv[1] == "evaluate":
    weights = pathlib.Path(sys.argv[sys.argv.index("--weights") + 1])
    (folder / "results.json").write_text(json.dumps({"bbox": {"AP": float(weights.read_text()) + 1, "AP50": 70}}))
    sys.exit()
assert "--resume" in given
if given.get("model.accident") == "input" and "plain" in str(folder):
    sys.exit("warming up\\nerror: 17.jpg: truncated; copy it again")
if given.get("model.accident") == "SIGINT" and not (folder / "last_checkpoint").exists():
    def save(number, frame):
        (folder / "last_checkpoint").write_text("model_0000003.pth")
        sys.exit(128 + number)
    signal.signal(signal.SIGINT, save)
    os.kill(os.getppid(), signal.SIGINT)  # Ctrl-C reaches the tool alone
    signal.pause()
(folder / "last_checkpoint").write_text("model_final.pth")
ap = 40 + 2 * int(given["train.seed"])
(folder / "model_final.pth").write_text(str(ap))
(folder / "results.json").write_text(json.dumps({"bbox": {"AP": ap, "AP50": ap + 20}}))
"""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The tool on table x, with a program that takes no time."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(runs, "PROGRAM", (str(program),))
    annotations = tmp_path / "data" / "annotations"
    annotations.mkdir(parents=True)
    for split in ("train", "val"):
        (annotations / f"instances_{split}2017.json").write_text("{}")
    return lambda *arguments: reproduce.main(["--table", "x", "--root", "data", "--output", "out", *arguments])


def record(row: str, seed: int = 0) -> dict:
    return json.loads(Path(f"out/toy/{row}/seed{seed}/run.json").read_text())


def test_table_6_of_paq_counts_its_queries():
    for row in table_of("paq_detr", "6").rows:
        (run,) = Request(table_of("paq_detr", "6"), "toy", Path("data"), Path("out")).runs(row)
        assert "train.query_metrics.enabled=True" in run.command(1)


def test_length_and_choice_of_rows():
    table = table_of("stageinteractor", "4")
    lengths = {row.name: table.length(row) for row in table.rows}
    assert {name: times for name, times in lengths.items() if times != 1} == {
        "dino_24ep": 2,
        "dino_24ep_csla": 2,
        "dino_24ep_csla_dca": 2,
    }
    by_pattern = [row.name for row in table.chosen(["dn_*", "dino_12ep"])]
    assert by_pattern == ["dino_12ep", "dn_detr_50ep", "dn_detr_50ep_csla"]
    assert [row.name for row in request_of().table.chosen(["loud"])] == ["loud", "longer"]  # whose weights it evaluates
    with pytest.raises(InputError, match=r"dino_12ep_clsa: .* Did you mean dino_12ep_csla"):
        table.chosen(["dino_12ep", "dino_12ep_clsa"])
    with pytest.raises(InputError, match=r"--table 9: .* in stageinteractor; expected one of 1, 2, 3, 4, 5"):
        table_of("stageinteractor", "9")
    with pytest.raises(InputError, match=r"--table 4: .* in deqdet; expected one of 1, 2, 3, 4a, 4b"):
        table_of("deqdet", "4")


def test_evaluations_are_spread_over_the_iterations_that_an_override_asks_for():
    for overrides, period in (((), 3), (("train.max_iter=40",), 10), (("train.eval_period=7", "train.max_iter=40"), 7)):
        run, *_ = request_of(evaluations=4, overrides=overrides).runs(ROWS[0])
        assert run.settings["train.eval_period"] == period
    with pytest.raises(InputError, match=r"train\.max_iter"):
        request_of(evaluations=4, overrides=("train.max_iter=many",)).runs(ROWS[0])


def test_finished_runs_of_another_folder_are_taken_over(tmp_path, capsys):
    there, here = request_of(seeds=2), replace(request_of(seeds=2), output=Path("here"), root=Path("elsewhere"))
    finish(there, 0, [11.0, 12.0])
    finish(replace(there, seeds=1), 1, [21.0])
    begun = here.runs(ROWS[1])[0]
    begun.note_start(command=["x"], commit="c0ffee", device="CPU")
    (begun.folder / "last_checkpoint").write_text("model_0000003.pth")
    merge(there.folder, here)
    plain, rule, *_ = reports_of(here)
    assert plain.ap.mean == 11.5 and rule.ap is None  # a run that was begun here stays
    assert [start["commit"] for start in plain.runs[0].starts] == ["c0ffee"]
    assert "not copied, because here/toy/rule/seed0 holds this run" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"plain/seed0: holds a run with other settings: model.noise="):
        merge(there.folder, replace(here, output=Path("third"), overrides=("model.noise=7",)))
    with pytest.raises(InputError, match=r"--merge here/coco: has no finished run of this table"):
        merge(Path("here/coco"), here)


def test_curves_are_drawn_over_seeds(tool):
    assert tool("--rows", "plain", "--seeds", "2", "--curves") == 0
    assert not Path("out/toy/curves.json").exists()  # this program writes no metrics.json
    request = request_of(seeds=2)
    finish(request, 0, [30.0, 40.0])
    for run, share in zip(request.runs(ROWS[0]), (0.2, 0.4), strict=True):  # as `crossstage inspect queries` writes it
        (run.folder / "queries").mkdir()
        (run.folder / "queries/queries.json").write_text(json.dumps({"model": {"query_changes": [share, 0.1]}}))
    write_curves(request, {"plain": request.runs(ROWS[0])})
    drawn = json.loads(Path("out/toy/curves.json").read_text())
    assert [share["mean"] for share in drawn["query_changes"]["plain"]] == [pytest.approx(0.3), 0.1]
    (point,) = drawn["rows"]["plain"]
    assert point["ap"]["mean"] == 35 and point["ap"]["count"] == 2 and point["iteration"] == 12
    assert Path("out/toy/curves.png").stat().st_size and Path("out/toy/curves.pdf").stat().st_size


def test_a_run_does_not_count_once_its_config_file_says_something_else(monkeypatch, tmp_path):
    config = tmp_path / "config.py"
    config.write_text((ROOT / CONFIG).read_text())
    request = request_of((replace(ROWS[0], toy_config=str(config)),))
    (run,) = request.runs(request.table.rows[0])
    run.note_start(command=run.command(1), commit="c0ffee", device="CPU")
    (run.folder / "last_checkpoint").write_text("model_final.pth")
    assert run.differences() == []
    names = json.loads((run.folder / "run.json").read_text())["settings"]  # the same in every process
    assert names["optimizer.params._target_"] == "crossstage.engine.optim.parameter_groups"
    with config.open("a") as file:
        file.write("optimizer.lr = 0.5\n")
    runs._loaded.cache_clear()  # as in another process
    assert request.runs(request.table.rows[0])[0].differences() == ["optimizer.lr=0.01 (asked: 0.5)"]


def test_a_failing_row_loses_no_other_and_is_tried_again(tool, capfd):
    assert tool("--rows", "plain", "rule", "model.accident=input") == 1
    out, err = capfd.readouterr()
    assert (
        "error: plain: seed 0: failed (0 of 12 iterations are saved): 17.jpg: truncated; copy it again"
        in err.splitlines()
    )
    assert "[2/2] rule, seed 0: starting" in out
    text = Path("out/toy/report.md").read_text()
    assert "- plain: seed 0: failed (0 of 12 iterations are saved): 17.jpg: truncated; copy it again" in text
    assert "| rule | 12 | - | 40.00 | 40.00 | 60.00 |" in text
    # nothing of `plain` would be lost: other settings are no reason to refuse, unlike those of `rule`
    assert tool("--rows", "plain", "--seeds", "2") == 0
    assert "[1/2] plain, seed 0: starting" in capfd.readouterr().out
    assert record("plain")["error"] == "" and json.loads(Path("out/toy/report.json").read_text())["seeds"] == 2
    assert tool("--rows", "rule") == 2
    assert capfd.readouterr().err.startswith(
        "error: out/toy/rule/seed0: holds a run with other settings: model.accident=input (asked: ''); "
    )


def test_a_row_evaluates_the_weights_of_another_after_its_training(tool, capfd):
    assert tool("--rows", "loud", "--seeds", "2") == 0
    told = [line.split("] ")[1] for line in capfd.readouterr().out.splitlines() if line.startswith("[")]
    order = [("longer", 0), ("loud", 0), ("longer", 1), ("loud", 1)]
    assert told == [f"{row}, seed {seed}: starting in out/toy/{row}/seed{seed}" for row, seed in order]
    rows = {row["row"]["name"]: row for row in json.loads(Path("out/toy/report.json").read_text())["rows"]}
    assert rows["longer"]["ap"]["mean"] == 41 and rows["loud"]["ap"]["mean"] == 42
    assert "| loud | 24 | - | 41.00 / 43.00 | 42.00 ±" in Path("out/toy/report.md").read_text()
    command = shlex.split(record("loud")["command"])
    assert {"evaluate", "out/toy/longer/seed0/model_final.pth", "model.noise=9"} <= {*command}
    assert tool("--rows", "loud", "--seeds", "2") == 0
    assert capfd.readouterr().out.count("finished, skipped") == 4
    os.utime("out/toy/loud/seed1/results.json", (0, 0))  # older than the weights, which were trained once more
    assert tool("--rows", "loud", "--seeds", "2") == 0
    assert capfd.readouterr().out.count("finished, skipped") == 3
    assert len(record("loud", 1)["starts"]) == 2


def test_ctrl_c_lets_the_training_save_and_the_same_command_goes_on(tool, capfd):
    assert tool("--rows", "plain", "rule", "model.accident=SIGINT") == 130
    out, err = capfd.readouterr()
    assert "stopped; continue with: " in err and err.rstrip().endswith("model.accident=SIGINT")
    assert "rule, seed 0: starting" not in out
    assert "seed 0: stopped (4 of 12 iterations are saved)" in Path("out/toy/report.md").read_text()
    Path("out/toy/rule/seed0").mkdir(parents=True)
    Path("out/toy/rule/seed0/last_checkpoint").write_text("model_0000003.pth")  # by another tool
    assert tool("--rows", "plain", "rule", "model.accident=SIGINT") == 2
    assert "rule/seed0: holds a run with other settings: no run.json" in capfd.readouterr().err
    assert tool("--rows", "plain", "model.accident=SIGINT") == 0
    assert "[1/1] plain, seed 0: continuing" in capfd.readouterr().out
    assert len(record("plain")["starts"]) == 2
    # killed in the final evaluation: all iterations are saved, and it is not finished
    Path("out/toy/plain/seed0/results.json").unlink()
    assert tool("--rows", "plain", "model.accident=SIGINT") == 0
    assert "[1/1] plain, seed 0: continuing" in capfd.readouterr().out


def test_two_tools_do_not_train_in_one_folder(tool, capfd):
    folder = Path("out/toy/plain/seed0")
    folder.mkdir(parents=True)
    with (folder / ".reproduce.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert tool("--rows", "plain", "rule") == 1
    assert f"error: {folder}: in use by process" in capfd.readouterr().err
    assert not (folder / "run.json").exists() and Path("out/toy/rule/seed0/results.json").exists()
    assert tool("--rows", "plain") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "plan"], "--rows plan: the table has no such row. Did you mean plain?"),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--last", "2"], "--last 2: expected at most --evaluations, which is 1"),
        (["--merge", "absent"], "--merge absent: has no finished run of this table"),
        (["--epochs-scale", "nan"], "--epochs-scale nan: expected a number above 0, or small"),
        (["--epochs-scale", "tiny"], "--epochs-scale tiny: expected a number above 0, or small"),
        (["--data", "coco", "--root", "absent"], "--root absent: has no annotations/instances_train2017.json"),
        (["model.nois=1"], "model.nois=1: no such key"),
        (["train.log_period=0"], "train.log_period=0: expected"),
        (["train.seed=3"], "train.seed=3: given by --output, --root and --seeds here"),
        (["--paper", "paq_detr"], "--table x: no rows are known for it in paq_detr; expected one of 1, 2, 3, 6"),
        (["plain"], "plain: expected key=value; rows are named by --rows plain"),
    ],
)
def test_mistakes_are_told_before_anything_starts(tool, capfd, arguments, message):
    assert tool(*arguments) == 2
    assert capfd.readouterr().err.startswith(f"error: {message}")
    assert not Path("out").exists()


def test_a_real_run_ends_up_in_the_report_and_is_not_repeated(capfd):
    arguments = ["--table", "x", "--rows", "rule", "--root", "data", "--output", "out", "train.device=cpu"]
    counts = ["--train", "8", "--val", "4", "--size", "96", "--workers", "1"]
    assert write_toy(["--output", "data", *counts]) == 0
    assert reproduce.main([*arguments, "train.max_iter=2", "train.log_period=1"]) == 0
    assert "skipped" not in capfd.readouterr().out
    row = json.loads(Path("out/toy/report.json").read_text())["rows"][1]
    results = json.loads(Path("out/toy/rule/seed0/results.json").read_text())
    assert row["ap"]["mean"] == results["bbox"]["AP"] and row["runs"][0]["training_seconds"] > 0
    assert reproduce.main([*arguments, "train.max_iter=2", "train.log_period=1"]) == 0
    assert "[1/1] rule, seed 0: finished, skipped" in capfd.readouterr().out
    assert len(record("rule")["starts"]) == 1
    assert reproduce.main([*arguments, "--dry-run", "train.max_iter=2", "train.log_period=1"]) == 0
    assert "\n# finished: " in capfd.readouterr().out


def test_dry_run_prints_commands_to_paste(capsys, tmp_path):
    script = runpy.run_path(str(ROOT / "tools/reproduce.py"))
    more = ["--dry-run", "--seeds", "2", "--num-gpus", "2", "--output", "with space", "train.device=cpu"]
    assert script["main"](["--table", "5", "--epochs-scale", "0.25", *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "# dino_swin_base_12ep_csla, seed 1; AP in the paper: 56.2" in lines
    write, *trainings = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert write[1:5] == ["-m", "crossstage.data.toy", "--output", "datasets/toy_easy"]
    assert [line[-1] for line in trainings] == [
        f"train.output_dir=with space/toy/dino_swin_base_12ep{variant}/seed{seed}"
        for seed in (0, 1)
        for variant in ("", "_csla")
    ]
    for line in trainings:
        assert line[1:4] == ["-m", "crossstage", "train"]
        assert find_config(line[line.index("--config-file") + 1]).is_file()
        assert {"--resume", "train.device=cpu", "dataloader.root=datasets/toy_easy", "train.eval_period=0"} <= {*line}
        assert line[line.index("--num-gpus") + 1] == "2"
    assert not list(tmp_path.iterdir())
