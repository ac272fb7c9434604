"""What the tests ask of a real detrex model, in a process of its own: `detrex_scenarios.py DETECTOR` prints JSON.

`projects` is a package of detrex's and of ours; the test's own process has ours.
"""

import json
import sys
from typing import Any

import torch
from detrex_on_cpu import batch, stub
from torch import Tensor

from crossstage.config import get_config, instantiate
from crossstage.structures import Assignment, GroupOutputs, PaddedTargets, QueryGroup, StageOutputs
from csla import CrossStageBoxMatches, CrossStageLabels
from csla.detrex import with_csla
from csla.detrex_check import RecordedLabels, build, tiny_model
from dca.detrex import with_dca

STAGE_ALONE = {"look_back": 0, "look_ahead": 0, "iou_threshold": 0}
ALL_GROUPS = ("matching", "denoising", "one_to_many", "proposals")
SCENES = ((3, 1, 5), (0, 2), (0, 0))


def losses_of(node: Any, counts: tuple[int, ...]) -> dict[str, Tensor]:
    model = build(node)
    torch.manual_seed(1)  # of the denoising noise
    return model(batch(*counts, seed=3))


def stage_alone(node: Any) -> list[dict[str, Any]]:
    """Differences from detrex's own criterion when each stage keeps its own match; relative for losses above 1."""
    found = []
    for counts in SCENES:
        plain = losses_of(node, counts)
        for groups in (("matching",), ALL_GROUPS):
            ours = losses_of(with_csla(node, groups=groups, **STAGE_ALONE), counts)
            differences = [abs(ours[name] - loss).item() / max(1, loss.item()) for name, loss in plain.items()]
            found.append({"counts": counts, "names": list(ours) == list(plain), "difference": max(differences)})
    return found


def own_labels(outputs: StageOutputs, targets: PaddedTargets, matches: Tensor) -> Tensor:
    """The labels of each stage's own matches."""
    assignment = Assignment(QueryGroup("matching", matches.shape[-1]), matches, matches)
    return CrossStageLabels(**STAGE_ALONE)(outputs, targets, assignment).labels


def labels(node: Any) -> list[dict[str, Any]]:
    """Class targets and losses of a step, and those of our own criterion for the same outputs."""
    options = {"iou_threshold": 0.1, "look_back": None}
    recorder = RecordedLabels(CrossStageLabels(**options))
    edited = with_csla(node, groups=("matching", "one_to_many"), localisation=True, **options)
    model = build(edited, labels=recorder)
    losses = model(batch(3, 0, 5, seed=3))
    found = []
    for (outputs, targets, matches, theirs), suffix in zip(recorder.calls, ("", "_one2many"), strict=False):
        native_labels = RecordedLabels(CrossStageLabels(**options))
        weights = {kind: model.criterion.weight_dict[f"loss_{kind}"] for kind in ("class", "bbox", "giou")}
        boxes = [CrossStageBoxMatches(**options)]
        native = instantiate(get_config("common/models/supervision.py").criterion)
        supervision = native.supervision("matching")
        supervision.weights, supervision.labels, supervision.adjustments = weights, native_labels, boxes
        group = GroupOutputs(QueryGroup("matching", outputs.logits.shape[2]), outputs)
        named = supervision.losses(group, targets, matches)  # the same matches
        native([group], targets)  # and those of our own matcher
        differences = [abs(loss - losses[name + suffix]).item() / max(1, loss.item()) for name, loss in named.items()]
        found.append(
            {
                "equal": [torch.equal(call[3], theirs) for call in native_labels.calls],
                "difference": max(differences),
                "positives": int(theirs.sum()),
                "changed": bool((own_labels(outputs, targets, matches) != theirs).any()),
                "objects": list(targets.counts),
            }
        )
    return found


def training(node: Any) -> dict[str, list[float]]:
    """The total losses of 20 steps: with CSLA, with DCA, with both in either order."""
    found = {}
    for name, edits in {"csla": (with_csla,), "dca": (with_dca,), "both": (with_csla, with_dca)}.items():
        edited = node
        for edit in edits:
            edited = edit(edited)
        model = build(edited)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        found[name] = []
        for step in range(20):
            total = sum(model(batch(3, step % 2, seed=step)).values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            found[name].append(total.item())
    return found


def second_attention(node: Any) -> dict[str, Any]:
    """What DCA built: its parameters, whether both attentions drew their own, and whether the second one matters."""
    model = build(with_dca(node)).eval()
    layers = model.transformer.decoder.layers
    pairs = [layer.attentions[1] for layer in layers]
    drawn = [not torch.equal(pair.first.value_proj.weight, pair.second.value_proj.weight) for pair in pairs]
    parameters = {name for name, _ in model.named_parameters()}
    image = batch(1, seed=5)
    with torch.no_grad():
        before = model(image)[0]["instances"].scores
        for pair in pairs:
            for projection in (getattr(pair.second, name, None) for name in ("output_proj", "out_proj")):
                if projection is not None:
                    torch.nn.init.zeros_(projection.weight)
        after = model(image)[0]["instances"].scores
    return {
        "drawn": drawn,
        "norms": sum("attentions.1.norm.weight" in name for name in parameters),
        "changes": not torch.equal(before, after),
    }


def main() -> None:
    torch.set_num_threads(1)
    stub()
    node = tiny_model(sys.argv[1])
    two_stage = tiny_model(sys.argv[1])
    if "as_two_stage" in two_stage:
        two_stage.as_two_stage = True
    result = {
        "stage_alone": stage_alone(two_stage),
        "labels": labels(node),
        "training": training(node),
        "second_attention": second_attention(node),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
