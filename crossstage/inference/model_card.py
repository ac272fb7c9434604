"""The README.md of a published model, as model hubs show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

import crossstage

if TYPE_CHECKING:
    from crossstage.inference.predictor import Predictor
    from crossstage.inference.publication import Origin

SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl")

TEXT = """---
{header}---

# {name}

An object detector with {number} classes, trained with crossstage {version} from the config or run `{name}`.
It has {parameters:,} parameters.

```python
import crossstage

detector = crossstage.load("hf://{repo}")
found = detector.predict("photo.jpg", threshold=0.3)
print(found.names, found.scores, found.boxes_xyxy)
```

`crossstage pull {repo}` fetches the files; `crossstage.load` takes the folder too. The config names parts of the
library and holds plain values, the weights are tensors: nothing in this repository is run as code.

## Scores

{scores}

## Classes

{classes}

## Licence

{licence}
"""


def model_card(predictor: Predictor, origin: Origin, *, repo: str, license: str | None) -> str:
    """The text of a model card.

    Args:
        predictor: the model with its classes.
        origin: where it is from.
        repo: the name of the repository, for the example.
        license: the identifier of a licence, or None.

    Returns:
        Markdown that begins with the fields that model hubs read.
    """
    header: dict[str, Any] = {"library_name": "crossstage", "pipeline_tag": "object-detection"}
    header |= {"tags": ["object-detection", "detr", origin.name], **({"license": license} if license else {})}
    names = predictor.class_names
    return TEXT.format(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        name=origin.name,
        number=len(names) or getattr(predictor.model, "num_classes", "unnamed"),
        version=crossstage.__version__,
        parameters=sum(parameter.numel() for parameter in predictor.model.parameters()),
        repo=repo,
        scores=scores_table(origin),
        classes=", ".join(names) or "The names of the classes are not known.",
        licence=f"`{license}`" if license else "Not given yet: the author adds `license:` to the fields at the top.",
    )


def scores_table(origin: Origin) -> str:
    """The scores of the run in percent, and which weights they are of."""
    lines = []
    if origin.best.get("score") is not None:
        best = origin.best
        lines.append(f"`{origin.weights}`: best {best['metric']} {best['score']:.2f} (iteration {best['iteration']}).")
    about = origin.results.get("about") or {}
    for task, scores in origin.results.items():
        shown = {name: scores[name] for name in SCORES if isinstance(scores.get(name), float)}
        if task == "about" or not shown:
            continue
        data = about.get("data") or {}
        of = f" of `{about['weights']}`" if "weights" in about else ""
        on = f" on {data['images']} images of `{data['json_file']}`" if data.get("images") else ""
        cells = [f"{value:.2f}" if value == value else "-" for value in shown.values()]
        lines.append(f"{task}{of}{on}:\n\n| {' | '.join(shown)} |\n|{' --- |' * len(shown)}\n| {' | '.join(cells)} |")
    published = f"The published weights are those of `{origin.weights}`."
    return "\n\n".join([*(lines or ["The run has no scores."]), published])
