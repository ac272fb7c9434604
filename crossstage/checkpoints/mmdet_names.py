"""mmdetection's names of the AdaMixer family against ours: rules for `NameTable`."""

from collections.abc import Iterable

MIXER_STAGES = (
    ("roi_head.bbox_head.{i}.", "decoder.layers.{i}.", "decoder.class_heads.{i}.", "decoder.box_heads.{i}."),
)
"""mmdetection's prefix of a stage, and ours of its layer and heads, in a decoder of stages with their own weights."""


def mmdet_mixer_rules(
    stages: Iterable[tuple[str, str, str, str]] = MIXER_STAGES,
    *,
    neck: str = "lateral_convs",
    content: str = "init_content_features",
) -> list[tuple[str, str]]:
    """What mmdetection's AdaMixer family shares: a timm-named ResNet, neck, queries, attention, heads.

    stages: prefixes as in MIXER_STAGES.  neck, content: the names of the neck's convolutions and of the contents.
    """
    layer = {
        "iof_tau": "attention.overlap_scale",
        "attention.attn.in_proj_weight": "attention.qkv.weight",
        "attention.attn.in_proj_bias": "attention.qkv.bias",
        "attention.attn.out_proj.{p}": "attention.out_proj.{p}",
        "attention_norm.{p}": "attention_norm.{p}",
        "ffn.layers.0.0.{p}": "ffn.layers.0.{p}",
        "ffn.layers.1.{p}": "ffn.layers.1.{p}",
        "ffn_norm.{p}": "ffn_norm.{p}",
    }
    rules = [
        *((f"backbone.{part}.{{p}}", f"backbone.body.{part}.{{p}}") for part in ("conv1", "bn1", "layer{i}")),
        (f"neck.{neck}.{{i}}.conv.{{p}}", "neck.convs.{i}.conv.{p}"),
        ("neck.gn_out.{p}", "neck.norm.{p}"),
        (f"rpn_head.{content}.weight", "queries.source.content.weight"),
    ]
    for theirs, ours, *heads in stages:
        rules += [(theirs + name, ours + native) for name, native in layer.items()]
        for mmdet, head in zip(("cls", "reg"), heads, strict=True):
            rules += [(f"{theirs}{mmdet}_fcs.{n}.{{p}}", f"{head}{n}.{{p}}") for n in (0, 1)]
            rules.append((f"{theirs}fc_{mmdet}.{{p}}", f"{head}3.{{p}}"))
    return rules


def mmdet_adaptive_mixing_rules(stages: Iterable[tuple[str, str, str, str]] = MIXER_STAGES) -> list[tuple[str, str]]:
    """AdaMixer's sampling and mixing, which DEQDet has too. stages: prefixes as in MIXER_STAGES."""
    names = {
        "norm.{p}": "mixing_norm.{p}",
        "sampling_offset_generator.0.{p}": "sampler.offsets.{p}",
        "adaptive_mixing.parameter_generator.0.{p}": "mixing.filters.{p}",
        "adaptive_mixing.out_proj.{p}": "mixing.project.{p}",
    }
    return [
        (f"{theirs}sampling_n_mixing.{name}", ours + native)
        for theirs, ours, *_ in stages
        for name, native in names.items()
    ]
