"""Names of detrex's H-Deformable-DETR checkpoints against ours."""

from crossstage.checkpoints.names import NameTable, detectron2_resnet_rules, detrex_deformable_rules, detrex_head_rules


def detrex_h_detr_names(num_layers: int = 6, *, two_stage: bool = True) -> NameTable:
    """The two-way table for detrex's H-Deformable-DETR with a ResNet.

    Args:
        num_layers: number of decoder layers.
        two_stage: whether the model is two-stage; detrex saves the encoder's heads as number `num_layers`.
    """
    return NameTable(
        [
            *detectron2_resnet_rules(),
            *detrex_deformable_rules(),
            ("query_embedding.{p}", "queries.source.content.{p}" if two_stage else "queries.source.embedding.{p}"),
            *detrex_head_rules(num_layers, two_stage=two_stage),
        ]
    )
