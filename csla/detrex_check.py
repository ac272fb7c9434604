"""`python -m csla.detrex --check`: tests whether cross-stage label assignment works with the installed detrex.

It builds a tiny Deformable-DETR from detrex's own config and computes one step on the CPU. The objects are placed at
predicted boxes, so that the stages match them with different queries.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from crossstage.structures import Assignment, PaddedTargets, QueryGroup, StageOutputs
from csla.detrex import require_detrex, with_csla
from csla.rule import CrossStageLabels

DETECTOR, NUM_CLASSES, SIZE = "deformable_detr", 8, (96, 128)

LEGEND = """\
One row per query that has a label; one column per stage, first without CSLA, then with it. A number is the class of the
object that the query must predict, 1+4 are two classes, and a dot means no object. <- marks rows that CSLA changes:
the query takes the class that it matched at another stage if its box overlaps the object by IoU 0.5, and loses its own
if its box overlaps less."""


class Window(TypedDict):
    """Options of `CrossStageLabels`."""

    look_back: int
    look_ahead: int
    iou_threshold: float


STAGE_ALONE: Window = {"look_back": 0, "look_ahead": 0, "iou_threshold": 0.0}


class RecordedLabels:
    """A label rule that stores the arguments and the result of each call."""

    def __init__(self, rule: CrossStageLabels) -> None:
        self.rule = rule
        self.calls: list[tuple[StageOutputs, PaddedTargets, Tensor, Tensor]] = []

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        """Set the assignment's labels, bool [S, B, N, K]; a call is kept as (outputs, targets, matches, labels)."""
        assignment = self.rule(outputs, targets, assignment)
        assert assignment.labels is not None  # the rule has set them
        self.calls.append((outputs, targets, assignment.matches, assignment.labels))
        return assignment


def tiny_model(detector: str = DETECTOR, *, num_layers: int = 3, num_queries: int = 20) -> Any:
    """detrex's own ResNet model node of a detector, made so small that a step on the CPU takes 0.1 seconds.

    Args:
        detector: name of a folder in detrex's projects.
        num_layers: number of decoder layers.
        num_queries: number of queries.

    Returns:
        The node.

    Raises:
        ImportError: if the checkout with detrex's projects is not found.
    """
    return shrink(load_model(detector, f"{detector}_r50"), num_layers=num_layers, num_queries=num_queries)


def load_model(detector: str, name: str) -> Any:
    """The model node of a file in `projects/<detector>/configs/models` of detrex; see `tiny_model`."""
    import detrex
    from detectron2.config import LazyConfig

    root = Path(detrex.__file__).resolve().parents[1]
    file = root / f"projects/{detector}/configs/models/{name}.py"
    if not file.is_file():
        raise ImportError(f"{file}: does not exist; the check needs detrex's checkout (pip install -e), not a wheel")
    if str(root) not in sys.path:
        sys.path.append(str(root))
    return LazyConfig.load(str(file)).model


def shrink(model: Any, *, num_layers: int, num_queries: int) -> Any:
    """Make a detrex ResNet model node small, in place, and return it; works for all of detrex's DETRs.

    The 256 channels stay, because they are hard-coded in detrex's position embedding of queries.
    """
    from detectron2.layers import ShapeSpec

    model.device, model.num_classes, model.criterion.num_classes = "cpu", NUM_CLASSES, NUM_CLASSES
    model.backbone.stages.depth = 18
    model.backbone.stages.pop("stride_in_1x1")
    for part in (model.transformer.encoder, model.transformer.decoder):
        part.feedforward_dim, part.attn_dropout, part.ffn_dropout = 64, 0.0, 0.0
    model.transformer.encoder.num_layers, model.transformer.decoder.num_layers = 1, num_layers
    if "neck" in model:
        channels = {"res3": 128, "res4": 256, "res5": 512}
        model.neck.input_shapes = {name: ShapeSpec(channels=number) for name, number in channels.items()}
    else:
        model.in_channels = 512
    if "with_box_refine" in model:
        model.with_box_refine = True
    if "num_queries_one2many" in model:
        model.as_two_stage, model.k_one2many = True, 3
        model.num_queries_one2one, model.num_queries_one2many = num_queries, 30
        model.transformer.two_stage_num_proposals = num_queries + 30
    else:
        model.num_queries = num_queries
    if "dn_number" in model:
        model.dn_number = 6
    model.select_box_nums_for_evaluation = num_queries
    return model


def build(node: Any, *, labels: RecordedLabels | None = None) -> nn.Module:
    """Build a model with fixed weights whose stages predict different boxes; `labels` replaces its label rule."""
    from detectron2.config import instantiate

    torch.manual_seed(0)
    model = instantiate(node).train()
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and ("bbox_embed" in name or "class_embed" in name):
            nn.init.normal_(weight, std=0.02 if "bbox" in name else 0.3)
    if labels is not None:
        model.criterion.labels = labels
    return model


