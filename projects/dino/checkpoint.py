"""Names of detrex's DINO checkpoints against ours."""

from detrkit.modeling.pretrained import NameTable, detectron2_resnet_rules, detrex_deformable_rules, detrex_head_rules


def detrex_dino_names(num_layers: int = 6) -> NameTable:
    """Two-way table for detrex's DINO with a ResNet.

    num_layers: decoder layers; detrex keeps the encoder's heads behind theirs, as number `num_layers`.
    detrex registers every head twice, at the top and in the decoder.
    """
    return NameTable(
        [
            *detectron2_resnet_rules(),
            *detrex_deformable_rules(),
            ("transformer.decoder.ref_point_head.{p}", "decoder.query_positions.mlp.{p}"),
            ("transformer.decoder.norm.{p}", "decoder.norm.{p}"),
            ("transformer.tgt_embed.weight", "queries.content.weight"),
            ("label_enc.weight", "queries.denoising.label_embed.weight"),
            *detrex_head_rules(num_layers),
        ]
    )
