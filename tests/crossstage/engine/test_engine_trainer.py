"""What a run computes, writes and refuses."""

import json

import pytest
import torch
from engine_standin import TinyDetector

from crossstage.checkpoints.load import read_checkpoint
from crossstage.cli.train import main
from crossstage.engine.metrics import MetricsFile
from crossstage.engine.trainer import Trainer
from crossstage.errors import NonFiniteError


def test_metrics_json_has_detectron2s_keys_and_iterations(run):
    folder = run("run", "train.log_period=5", "train.eval_period=6", "train.model_ema.enabled=False")
    lines = (folder / "metrics.json").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    # logged after iterations 4 and 9 and the last; evaluated after 5 (a line of its own) and at the end
    assert [row["iteration"] for row in rows] == [4, 5, 9, 11, 12]
    training = {"data_time", "eta_seconds", "iteration", "loss_bbox", "loss_class", "lr", "rank_data_time", "time"}
    assert set(rows[0]) == training | {"total_loss", "objects", "grad_norm"}
    assert {"bbox/AP", "bbox/AP50", "bbox/AP75", "bbox/APs", "bbox/APm", "bbox/APl", "bbox/AP-circle"} <= set(rows[1])
    assert not set(rows[1]) & training - {"iteration"} and not set(rows[4]) & training - {"iteration"}
    assert lines == [json.dumps(row, sort_keys=True) for row in rows] and "null" in lines[1]
    assert rows[0]["lr"] == pytest.approx(0.01) and rows[3]["lr"] == pytest.approx(0.001)
    assert rows[3]["eta_seconds"] == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["bbox"]["AP"] == rows[4]["bbox/AP"]


def test_the_folder_of_a_run(run, capsys):
    folder = run("run", "train.checkpointer={period: 4, max_to_keep: 2}")
    names = {path.name.split(".vm")[0] for path in folder.iterdir() if not path.name.startswith("events")}
    expected = {"config.yaml", "curves.png", "last_checkpoint", "log.txt", "metrics.json", "results.json"}
    expected |= {"coco_instances_results.json", "model_best.pth"}
    assert names == expected | {"model_0000007.pth", "model_0000011.pth", "model_final.pth"}
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    log = (folder / "log.txt").read_text()
    assert "24 images" in log and "iter: 11" in log  # from before the folder was settled to the end
    closing = capsys.readouterr().out
    assert "AP50" in closing and str(folder / "model_final.pth") in closing and str(folder / "curves.png") in closing
    state = read_checkpoint(folder / "model_final.pth")
    assert state["class_names"][0] == "circle" and len(state["category_ids"]) == 8 and state["iteration"] == 11
    assert "engine_standin.TinyDetector" in state["config"]


def test_the_norm_of_the_gradient_is_that_before_clipping(run):
    common = ("train.max_iter=1", "train.log_period=1", "train.eval_period=0")
    norms = [
        MetricsFile(run(name, *common, f"train.clip_grad.params.max_norm={most}") / "metrics.json").read()[0]
        for name, most in (("tight", 1e-6), ("wide", 1e6))
    ]
    assert norms[0]["grad_norm"] == norms[1]["grad_norm"] > 1e-3
    unclipped = MetricsFile(run("unclipped", *common, "train.clip_grad.enabled=False") / "metrics.json").read()[0]
    assert "grad_norm" not in unclipped


def test_medians_are_over_the_last_20(run):
    folder = run(
        "run", "train.max_iter=24", "train.log_period=1", "train.eval_period=0", "train.clip_grad.enabled=False"
    )
    rows = MetricsFile(folder / "metrics.json").read()[:-1]
    assert len(rows) == 24
    history = read_checkpoint(folder / "model_final.pth")["history"]
    assert len(history["total_loss"]) == 20
    middle = sorted(history["total_loss"])[9:11]
    assert rows[-1]["total_loss"] == pytest.approx(sum(middle) / 2)


@pytest.mark.parametrize(
    ("accident", "what"), [("loss", "not finite: loss_class, total_loss"), ("gradient", "gradient")]
)
def test_a_non_finite_loss_names_step_losses_and_images_and_saves_nothing(accident, what, arguments, tmp_path):
    message = rf"iteration 6: .*{what}.*; image ids \d+, \d+, \d+, \d+; .*nonfinite=skip"
    with pytest.raises(NonFiniteError, match=message):
        main(arguments("run", f"model.accident={accident}", "model.accident_at=6"))
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.glob("*.pth")) == ["model_0000003.pth", "model_best.pth"]
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    assert all(value.isfinite().all() for value in read_checkpoint(folder / "model_0000003.pth")["model"].values())


def test_where_no_step_is_waited_for_the_log_finds_the_first_non_finite_loss(arguments, tmp_path, monkeypatch):
    build, made = Trainer.__init__, []

    def as_on_a_gpu(trainer, *parts, **named):
        build(trainer, *parts, **named)
        trainer.recorder.checks_each_step = False
        made.append(trainer)

    monkeypatch.setattr(Trainer, "__init__", as_on_a_gpu)
    accident = ["model.accident=loss", "model.accident_at=4", "train.log_period=7", "train.eval_period=0"]
    with pytest.raises(NonFiniteError, match=r"^iteration 4: not finite: loss_class, total_loss; image ids \d+"):
        main(arguments("run", *accident))
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["model_0000003.pth"]
    assert [record.iteration for record in made[0].recorder._pending] == [
        4,
        5,
        6,
    ]  # it was found at the log of iteration 6
    assert not (tmp_path / "run/metrics.json").exists()


