"""Names of detrex's DINO checkpoints against ours."""

from detrkit.modeling.pretrained import NameTable, detectron2_resnet_rules, detrex_layer_rules


def detrex_dino_names(num_layers: int = 6) -> NameTable:
    """Two-way table for detrex's DINO with a ResNet.

    num_layers: decoder layers; detrex keeps the encoder's heads behind theirs, as number `num_layers`.
    detrex registers every head twice, at the top and in the decoder.
    """
    rules = [
        *detectron2_resnet_rules(),
        ("neck.{p}", "neck.{p}"),
        ("transformer.level_embeds", "encoder.level_embeds"),
        *detrex_layer_rules("transformer.encoder.layers.{i}.", "encoder.layers.{i}.", attentions=["self_attn"]),
        *detrex_layer_rules(
            "transformer.decoder.layers.{i}.", "decoder.layers.{i}.", attentions=["self_attn", "cross_attn"]
        ),
        ("transformer.decoder.ref_point_head.{p}", "decoder.query_positions.mlp.{p}"),
        ("transformer.decoder.norm.{p}", "decoder.norm.{p}"),
        ("transformer.tgt_embed.weight", "queries.content.weight"),
        ("transformer.enc_output.{p}", "queries.project.{p}"),
        ("transformer.enc_output_norm.{p}", "queries.norm.{p}"),
        ("label_enc.weight", "queries.denoising.label_embed.weight"),
    ]
    for prefix in ("", "transformer.decoder."):
        for theirs, ours in (("class_embed", "class_head"), ("bbox_embed", "box_head")):
            rules += [
                (f"{prefix}{theirs}.{num_layers}.{{p}}", f"queries.{ours}.{{p}}"),
                (f"{prefix}{theirs}.{{i}}.{{p}}", f"decoder.{ours}s.{{i}}.{{p}}"),
            ]
    return NameTable(rules)
