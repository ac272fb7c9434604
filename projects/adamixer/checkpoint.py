"""Names of the released AdaMixer checkpoints (mmdetection) against ours."""

from crossstage.checkpoints.mmdet_names import mmdet_adaptive_mixing_rules, mmdet_mixer_names, mmdet_mixer_rules
from crossstage.checkpoints.names import NameTable


def mmdet_adamixer_names() -> NameTable:
    """The table for AdaMixer with a ResNet or a Swin."""
    return mmdet_mixer_names(
        [
            ("rpn_head.init_proposal_bboxes.weight", "queries.source.boxes"),
            *mmdet_mixer_rules(),
            *mmdet_adaptive_mixing_rules(),
        ]
    )