def example(boxes: Tensor | None = None, labels: Tensor | None = None) -> list[dict[str, Any]]:
    """A batch of one image in detrex's format, with boxes [T, 4] (normalised cxcywh) and labels int64 [T]."""
    from detectron2.structures import Boxes, Instances

    boxes = torch.zeros(0, 4) if boxes is None else boxes
    labels = torch.zeros(0, dtype=torch.int64) if labels is None else labels
    extent = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1) * extent
    pixels = torch.randint(256, (3, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    instances = Instances(SIZE, gt_boxes=Boxes(corners), gt_classes=labels)
    return [{"image": pixels, "instances": instances, "height": SIZE[0], "width": SIZE[1]}]


def table(own: Tensor, crossed: Tensor) -> str:
    """One row per query that has a label: its classes by stage, without and with CSLA (bool [S, B, N, K] each)."""
    stages = len(own)
    width = max(11, 4 * stages)
    lines = [f"query  {'own match':<{width}}  with CSLA", f"stage  {_cells(range(stages)):<{width}}  "]
    lines[1] += _cells(range(stages))
    for image, query in (own | crossed).any(-1).any(0).nonzero().tolist():
        cells = [_cells(_classes(labels[:, image, query])) for labels in (own, crossed)]
        changed = "" if torch.equal(own[:, image, query], crossed[:, image, query]) else "  <-"
        lines.append(f"{query:>5}  {cells[0]:<{width}}  {cells[1]}{changed}")
    return "\n".join(lines)


def _cells(values: Any) -> str:
    return "".join(f"{value:<4}" for value in values)


def _classes(labels: Tensor) -> list[str]:
    return ["+".join(str(index) for index in stage.nonzero().flatten().tolist()) or "." for stage in labels]


def check() -> str:
    """Build the models, compute a step, compare the losses, and return the report."""
    node = tiny_model()
    recorded = RecordedLabels(CrossStageLabels())
    model = build(with_csla(node), labels=recorded)
    model(example())
    predicted = recorded.calls[0][0].boxes.detach()[:, 0]
    boxes = torch.stack([predicted[stage, query] for stage, query in ((0, 1), (1, 4), (2, 9), (1, 12))])
    batch = example(boxes, torch.arange(len(boxes)))
    model(batch)
    outputs, targets, matches, crossed = recorded.calls[1]
    assignment = Assignment(QueryGroup("matching", matches.shape[-1]), matches, box_matches=matches)
    at_one_stage = RecordedLabels(CrossStageLabels(**STAGE_ALONE))
    at_one_stage(outputs, targets, assignment)
    own = at_one_stage.calls[0][-1]
    plain, alone = (build(edited)(batch) for edited in (node, with_csla(node, **STAGE_ALONE)))
    difference = max(abs(plain[name] - alone[name]).item() / max(1, plain[name].item()) for name in plain)
    if list(plain) != list(alone) or not difference < 1e-6:
        raise RuntimeError(
            f"with only the own stage and threshold 0, losses must equal those of detrex; difference: {difference}"
        )
    return (
        f"{type(model).__name__} of detrex, {len(own)} stages, {own.shape[2]} queries, {len(boxes)} objects\n"
        f"labels bool {list(own.shape)}: {int(own.sum())} positives without CSLA, {int(crossed.sum())} with it\n\n"
        f"{LEGEND}\n\n"
        f"{table(own, crossed)}\n\n"
        f"only the own stage, threshold 0: {len(plain)} losses, largest difference from detrex's own {difference:.1e}\n"
        "csla.detrex works here"
    )


def time_ratio(*, queries: int = 900, classes: int = 80, objects: int = 20, rounds: int = 9) -> str:
    """One line: the time of the adapter divided by that of detrex's criterion, forward and backward, medians."""
    from detectron2.config import instantiate

    generator = torch.Generator().manual_seed(0)

    def stage() -> dict[str, Tensor]:
        boxes = torch.rand(2, queries, 4, generator=generator) * 0.4 + 0.1
        logits = torch.randn(2, queries, classes, generator=generator) - 3
        return {"pred_logits": logits.requires_grad_(), "pred_boxes": boxes.requires_grad_()}

    def target() -> dict[str, Tensor]:
        labels = torch.randint(classes, (objects,), generator=generator)
        return {"labels": labels, "boxes": torch.rand(objects, 4, generator=generator) * 0.4 + 0.1}

    def seconds(criterion: nn.Module) -> float:
        start = time.perf_counter()
        sum(criterion(outputs, targets).values()).backward()
        return time.perf_counter() - start

    outputs, targets = stage() | {"aux_outputs": [stage() for _ in range(5)]}, [target(), target()]
    node = tiny_model(num_layers=6)
    node.criterion.num_classes = classes
    criteria = [instantiate(edited.criterion) for edited in (node, with_csla(node))]
    pairs = [[seconds(criterion) for criterion in criteria] for _ in range(rounds + 2)][2:]  # the first ones warm up
    plain, ours, ratio = (median(values) for values in (*zip(*pairs, strict=True), [ours / p for p, ours in pairs]))
    return (
        f"criterion, forward and backward, 6 stages, 2 x {queries} queries, {classes} classes: detrex's "
        f"{1e3 * plain:.0f} ms, with CSLA {1e3 * ours:.0f} ms, ratio {ratio:.2f}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. If detrex is missing, print one line and exit with status 2."""
    parser = argparse.ArgumentParser(prog="python -m csla.detrex", description="Cross-stage labels on real detrex.")
    parser.add_argument("--check", action="store_true", required=True, help="build a tiny model, show its labels")
    parser.add_argument("--time", action="store_true", help="also compare the criteria's time, on one CPU thread")
    options = parser.parse_args(arguments)
    try:
        require_detrex()
        report = check()
        if options.time:
            torch.set_num_threads(1)
            report += "\n" + time_ratio()
    except ImportError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    print(report)
