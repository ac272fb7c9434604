"""Folders `deformable_detr*` (plain, with box refinement, two-stage) and `h_deformable_detr*` (hybrid branch)."""

from __future__ import annotations

from pathlib import Path

from crossstage.projects.deformable_detr.checkpoint import detrex_deformable_detr_names
from crossstage.projects.h_detr.checkpoint import detrex_h_detr_names

from crossstage.checkpoints.names import NameTable
from crossstage.config import LazyConfig, instantiate
from crossstage.modeling.detector import Detector
from tests.golden.folder import GoldenFolder, Row
from tests.golden.scene import Scene, StoredMaps, compare_cases, set_deformable_hyper_parameters

PROJECTS = Path(__file__).resolve().parents[2] / "projects"


def compare_deformable_detr(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of a Deformable-DETR."""
    return compare_cases(folder, _DeformableScene)


def compare_h_detr(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of an H-Deformable-DETR."""
    return compare_cases(folder, _HybridScene)


class _DeformableScene(Scene):
    """Deformable-DETR's three models and their names."""

    def build(self, backbone: StoredMaps) -> Detector:
        hyper = self.hyper
        refined = "_with_box_refinement" if hyper["with_box_refine"] else ""
        name = "_two_stage" if hyper["as_two_stage"] else refined
        node = LazyConfig.load(PROJECTS / f"deformable_detr/configs/models/deformable_detr_r50{name}.py").model
        set_deformable_hyper_parameters(node, hyper)
        for layer in (node.encoder.layer, node.decoder.layer):
            layer.ffn.dropout = layer.self_attn.dropout = 0.0
        node.decoder.layer.cross_attn.dropout = 0.0
        return instantiate({**node, "backbone": backbone})

    def names(self) -> NameTable:
        flags = {"refine": self.hyper["with_box_refine"], "two_stage": self.hyper["as_two_stage"]}
        return detrex_deformable_detr_names(self.hyper["decoder_layers"], **flags)


class _HybridScene(Scene):
    """H-Deformable-DETR's two models and their names."""

    def build(self, backbone: StoredMaps) -> Detector:
        hyper = self.hyper
        name = "" if hyper["as_two_stage"] else "_one_stage"
        node = LazyConfig.load(PROJECTS / f"h_detr/configs/models/h_detr_r50{name}.py").model
        set_deformable_hyper_parameters(node, hyper)
        node.queries.source.extra_queries = hyper["num_queries_one2many"]
        node.criterion.groups.one_to_many.matcher.copies = hyper["k_one2many"]
        if hyper["as_two_stage"] and not hyper["mixed_selection"]:
            node.queries.source.content = None
        for kind in ("class", "bbox", "giou"):
            weight = hyper["lambda_one2many"] * hyper[f"loss_weight_{kind}"]
            node.criterion.groups.one_to_many.weights[kind] = weight
        return instantiate({**node, "backbone": backbone})

    def names(self) -> NameTable:
        return detrex_h_detr_names(self.hyper["decoder_layers"], two_stage=self.hyper["as_two_stage"])
