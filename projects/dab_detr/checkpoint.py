"""Names of detrex's DAB-DETR checkpoints against ours."""

from crossstage.checkpoints.names import NameTable, detrex_anchor_box_rules


def detrex_dab_detr_names(*, torchvision_backbone: bool = False) -> NameTable:
    """The two-way table; `torchvision_backbone` is for DC5 models, whose backbone detrex takes from torchvision."""
    return NameTable(
        [
            *detrex_anchor_box_rules(torchvision_backbone=torchvision_backbone),
            ("transformer.patterns.weight", "queries.source.patterns.weight"),
        ]
    )
