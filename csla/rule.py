"""Cross-stage label assignment as rules for the supervision of a query group."""

from dataclasses import replace
from typing import Any

from crossstage.structures import Assignment, PaddedTargets, StageOutputs
from csla.labels import cross_stage_box_matches, label_stages, labels_from_stages


class CrossStageLabels:
    """The label rule of StageInteractor; see `csla.labels.kept_stages` for the options.

    It replaces OwnStageLabels (`crossstage.modeling.supervision.labels`). With look_back=0, look_ahead=0 and
    iou_threshold=0 both give the same labels.

    Raises:
        ValueError: for a threshold outside [0, 1], a negative window, or a negative number of stages.
    """

    def __init__(
        self,
        *,
        iou_threshold: float = 0.5,
        look_back: int | None = 1,
        look_ahead: int | None = None,
        filter_own: bool = True,
        plain_last_stages: int = 0,
    ) -> None:
        _check_window(iou_threshold, look_back, look_ahead)
        if plain_last_stages < 0:
            raise ValueError(f"plain_last_stages={plain_last_stages}: expected a number of stages, 0 for none")
        self.iou_threshold, self.look_back, self.look_ahead = iou_threshold, look_back, look_ahead
        self.filter_own, self.plain_last_stages = filter_own, plain_last_stages

    def __repr__(self) -> str:
        return _described(self)

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        """Set the assignment's labels, bool [S, B, N, K], and the stages that they come from."""
        keep = label_stages(
            assignment.matches,
            outputs.boxes,
            targets.boxes.to(outputs.boxes.dtype),
            iou_threshold=self.iou_threshold,
            look_back=self.look_back,
            look_ahead=self.look_ahead,
            filter_own=self.filter_own,
            plain_last_stages=self.plain_last_stages,
        )
        num_classes = outputs.logits.shape[-1]
        labels = labels_from_stages(keep, assignment.matches, targets.labels, num_classes=num_classes)
        return replace(assignment, labels=labels, label_stages=keep)


class CrossStageBoxMatches:
    """Rule for the box target of each query, gathered over stages (Table 12); see `cross_stage_box_matches`."""

    def __init__(self, *, iou_threshold: float = 0.5, look_back: int | None = 1, look_ahead: int | None = None) -> None:
        _check_window(iou_threshold, look_back, look_ahead)
        self.iou_threshold, self.look_back, self.look_ahead = iou_threshold, look_back, look_ahead

    def __repr__(self) -> str:
        return _described(self)

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        """Set the assignment's box matches, int64 [S, B, N]."""
        box_matches = cross_stage_box_matches(
            assignment.matches,
            outputs.boxes,
            targets.boxes.to(outputs.boxes.dtype),
            iou_threshold=self.iou_threshold,
            look_back=self.look_back,
            look_ahead=self.look_ahead,
        )
        return replace(assignment, box_matches=box_matches)


def _described(rule: Any) -> str:
    """The name of a rule and its options."""
    return f"{type(rule).__name__}({', '.join(f'{name}={value}' for name, value in vars(rule).items())})"


def _check_window(iou_threshold: float, look_back: int | None, look_ahead: int | None) -> None:
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold={iou_threshold}: expected a number from 0 to 1")
    for name, reach in (("look_back", look_back), ("look_ahead", look_ahead)):
        if reach is not None and reach < 0:
            raise ValueError(f"{name}={reach}: expected the number of stages to reach, or None for all")
