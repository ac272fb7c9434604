"""What the tests ask of a real detrex model, in a process of its own: `detrex_scenarios.py DETECTOR` prints JSON.

`projects` is a package of detrex's and of ours; the test's own process has ours.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from detrex_models import BASIC, SOURCES, WITHOUT_DCA, Source, tiny
from detrex_on_cpu import batch, stub
from omegaconf import OmegaConf
from torch import Tensor

from crossstage.config import get_config, instantiate
from crossstage.structures import Assignment, GroupOutputs, PaddedTargets, QueryGroup, StageOutputs
from csla import CrossStageBoxMatches, CrossStageLabels
from csla.detrex import with_csla
from csla.detrex_check import RecordedLabels, build
from dca.detrex import with_dca

STAGE_ALONE = {"look_back": 0, "look_ahead": 0, "iou_threshold": 0}


def losses_of(node: Any, counts: tuple[int, ...], size: tuple[int, int]) -> dict[str, Tensor]:
    model = build(node)
    torch.manual_seed(1)  # of the denoising noise
    return model(batch(*counts, seed=3, size=size))


def stage_alone(source: Source, node: Any) -> list[dict[str, Any]]:
    """Differences from detrex's own criterion when each stage keeps its own match; relative for losses above 1."""
    found = []
    held = OmegaConf.to_container(
        OmegaConf.create({"model": with_csla(node)}, flags={"allow_objects": True}), resolve=True
    )
    every = [name for name, value in held["model"]["criterion"]["available_groups"].items() if value]
    for counts in source.scenes:
        plain = losses_of(node, counts, source.size)
        for groups in (["matching"], every):
            ours = losses_of(with_csla(node, groups=groups, **STAGE_ALONE), counts, source.size)
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
    groups = ("matching", "one_to_many") if "num_queries_one2many" in node else ("matching",)
    edited = with_csla(node, groups=groups, localisation=True, **options)
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


def training(source: Source, node: Any, edits: dict[str, tuple[Callable[..., Any], ...]]) -> dict[str, list[float]]:
    """The total losses of 20 steps with each of the edits of the node."""
    found = {}
    for name, functions in edits.items():
        edited = node
        for edit in functions:
            edited = edit(edited)
        model = build(edited)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        found[name] = []
        for step in range(20):
            total = sum(model(batch(3, step % 2, seed=step, size=source.size)).values())
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
    name = sys.argv[1]
    source, node = SOURCES[name], tiny(name)
    csla, dca = (with_csla,), (with_dca,)
    result: dict[str, Any] = {"stage_alone": stage_alone(source, node)}
    if name in BASIC:
        edits = {"csla": csla, "dca": dca, "both": csla + dca}
        result |= {"labels": labels(node), "second_attention": second_attention(node)}
    else:
        edits = {"csla": csla} if name in WITHOUT_DCA else {"both": csla + dca}
    result["training"] = training(source, node, edits)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