def test_weights_that_are_not_finite_are_not_saved(arguments, tmp_path):
    # Without clipping nobody looks at the gradient; the step before a checkpoint ruins the weights.
    with pytest.raises(NonFiniteError, match=r"iteration 3: weights not finite, nothing was saved: class_head\.weight"):
        main(arguments("run", "model.accident=gradient", "model.accident_at=3", "train.clip_grad.enabled=False"))
    assert list((tmp_path / "run").glob("*.pth")) == []


def test_two_accumulated_batches_equal_one_twice_as_large(run):
    common = [
        "model.noise=0",
        "train.max_iter=3",
        "train.log_period=1",
        "+dataloader.train.aspect_ratio_grouping=False",
    ]
    one = run("one", *common, "dataloader.train.total_batch_size=8")
    two = run("two", *common, "train.accumulate=2")
    for row, its in zip(*(MetricsFile(folder / "metrics.json").read()[:3] for folder in (one, two)), strict=True):
        assert its["total_loss"] == pytest.approx(row["total_loss"], abs=1e-6)
    weights = [read_checkpoint(folder / "model_final.pth")["model"] for folder in (one, two)]
    assert (weights[0].pop("steps"), weights[1].pop("steps")) == (3, 6)
    for name, tensor in weights[0].items():
        assert name == "brightness" or (weights[1][name] - tensor).abs().max() < 1e-5


def test_averaged_weights_are_evaluated_beside_or_instead(run, arguments, capsys):
    both = json.loads((run("both", "train.max_iter=4") / "results.json").read_text())
    assert set(both) == {"bbox", "ema_bbox", "about"}
    only = run("only", "train.max_iter=4", "train.model_ema.use_ema_weights_for_eval_only=True")
    results = json.loads((only / "results.json").read_text())
    assert results == {"bbox": both["ema_bbox"], "about": both["about"]}
    state = read_checkpoint(only / "model_final.pth")
    assert state["ema_state"].keys() == state["model"].keys()
    assert not state["ema_state"]["class_head.weight"].equal(state["model"]["class_head.weight"])
    evaluated = run("eval", "--eval-only", f"train.init_checkpoint={only}/model_final.pth")
    assert json.loads((evaluated / "results.json").read_text())["bbox"] == results["bbox"]


def test_the_averages_and_the_weights_are_what_is_scored(run, monkeypatch):
    scored = []

    def remember(session, parts):
        scored.append({name: tensor.clone() for name, tensor in parts.model.state_dict().items()})
        return {"bbox": {"AP": 0.0}}

    monkeypatch.setattr("crossstage.engine.trainer.score", remember)
    state = read_checkpoint(run("run", "train.max_iter=3", "train.eval_period=0") / "model_final.pth")
    assert len(scored) == 2
    for weights, saved in zip(scored, (state["ema_state"], state["model"]), strict=True):
        assert weights.keys() == saved.keys() and all(weights[name].equal(saved[name]) for name in saved)


@pytest.mark.parametrize("use_warmup", [True, False])
def test_a_warm_up_takes_the_first_weights_as_they_are(use_warmup, run):
    folder = run("run", "train.max_iter=1", "train.eval_period=0", f"train.model_ema.use_warmup={use_warmup}")
    state = read_checkpoint(folder / "model_final.pth")
    assert state["ema_state"]["class_head.weight"].equal(state["model"]["class_head.weight"]) == use_warmup


def test_eval_only_repeats_the_final_scores(run, arguments, capsys):
    trained = run("run", "train.max_iter=4", "train.model_ema.enabled=False")
    final = json.loads((trained / "results.json").read_text())
    weights = f"train.init_checkpoint={trained}/model_final.pth"
    plain = run("plain", "--eval-only", weights, "train.model_ema.enabled=False", "train.seed=-1")
    repeated = json.loads((plain / "results.json").read_text())
    assert repeated.keys() == final.keys()
    assert repeated["bbox"] == final["bbox"]
    assert not (plain / "metrics.json").exists()
    assert main(arguments("plain", "--eval-only", weights)) == 2
    assert "has no averaged weights (ema_state)" in capsys.readouterr().err
    assert main(arguments("plain", "--eval-only")) == 2
    assert "--eval-only needs weights: add train.init_checkpoint=FILE" in capsys.readouterr().err


def test_bf16_autocast_trains_and_differs(run):
    losses = []
    for enabled in (False, True):
        folder = run(f"amp_{enabled}", "train.max_iter=2", f"train.amp.enabled={enabled}", "model.noise=0")
        losses.append(MetricsFile(folder / "metrics.json").read()[0]["total_loss"])
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_fast_dev_run_is_20_iterations_evaluated_each_10(run):
    folder = run("fast", "train.fast_dev_run.enabled=True")
    rows = MetricsFile(folder / "metrics.json").read()
    assert [row["iteration"] for row in rows] == list(range(21))
    assert [row["iteration"] for row in rows if "bbox/AP" in row] == [9, 20]


def test_fine_tuning_on_other_classes_says_what_is_initialised_anew(run, tmp_path, capsys):
    state = TinyDetector(3).state_dict()
    torch.save({"model": state}, tmp_path / "three.pth")
    run("tuned", f"train.init_checkpoint={tmp_path}/three.pth", "train.max_iter=1")
    line = "has 3 classes, the model 8; these keep their initialisation: class_head.weight, class_head.bias"
    assert line in capsys.readouterr().out
