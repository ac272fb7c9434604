"""PaQ-DETR's tables as data. A `figure` is a label in paper_figures.json; all of them are second-hand.

The paper's baselines are "++" models, which may contain more than detrex's DINO: only differences can be compared.
"""

from __future__ import annotations

from crossstage.reproduction.rows import Row


def _pair(name: str, coco: str, toy: str, figures: tuple[str, str], note: str = "") -> tuple[Row, Row]:
    """A detector without and with PaQ; `coco` and `toy` are its configs, and `name` ends with its epochs."""
    epochs = int(name.rpartition("_")[2].removesuffix("ep"))
    plain = Row(name, coco, toy, figures[0], "", epochs, note=note)
    return plain, Row(f"{name}_paq", f"{coco}_paq", f"{toy}_paq", figures[1], name, epochs, note=note)


def _labels(detector: str, queries: int, epochs: int) -> tuple[str, str]:
    length = f"{queries} queries, {epochs} epochs"
    return f"{detector}++, {length}", f"PaQ-{detector}, {length}"


def _half(name: str, suffix: str) -> Row:
    """A row of Table 6, which also has the Gini coefficient of the activations: DINO with some halves of PaQ."""
    baseline = "" if name == "neither" else "neither"
    return Row(
        name,
        f"dino_r50_4scale_12ep{suffix}",
        f"dino_toy{suffix}",
        name,
        baseline,
        12,
        ("train.query_metrics.enabled=True",),
    )


_TWO_STAGE = "deformable_detr_r50_two_stage_12ep"
_SWIN = "dino_swin_large_384_4scale_12ep"

PAQ_TABLES: dict[str, tuple[Row, ...]] = {
    "1": (
        *_pair("deformable_detr_12ep", _TWO_STAGE, "deformable_detr_toy", _labels("Deformable-DETR", 300, 12)),
        *_pair("dab_detr_12ep", "dab_detr_r50_12ep", "dab_detr_toy", _labels("DAB-DETR", 300, 12)),
        *_pair("dn_detr_12ep", "dn_detr_r50_12ep", "dn_detr_toy", _labels("DN-DETR", 300, 12)),
        *_pair("dino_12ep", "dino_r50_4scale_12ep", "dino_toy", _labels("DINO", 900, 12)),
        *_pair("dino_24ep", "dino_r50_4scale_24ep", "dino_toy", _labels("DINO", 900, 24)),
    ),
    "2": _pair("dino_swin_12ep", _SWIN, "dino_swin_toy", ("DINO, Swin-L, 12 epochs", "PaQ-DINO, Swin-L, 12 epochs")),
    "3": _pair(
        "h_detr_12ep",
        "h_detr_r50_two_stage_12ep",
        "h_detr_toy",
        ("", "PaQ-DETR with hybrid branch (1500 queries, k=6)"),
        "the paper compares a hybrid branch over DINO with Co-DETR (52.1); ours is over H-DETR, which it does not list",
    ),
    "6": (
        _half("neither", ""),
        _half("patterns", "_patterns"),
        _half("quality", "_quality"),
        _half("both", "_paq"),
    ),
}
