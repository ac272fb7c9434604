"""detrex's own detectors by the names of csla/README.md, each made small; `detrex_models.NAMES` lists them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detrex_on_cpu import SIZE

from csla.detrex_check import NUM_CLASSES, load_model, shrink

QUERIES = 20
LARGE = (256, 256)  # Focus-DETR and DETA select at least 300 and 1000 of the tokens


@dataclass(frozen=True)
class Source:
    """Where a detector's node is, what is changed after it was made small, and its images: size, objects by batch."""

    project: str
    model: str = ""
    changes: tuple[tuple[str, Any], ...] = ()
    size: tuple[int, int] = SIZE
    scenes: tuple[tuple[int, ...], ...] = ((3, 1, 5), (0, 2), (0, 0))


SOURCES = {
    "DINO": Source("dino"),
    "DN-DETR": Source("dn_detr"),
    "Deformable-DETR": Source("deformable_detr", changes=(("with_box_refine", False),)),
    "Deformable-DETR, box refinement": Source("deformable_detr"),
    "Deformable-DETR, two-stage": Source("deformable_detr", changes=(("as_two_stage", True),)),
    "H-DETR": Source("h_deformable_detr"),
    "DAB-DETR": Source("dab_detr"),
    "DAB-DETR, 3 patterns": Source("dab_detr", "dab_detr_r50_3patterns"),
    "DAB-Deformable-DETR": Source("dab_deformable_detr"),
    "DAB-Deformable-DETR, two-stage": Source("dab_deformable_detr", changes=(("as_two_stage", True),)),
    "Conditional-DETR": Source("conditional_detr"),
    "Anchor-DETR": Source("anchor_detr"),
    "DN-Deformable-DETR": Source("dn_deformable_detr"),
    "Focus-DETR": Source("focus_detr", size=LARGE, scenes=((3, 1, 5), (0, 2))),  # it needs objects in each batch
    "DINO-EVA": Source("dino_eva", "dino_r50"),
    "DETA": Source("deta", size=LARGE),
    "Group-DETR": Source("group_detr"),
    "SQR-DETR": Source("sqr_detr", "dab_detr_r50_sqr"),
}
NAMES = tuple(name for name in SOURCES if name != "SQR-DETR")
"""The detectors that work with CSLA."""

BASIC = ("DINO", "DN-DETR", "Deformable-DETR, box refinement", "H-DETR")
"""Those of them that are tested in more ways."""

WITHOUT_DCA = ("Anchor-DETR",)
"""Those of them whose layers are not detrex's BaseTransformerLayer."""


def tiny(name: str, *, num_layers: int = 3) -> Any:
    """The model node of a detector, made so small that a step on the CPU takes a fraction of a second."""
    source = SOURCES[name]
    model = load_model(source.project, source.model or f"{source.project}_r50")
    special: dict[str, Callable[..., None]] = {"anchor_detr": _shrink_anchor_detr}
    if source.project in special:
        special[source.project](model, num_layers=num_layers)
    else:
        shrink(model, num_layers=num_layers, num_queries=QUERIES)
    if source.project == "group_detr":
        model.group_nums = 3
    for key, value in source.changes:
        model[key] = value
    return model


def _shrink_anchor_detr(model: Any, *, num_layers: int) -> None:
    """Its backbone would be downloaded, and its transformer has no nodes of encoder and decoder."""
    model.backbone = shrink(
        load_model("conditional_detr", "conditional_detr_r50"), num_layers=1, num_queries=1
    ).backbone
    model.device, model.criterion.num_classes, model.in_channels = "cpu", NUM_CLASSES, 512
    transformer = model.transformer
    transformer.num_classes, transformer.dim_feedforward = NUM_CLASSES, 64
    transformer.num_encoder_layers, transformer.num_decoder_layers = 1, num_layers
    transformer.num_query_position = QUERIES
    model.select_box_nums_for_evaluation = QUERIES
