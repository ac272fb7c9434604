"""Names of detrex's DINO checkpoints against ours."""

from crossstage.checkpoints.names import (
    NameTable,
    detectron2_resnet_rules,
    detrex_deformable_rules,
    detrex_head_rules,
    detrex_swin_derived,
    detrex_swin_rules,
)


def detrex_dino_names(num_layers: int = 6) -> NameTable:
    """The two-way table for detrex's DINO with a ResNet and `num_layers` decoder layers."""
    return NameTable([*detectron2_resnet_rules(), *_dino_rules(num_layers)])


def detrex_dino_swin_names(num_layers: int = 6) -> NameTable:
    """The two-way table for detrex's DINO with a Swin, four scales and `num_layers` decoder layers."""
    return NameTable([*detrex_swin_rules(), *_dino_rules(num_layers)], derived=detrex_swin_derived())


def _dino_rules(num_layers: int) -> list[tuple[str, str]]:
    """The rules for everything but the backbone.

    detrex saves the encoder's heads after those of the decoder, as number `num_layers`, and every head twice: on top
    and in the decoder.
    """
    return [
        *detrex_deformable_rules(),
        ("transformer.decoder.ref_point_head.{p}", "decoder.query_positions.mlp.{p}"),
        ("transformer.decoder.norm.{p}", "decoder.norm.{p}"),
        ("transformer.tgt_embed.weight", "queries.source.content.weight"),
        ("label_enc.weight", "queries.extra.denoising.label_embed.weight"),
        *detrex_head_rules(num_layers),
    ]
