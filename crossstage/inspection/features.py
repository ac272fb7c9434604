"""Do the states of the queries separate the classes? `crossstage inspect features` (StageInteractor, Figure 9).

A t-SNE picture is easily over-read, because it can show clusters where there are none. Two numbers that can contradict
it are computed in the original space: the silhouette, and the accuracy of a linear classifier on states that it was
not trained on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossstage.errors import InputError
from crossstage.fonts import chart_text
from crossstage.inspection.figures import COLOURS, COLUMN, PAGE, bare, paper_figure, write_numbers
from crossstage.inspection.stages import assigned, every_stage
from crossstage.modeling.detector import Detector
from crossstage.structures import ImageBatch, PaddedTargets
from crossstage.visualize import class_name

FOLDS, MOST_PER_CLASS, MOST_CLASSES = 5, 200, 20
MARKERS = "osv^Dp*"


@dataclass(frozen=True)
class States:
    """The states of matched queries at the last stage.

    Attributes:
        values: float32 [Q, C].
        labels: class indices, int64 [Q].
    """

    values: np.ndarray
    labels: np.ndarray


def require_sklearn() -> None:
    """Raise InputError if scikit-learn is missing."""
    if importlib.util.find_spec("sklearn") is None:
        raise InputError("this tool needs the package scikit-learn: pip install 'crossstage[inspect]'")


def matched_states(
    models: Mapping[str, Detector], batches: Iterable[ImageBatch], *, device: torch.device
) -> dict[str, States]:
    """Collect the states of the queries that the matcher gives an object at the last stage.

    Args:
        models: in evaluation mode, by the name that figures show.
        batches: ImageBatches with targets.
        device: of the models.

    Returns:
        The states of each model, with the classes of the objects.

    Raises:
        InputError: for a decoder that keeps no states.
    """
    values: dict[str, list[np.ndarray]] = {name: [] for name in models}
    labels: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for batch in batches:
        batch = batch.to(device)
        for name, model in models.items():
            found = every_stage(model, batch)
            if found.outputs.states is None:
                raise InputError(f"{name}: its decoder keeps no states of its queries")
            targets, assignment = assigned(model, found, PaddedTargets.of(batch.targets or ()))
            matches = assignment.matches[-1]
            image, query = (matches >= 0).nonzero(as_tuple=True)
            values[name].append(found.outputs.states[-1, image, query].float().cpu().numpy())
            labels[name].append(targets.labels[image, matches[image, query]].cpu().numpy())
    return {name: States(np.concatenate(values[name]), np.concatenate(labels[name])) for name in models}


def balanced(states: States, *, most: int = MOST_PER_CLASS, least: int = FOLDS, classes: int = MOST_CLASSES) -> States:
    """At most so many states of a class, drawn by chance with a fixed seed; the classes with the most states.

    Args:
        states: all states.
        most: states of a class.
        least: a class with fewer states is left out, because a classifier could not be tested on it.
        classes: number of classes.

    Returns:
        The chosen states.

    Raises:
        InputError: if fewer than two classes have enough states.
    """
    names, counts = np.unique(states.labels, return_counts=True)
    order = names[np.argsort(-counts, kind="stable")][:classes]
    kept = [label for label in order if (states.labels == label).sum() >= least]
    if len(kept) < 2:
        raise InputError(f"fewer than two classes have {least} matched queries; expected more images (--limit)")
    draw = np.random.default_rng(0)
    rows = [draw.permutation(np.nonzero(states.labels == label)[0])[:most] for label in sorted(kept)]
    chosen = np.concatenate(rows)
    return States(states.values[chosen], states.labels[chosen])


def separation(states: States) -> dict[str, float]:
    """Two numbers for how well the classes are separated, both on standardised states.

    Returns:
        silhouette: mean over the states of (b - a) / max(a, b), with the mean distances a to the own class and b to
        the nearest other class; from -1 to 1. linear_probe: accuracy of a logistic regression, in 5-fold
        cross-validation. chance: share of the largest class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    accuracy = cross_val_score(probe, states.values, states.labels, cv=folds)
    scaled = StandardScaler().fit_transform(states.values)
    return {
        "silhouette": float(silhouette_score(scaled, states.labels)),
        "linear_probe": float(accuracy.mean()),
        "chance": float(np.unique(states.labels, return_counts=True)[1].max() / len(states.labels)),
    }


def flattened(states: States) -> np.ndarray:
    """t-SNE of the standardised states, with a fixed seed: [Q, 2]."""
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(states.values)
    perplexity = min(30.0, (len(scaled) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(scaled)


def write_features(
    found: Mapping[str, States], folder: Path, *, class_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Draw features.png, one panel per model, and write features.json with the two numbers and the points.

    Args:
        found: the states of each model.
        folder: for the files.
        class_names: by class index.

    Returns:
        The numbers of each model, without the points.
    """
    chosen = {name: balanced(states) for name, states in found.items()}
    numbers = {name: {"states": len(states.labels), **separation(states)} for name, states in chosen.items()}
    points = {name: flattened(states) for name, states in chosen.items()}
    labels = sorted({int(label) for states in chosen.values() for label in states.labels})
    drawn = {
        name: {**numbers[name], "points": points[name], "labels": states.labels} for name, states in chosen.items()
    }
    write_numbers(folder / "features.json", drawn)
    width = COLUMN if len(chosen) == 1 else PAGE
    in_row = max(1, int(width / 0.95))
    height = width / len(chosen) + 0.4 + 0.17 * -(-len(labels) // in_row)
    with paper_figure(folder / "features", columns=len(chosen), width=width, height=height) as grid:
        for axes, (name, states) in zip(grid[0], chosen.items(), strict=True):
            for index, label in enumerate(labels):
                x, y = points[name][states.labels == label].T
                marker = MARKERS[index // len(COLOURS) % len(MARKERS)]
                text = chart_text(class_name(label, class_names), otherwise=str(label))
                axes.scatter(x, y, s=6, c=COLOURS[index % len(COLOURS)], marker=marker, linewidths=0, label=text)
            bare(axes)
            axes.set_aspect("equal", "datalim")
            title = f"silhouette {numbers[name]['silhouette']:.2f}, linear probe {numbers[name]['linear_probe']:.0%}"
            axes.set_title(f"{name}\n{title}")
        handles, texts = grid[0, 0].get_legend_handles_labels()
        grid[0, 0].figure.legend(
            handles, texts, loc="outside lower center", ncols=min(in_row, len(texts)), markerscale=2, handletextpad=0
        )
    return numbers
