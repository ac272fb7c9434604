"""Classes are matched by name between training, validation and checkpoint, before the first iteration."""

import json
from pathlib import Path

import pytest
import torch

from crossstage.checkpoints.load import read_checkpoint
from crossstage.cli.train import main

FILE = "annotations/instances_{}2017.json"


@pytest.fixture
def changed(toy_root, tmp_path):
    """The data set with another val or train JSON, in a new folder."""

    def change(name: str, split: str, edit) -> str:
        folder = tmp_path / name
        (folder / "annotations").mkdir(parents=True)
        for each in ("train", "val"):
            content = json.loads((toy_root / FILE.format(each)).read_text())
            if each == split:
                edit(content)
            (folder / FILE.format(each)).write_text(json.dumps(content))
            (folder / f"{each}2017").symlink_to(toy_root / f"{each}2017")
        return f"dataloader.root={folder}"

    return change


def reverse(content):
    """The same objects, with the category ids in the opposite order."""
    ids = [category["id"] for category in content["categories"]]
    new = dict(zip(ids, reversed(ids), strict=True))
    for category in content["categories"]:
        category["id"] = new[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = new[annotation["category_id"]]


def without_square(content):
    (square,) = (category["id"] for category in content["categories"] if category["name"] == "square")
    content["categories"] = [category for category in content["categories"] if category["id"] != square]
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] != square]


def rename(content):
    content["categories"][0]["name"] = "Disc"


def results(folder: Path) -> dict[str, float]:
    return json.loads((folder / "results.json").read_text())["bbox"]


def test_val_in_another_order_scores_the_same(run, changed, capsys):
    plain = results(run("plain", "train.max_iter=2"))
    again = results(run("again", "train.max_iter=2", changed("data", "val", reverse)))
    assert again == pytest.approx(plain, abs=0, nan_ok=True)
    assert capsys.readouterr().out.count("numbers the classes in another order than training") == 1


def test_fewer_classes_in_val_are_said(run, changed, capsys):
    run("run", "train.max_iter=1", changed("data", "val", without_square))
    assert "lists 7 of 8 classes, matched by name; without square" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["train", "val"])
def test_names_that_do_not_fit_stop_before_the_first_iteration(arguments, changed, capsys, tmp_path, split):
    assert main(arguments("run", changed("data", split, rename))) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "instances_val2017.json: has" in error and "of classes that training does not have" in error
    assert list((tmp_path / "run").iterdir()) == []


def test_eval_only_takes_the_order_of_the_checkpoint(run, changed):
    trained = run("trained", "train.max_iter=2")
    evaluated = run(
        "evaluated", "--eval-only", f"train.init_checkpoint={trained}/model_final.pth",
        changed("a", "val", reverse),
    )  # fmt: skip
    assert results(evaluated) == pytest.approx(results(trained), abs=0, nan_ok=True)


def test_resuming_with_the_classes_in_another_order_changes_nothing(run, changed, tmp_path):
    whole = read_checkpoint(run("whole", "train.max_iter=4") / "model_final.pth")
    run("parts", "train.max_iter=4", "train.checkpointer.period=2")
    for name in ("model_final.pth", "model_0000003.pth"):
        (tmp_path / "parts" / name).unlink(missing_ok=True)
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    again = read_checkpoint(
        run("parts", "--resume", "train.max_iter=4", changed("data", "train", reverse)) / "model_final.pth"
    )
    assert all(again["model"][name].equal(value) for name, value in whole["model"].items())
    assert again["class_names"] == whole["class_names"]


def test_fine_tuning_takes_the_rows_of_classes_by_name(run, tmp_path, capsys, toy_root):
    names = [category["name"] for category in json.loads((toy_root / FILE.format("val")).read_text())["categories"]]
    state = read_checkpoint(run("first", "train.max_iter=1") / "model_final.pth")
    theirs = ["other", *reversed(names[2:])]
    rows = torch.arange(7.0)
    state["model"]["class_head.weight"] = rows[:, None].repeat(1, 8)
    state["model"]["class_head.bias"] = rows
    torch.save({"model": state["model"], "class_names": theirs}, tmp_path / "theirs.pth")
    folder = run("tuned", f"train.init_checkpoint={tmp_path}/theirs.pth", "train.max_iter=1", "optimizer.lr=0")
    tuned = read_checkpoint(folder / "model_final.pth")["model"]["class_head.weight"][:, 0]
    assert tuned[2:].tolist() == [6, 5, 4, 3, 2, 1] and tuned[:2].abs().max() < 1
    said = capsys.readouterr().out
    assert "6 of 8 classes have its weights, by name; circle, square keep their initialisation" in said


def test_own_data_need_no_other_value(arguments, changed, tmp_path, capsys):
    """`dataloader.data` finds files, classes and their number; the stored config trains and evaluates by itself."""
    data = changed("data", "", None).replace("dataloader.root", "dataloader.data")
    config = tmp_path / "own.py"
    config.write_text(
        f"from crossstage.config import LazyConfig\n_base = LazyConfig.load({arguments('run')[1]!r})\n"
        "dataloader, model, optimizer, lr_multiplier, train = (\n"
        "    _base[name] for name in ('dataloader', 'model', 'optimizer', 'lr_multiplier', 'train')\n)\n"
        "model.num_classes = 80\n"
    )
    given = ["train.device=cpu", "train.max_iter=1", f"train.output_dir={tmp_path}/run"]
    assert main(["--config-file", str(config), data, *given]) == 0
    assert "model.num_classes=8: the classes of" in capsys.readouterr().out
    stored = ["--config-file", str(tmp_path / "run/config.yaml")]
    weights = f"train.init_checkpoint={tmp_path}/run/model_final.pth"
    assert main([*stored, "--eval-only", weights, f"train.output_dir={tmp_path}/eval"]) == 0
    assert results(tmp_path / "eval") == pytest.approx(results(tmp_path / "run"), abs=0, nan_ok=True)
    assert main([*stored, data, "model.num_classes=5"]) == 2
    assert "model.num_classes=5, but" in (said := capsys.readouterr().err) and "add model.num_classes=8" in said
