"""The two numbers beside a t-SNE picture, on states whose classes are known to be separate or mixed."""

import json
from pathlib import Path

import numpy as np
import pytest

from crossstage.errors import InputError
from crossstage.inspection import features, figures
from crossstage.inspection.features import States, balanced, write_features

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'crossstage[inspect]'")


def states(*counts: int, distance: float, width: int = 6) -> States:
    """So many states of each class, normally distributed; neighbouring classes lie `distance` apart."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    values = draw.normal(size=(len(labels), width))
    values[:, 0] += distance * labels
    return States(values.astype(np.float32), labels)


def test_numbers_tell_separate_classes_from_mixed_ones(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(figures, "RESOLUTION", 40)
    found = {"separate": states(20, 20, distance=100.0), "mixed": states(20, 20, distance=0.0, width=40)}
    numbers = write_features(found, tmp_path, class_names=["cat", "dog"])
    assert numbers["separate"]["linear_probe"] == 1 and numbers["separate"]["silhouette"] > 0.15
    assert numbers["mixed"]["linear_probe"] < 0.75 and abs(numbers["mixed"]["silhouette"]) < 0.1
    assert numbers["mixed"]["chance"] == 0.5 and numbers["mixed"]["states"] == 40
    written = json.loads((tmp_path / "features.json").read_text())
    assert len(written["mixed"]["points"]) == 40 and written["mixed"]["labels"] == [0] * 20 + [1] * 20
    assert (tmp_path / "features.png").stat().st_size and (tmp_path / "features.pdf").stat().st_size


def test_classes_are_limited_and_rare_ones_left_out():
    found = balanced(states(30, 4, 7, 9, distance=0.0), most=8, least=5, classes=3)
    assert np.bincount(found.labels).tolist() == [8, 0, 7, 8]
    with pytest.raises(InputError, match=r"^fewer than two classes have 5 matched queries; expected more images"):
        balanced(states(30, 4, distance=0.0))


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(features.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"scikit-learn: pip install 'crossstage\[inspect\]'$"):
        features.require_sklearn()
