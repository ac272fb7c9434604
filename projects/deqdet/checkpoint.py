"""Names of the released DEQDet checkpoints (mmdetection) against ours."""

from crossstage.checkpoints.mmdet_names import (
    MIXER_STAGES,
    mmdet_adaptive_mixing_rules,
    mmdet_mixer_names,
    mmdet_mixer_rules,
)
from crossstage.checkpoints.names import NameTable

_STEPS = tuple(
    (
        f"roi_head.bbox_head.{index}.",
        f"decoder.{step}.layer.",
        f"decoder.{step}.class_head.",
        f"decoder.{step}.box_head.",
    )
    for index, step in enumerate(("initial", "refinement"))
)


def mmdet_deqdet_names(*, shared_weights: bool = True) -> NameTable:
    """DEQDet with a ResNet or a Swin. shared_weights: False for FFNDet, whose stages have weights of their own."""
    stages = _STEPS if shared_weights else MIXER_STAGES
    return mmdet_mixer_names(
        [
            ("rpn_head.init_proposal_bboxes.weight", "queries.source.boxes"),
            *mmdet_mixer_rules(stages, neck="convs", content="init_proposal_features"),
            *mmdet_adaptive_mixing_rules(stages),
        ],
        unread=["roi_head.bbox_head.{i}.instance_interactive_conv{p}"],  # of the parent class there, never called
    )
