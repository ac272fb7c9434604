"""StageInteractor's tables over the DETR family as data. AP is the paper's, on COCO val2017."""

from __future__ import annotations

from crossstage.reproduction.rows import Row

PAPER = "the paper"


def _dino(name: str, variant: str, epochs: int, ap: float, baseline: str = "") -> Row:
    """DINO R50 with 4 scales; `variant` is "", "_csla" or "_csla_dca"."""
    coco = f"dino_r50_4scale_{epochs}ep{variant}"
    return Row(name, coco, f"dino_toy{variant}", ap, PAPER, baseline, epochs)


def _pair(name: str, coco: str, toy: str, ap: float, csla_ap: float) -> tuple[Row, Row]:
    """A detector without and with CSLA; `coco` and `toy` are its configs, and `name` ends with its epochs."""
    epochs = int(name.rpartition("_")[2].removesuffix("ep"))
    plain = Row(name, coco, toy, ap, PAPER, "", epochs)
    return plain, Row(f"{name}_csla", f"{coco}_csla", f"{toy}_csla", csla_ap, PAPER, name, epochs)


TABLE_4 = (
    _dino("dino_12ep", "", 12, 49.2),
    _dino("dino_12ep_csla", "_csla", 12, 49.7, baseline="dino_12ep"),
    _dino("dino_12ep_csla_dca", "_csla_dca", 12, 50.0, baseline="dino_12ep"),
    _dino("dino_24ep", "", 24, 50.6),
    _dino("dino_24ep_csla", "_csla", 24, 51.0, baseline="dino_24ep"),
    _dino("dino_24ep_csla_dca", "_csla_dca", 24, 51.3, baseline="dino_24ep"),
    *_pair("deformable_detr_50ep", "deformable_detr_r50_two_stage_50ep", "deformable_detr_toy", 46.1, 46.8),
    *_pair("dn_detr_50ep", "dn_detr_r50_50ep", "dn_detr_toy", 44.7, 45.5),
    *_pair("h_detr_12ep", "h_detr_r50_two_stage_12ep", "h_detr_toy", 48.6, 49.2),
)
TABLE_5 = _pair("dino_swin_base_12ep", "dino_swin_base_384_4scale_12ep", "dino_swin_toy", 55.8, 56.2)

DETR_TABLES: dict[str, tuple[Row, ...]] = {"4": TABLE_4, "5": TABLE_5}
