"""Names of detrex's Deformable-DETR checkpoints against ours."""

from crossstage.checkpoints.names import NameTable, detectron2_resnet_rules, detrex_deformable_rules, detrex_head_rules


def detrex_deformable_detr_names(num_layers: int = 6, *, refine: bool = True, two_stage: bool = False) -> NameTable:
    """The two-way table for detrex's Deformable-DETR with a ResNet.

    Args:
        num_layers: number of decoder layers.
        refine: whether the model has box refinement. Without it detrex saves its one pair of heads once per layer.
        two_stage: whether the encoder has heads, which detrex saves as number `num_layers`.
    """
    return NameTable(
        [
            *detectron2_resnet_rules(),
            *detrex_deformable_rules(),
            ("query_embedding.{p}", "queries.source.embedding.{p}"),
            *detrex_head_rules(num_layers, shared=not refine, two_stage=two_stage),
        ]
    )
