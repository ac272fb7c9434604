"""What a run says and keeps: scores, the best weights, the reason of its end, the numbers' origin."""

import json
import math
import os
import re
import resource
import shutil
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from crossstage.checkpoints.load import read_checkpoint
from crossstage.checkpoints.save import Checkpointer
from crossstage.cli.train import main
from crossstage.config import LazyConfig, find_config
from crossstage.data.coco import CocoDetection
from crossstage.data.loader import grouped_batches
from crossstage.engine.best import Best
from crossstage.engine.interrupt import StopSignals
from crossstage.engine.output import held
from crossstage.engine.run import build_parts
from crossstage.errors import InputError, NonFiniteError


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of curves take most of the time of such short runs."""
    monkeypatch.setattr("crossstage.engine.log.draw_curves", lambda *_: None)


def after(best: Best, *scores: float) -> Best:
    for number, score in enumerate(scores, start=best.iteration + best.waited + 1):
        best = best.after({"bbox": {"AP": score}}, number)
    return best


@pytest.mark.parametrize(
    ("scores", "score", "iteration", "waited"),
    [
        ([], math.nan, -1, 0),
        ([1.0, 3.0, 2.0], 3.0, 1, 1),
        ([2.0, 2.0], 2.0, 0, 1),  # the first of equal ones
        ([math.nan, 1.0, math.nan], 1.0, 1, 1),
        ([0.0], 0.0, 0, 0),
    ],
)
def test_the_best_score_and_how_long_ago_it_was(scores, score, iteration, waited):
    best = after(Best("bbox/AP", patience=2), *scores)
    assert (best.iteration, best.waited) == (iteration, waited)
    assert best.score == pytest.approx(score, nan_ok=True)
    assert best.restored(json.loads(json.dumps(best.state_dict()))).state_dict() == best.state_dict()


def test_patience_counts_evaluations_and_the_average_decides():
    best = after(Best("bbox/AP", patience=2), 5.0, 4.0)
    assert not best.is_exhausted and after(best, 4.0).is_exhausted
    assert not after(Best("bbox/AP"), 5.0, 4.0, 3.0, 2.0).is_exhausted
    results = {"bbox": {"AP": 1.0}, "ema_bbox": {"AP": 2.0}}
    assert Best("bbox/AP").after(results, 0).score == 2.0
    with pytest.raises(InputError, match="no such score; expected '' or one of: bbox/AP, ema_bbox/AP"):
        Best("bbox/AP95").after(results, 0)
    assert Best("").after(results, 0).iteration == -1


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch):
    """Let the evaluations of a run have the given scores."""

    def script(*scores: float) -> None:
        left = list(scores)
        monkeypatch.setattr("crossstage.engine.trainer.score", lambda *_: {"bbox": {"AP": left.pop(0), "APs": 1.0}})

    return script


NO_EMA = ("train.model_ema.enabled=False", "train.eval_period=2")


def test_the_best_weights_are_kept_and_the_scores_are_told(run, scripted, capsys):
    scripted(1.0, 5.0, 4.0)
    folder = run("run", "train.max_iter=6", "train.checkpointer.period=2", *NO_EMA)
    told = capsys.readouterr().out
    assert "iteration 3: bbox: AP 5.00  APs 1.00" in told and "iteration 5: bbox: AP 4.00" in told
    assert "best bbox/AP 5.00 at iteration 3" in told and told == "".join((folder / "log.txt").open())
    best, at_the_time = (read_checkpoint(folder / name) for name in ("model_best.pth", "model_0000003.pth"))
    assert best["best"] == {"metric": "bbox/AP", "score": 5.0, "iteration": 3, "waited": 0}
    assert all(best["model"][name].equal(tensor) for name, tensor in at_the_time["model"].items())
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"


def test_averaged_weights_are_saved_as_best(run, scripted):
    scripted(1.0, 1.0, 0.0, 0.0)  # averaged and own
    folder = run("run", "train.max_iter=4", "train.eval_period=2", "train.checkpointer.period=2")
    best, then = read_checkpoint(folder / "model_best.pth"), read_checkpoint(folder / "model_0000001.pth")
    for name, average in then["ema_state"].items():
        assert best["model"][name].equal(average) and best["ema_state"][name].equal(average)


def test_early_stopping_ends_the_run_and_a_larger_patience_continues_it(run, scripted, arguments, capsys):
    scripted(3.0, 2.0, 1.0, *[0.0] * 9)
    patience = [*NO_EMA, "train.early_stopping.patience=2"]
    folder = run("run", *patience)
    assert read_checkpoint(folder / "model_final.pth")["iteration"] == 5
    assert json.loads((folder / "results.json").read_text())["bbox"]["AP"] == 1.0  # evaluated once, not again
    assert "stopped early after iteration 5" in capsys.readouterr().out
    run("run", "--resume", *patience)
    assert read_checkpoint(folder / "model_final.pth")["iteration"] == 5
    run("run", "--resume", *NO_EMA, "train.early_stopping.patience=9")
    assert read_checkpoint(folder / "model_final.pth")["iteration"] == 11
    assert read_checkpoint(folder / "model_best.pth")["iteration"] == 1


def test_the_best_and_the_patience_survive_a_kill(run, scripted, tmp_path, arguments):
    stopped = [*NO_EMA, "train.checkpointer.period=4", "train.early_stopping.patience=3"]
    scores = (1.0, 5.0, 3.0, 2.0, 4.0, 9.0)  # the last one is not reached
    scripted(*scores)
    whole = run("whole", *stopped)
    scripted(*scores)
    assert main(arguments("part", *stopped, "model.accident=SIGTERM", "model.accident_at=7")) == 143
    part = run("part", "--resume", *stopped)
    states = [read_checkpoint(folder / "model_final.pth")["best"] for folder in (whole, part)]
    assert states[0] == states[1] == {"metric": "bbox/AP", "score": 5.0, "iteration": 3, "waited": 3}
    bests = [read_checkpoint(folder / "model_best.pth")["model"] for folder in (whole, part)]
    assert all(bests[0][name].equal(bests[1][name]) for name in bests[0])


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_the_signals_of_batch_systems_let_a_run_save(name):
    with StopSignals(quiet=True) as stop:
        signal.raise_signal(signal.Signals[name])
        assert stop.received == signal.Signals[name]


def test_an_unknown_best_metric_stops_at_once(arguments, capsys):
    assert main(arguments("run", "train.best_metric=bbox/AP95")) == 2
    assert "train.best_metric='bbox/AP95': no such score; expected '' or one of: bbox/AP, " in capsys.readouterr().err


def last_lines(folder: Path) -> str:
    return (folder / "log.txt").read_text()[-6000:]


def test_the_log_begins_with_versions_commit_command_device_seed_and_size(run):
    lines = (run("run", "train.max_iter=1") / "log.txt").read_text().splitlines()
    assert "crossstage 0.1.0, python 3." in lines[0] and "torch 2." in lines[0]
    assert lines[1].split()[0] == "commit" and "--config-file" in lines[2] and "torch uses 1 thread" in lines[3]
    assert any("seed 7; 156 parameters, 156 of them trained" in line for line in lines[:10])


def test_results_say_where_they_come_from(run, toy_root):
    about = json.loads((run("run", "train.max_iter=1") / "results.json").read_text())["about"]
    assert about["weights"] == "model_final.pth" and about["data"]["images"] == 8 and about["commit"]
    assert about["data"]["json_file"] == str(toy_root / "annotations/instances_val2017.json")
    assert about["versions"]["torch"] == torch.__version__


def test_a_nan_leaves_its_batch_a_picture_and_the_losses(arguments, tmp_path):
    with pytest.raises(NonFiniteError, match=r"--resume comes to the same step again; train\.nonfinite=skip leaves"):
        main(arguments("run", "model.accident=loss", "model.accident_at=3"))
    failure = tmp_path / "run/failure"
    assert {path.name for path in failure.iterdir()} == {"batch.pt", "batch.jpg", "losses.json"}
    content = json.loads((failure / "losses.json").read_text())
    (batch,) = torch.load(failure / "batch.pt", weights_only=True)
    assert content["iteration"] == 3 and content["batches"][0]["losses"]["loss_class"] == "nan"
    assert content["batches"][0]["losses"]["loss_bbox"] > 0
    assert batch["image_ids"] == content["batches"][0]["image_ids"] and batch["pixels"].shape[0] == 4
    assert len(batch["labels"]) == len(batch["boxes"]) == 4
    assert (failure / "batch.jpg").read_bytes().startswith(b"\xff\xd8")
    assert "Traceback" in last_lines(tmp_path / "run") and "NonFiniteError: iteration 3" in last_lines(tmp_path / "run")


@pytest.mark.parametrize(("accident", "count"), [("loss", 1), ("gradient", 3)])  # its hook stays for all later steps
def test_skip_leaves_the_step_out_and_counts_it(accident, count, run, capsys):
    common = ("train.max_iter=6", "train.nonfinite=skip", "train.log_period=1", "train.eval_period=0")
    folder = run("run", *common, f"model.accident={accident}", "model.accident_at=3")
    assert "iteration 3 left out, 1 of at most 50: iteration 3: " in capsys.readouterr().out
    states = [read_checkpoint(folder / name)["model"] for name in ("model_0000003.pth", "model_final.pth")]
    before = read_checkpoint(run("short", *common[1:], "train.max_iter=3") / "model_final.pth")["model"]
    assert states[0]["class_head.weight"].equal(before["class_head.weight"])
    assert states[1]["class_head.weight"].isfinite().all()
    assert states[1]["class_head.weight"].equal(before["class_head.weight"]) == (count == 3)
    assert [json.loads(line).get("skipped") for line in (folder / "metrics.json").open()][2:4] == [None, 1.0]
    assert read_checkpoint(folder / "model_final.pth")["skipped"] == count


def test_too_many_skipped_steps_end_the_run(arguments):
    accident = ["model.accident=loss", "model.accident_at=3", "train.nonfinite=skip", "train.max_skipped=0"]
    with pytest.raises(NonFiniteError, match=r"0 steps were left out before, as many as train\.max_skipped allows"):
        main(arguments("run", *accident))


@pytest.fixture
def damaged(toy_root, tmp_path, monkeypatch) -> str:
    """The override for a copy of the data in which a picture of an early iteration cannot be read."""
    root = tmp_path / "damaged"
    shutil.copytree(toy_root, root)
    index = list(islice(grouped_batches(np.zeros(24, bool), batch_size=4, seed=7), 3))[2][0][0]
    picture = sorted((root / "train2017").iterdir())[index]
    picture.write_bytes(picture.read_bytes()[:300])
    monkeypatch.setattr(CocoDetection, "preflight", lambda _: None)
    return f"dataloader.root={root}"


def test_an_input_error_saves_first_and_the_option_leads_past_it(run, arguments, tmp_path, damaged, capsys):
    given = ["train.eval_period=0", "train.max_iter=5", damaged]
    assert main(arguments("run", *given)) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "may be truncated" in error and "; --resume comes to the same step again" in error
    saved = int(re.fullmatch(r".*train.bad_batch=skip leaves such steps out; iteration (\d) is saved", error)[1])
    assert error.removeprefix("error: ") in last_lines(tmp_path / "run") and "Traceback" in last_lines(tmp_path / "run")
    assert (tmp_path / "run/last_checkpoint").read_text() == f"model_000000{saved}.pth"
    assert main(arguments("run", "--resume", *given)) == 2
    folder = run("run", "--resume", "train.bad_batch=skip", *given)
    state = read_checkpoint(folder / "model_final.pth")
    assert (state["skipped"], state["sampler"]["batches"], state["iteration"]) == (1, 5, 4)
    assert f"iteration {saved + 1} left out, 1 of at most 50" in capsys.readouterr().out


def test_any_other_error_ends_the_log_with_its_traceback(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("crossstage.engine.trainer.score", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(arguments("run"))
    assert "the run ended: ZeroDivisionError: division by zero\nTraceback" in last_lines(tmp_path / "run")
    assert last_lines(tmp_path / "run").endswith("ZeroDivisionError: division by zero\n")


def test_a_signal_in_an_evaluation_alone_ends_the_log(run, arguments, tmp_path, monkeypatch, capsys):
    folder = run("run", "train.max_iter=1", "train.model_ema.enabled=False")
    monkeypatch.setattr("crossstage.engine.run.score", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    given = [f"train.init_checkpoint={folder}/model_final.pth", "train.model_ema.enabled=False"]
    assert main(arguments("run", "--eval-only", *given)) == 143
    assert "the run ended: stopped at once by SIGTERM" in last_lines(folder / "eval_model_final").splitlines()[-1]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_folder_in_use_is_refused_with_the_process_that_uses_it(arguments, tmp_path, capsys):
    with held(tmp_path / "run"):
        assert main(arguments("run")) == 2
    assert f"run: in use by process {os.getpid()}; wait for it" in capsys.readouterr().err
    assert list((tmp_path / "run").iterdir()) == []
    with held(tmp_path / "run"):
        pass


def test_an_evaluation_does_not_overwrite_the_results_of_a_training(run):
    folder = run("run", "train.max_iter=2", "train.model_ema.enabled=False")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    run("run", "--eval-only", f"train.init_checkpoint={folder}/model_final.pth", "train.model_ema.enabled=False")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    evaluated = json.loads((folder / "eval_model_final/results.json").read_text())
    assert evaluated["about"]["weights"] == f"{folder}/model_final.pth"
    assert (folder / "eval_model_final/coco_instances_results.json").exists()


def test_length_and_periods_in_epochs(run, capsys):
    epochs = ["train.max_epochs=1.5", "train.eval_epochs=0.5", "train.checkpointer.epochs=1"]
    folder = run("run", *epochs, "train.accumulate=2")  # 24 images, 8 per iteration
    rows = [json.loads(line) for line in (folder / "metrics.json").open()]
    assert [row["iteration"] for row in rows if "bbox/AP" in row] == [1, 3, 5]
    assert "an epoch is 3.0 iterations (24 images, 8 per iteration): train.max_iter=5" in capsys.readouterr().out
    assert (folder / "model_0000002.pth").exists() and not (folder / "model_0000003.pth").exists()
    assert len(list(run("given", *epochs[1:], "train.max_iter=1").glob("model_final.pth"))) == 1


@pytest.mark.parametrize("replaced", [True, False])
def test_a_backbone_that_a_checkpoint_replaces_is_not_downloaded(replaced, monkeypatch, tmp_path, toy_root):
    """Without internet, a run from a checkpoint begins, and one without is one line with the remedies."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def offline(*_, pretrained: bool, **options):
        if pretrained:
            raise FileNotFoundError("cannot find the requested files in the local cache")
        return create(*_, pretrained=pretrained, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    config = LazyConfig.load(find_config("dino_toy"))
    config.dataloader.root, config.model.backbone.pretrained = str(toy_root), True
    if replaced:
        assert build_parts(config, trains=False, replaced=True).model.num_classes == 8
        assert config.model.backbone.pretrained  # config.yaml keeps it
    else:
        with pytest.raises(
            InputError, match=r"pretrained weights cannot be downloaded .* run once with internet, start"
        ):
            build_parts(config, trains=False, replaced=False)


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path):
    """A limit on the size of files stands in for a full disk; the campaign in tests/faults fills a real one."""
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("model_0000001", {"model": {"weight": torch.zeros(10)}})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(
            InputError, match=r"model_0000003\.pth: cannot be written .* \(last checkpoint: model_0000001"
        ):
            checkpointer.save("model_0000003", {"model": {"weight": torch.zeros(10_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
