"""Folders `dab_detr*` and `dn_detr*`: the detectors with anchor boxes as queries and a dense encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from crossstage.projects.dab_detr.checkpoint import detrex_dab_detr_names
from crossstage.projects.dn_detr.checkpoint import detrex_dn_detr_names
from omegaconf import DictConfig

from crossstage.checkpoints.names import NameTable
from crossstage.config import LazyConfig, instantiate
from crossstage.modeling.detector import Detector
from crossstage.modeling.queries.denoising import DenoisingNoise
from crossstage.structures import PaddedTargets
from tests.golden.folder import GoldenFolder, Row
from tests.golden.scene import Scene, StoredMaps, compare_cases, set_common_hyper_parameters

PROJECTS = Path(__file__).resolve().parents[2] / "projects"


def compare_dab_detr(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of a DAB-DETR."""
    return compare_cases(folder, _DabScene)


def compare_dn_detr(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of a DN-DETR."""
    return compare_cases(folder, _DnScene)


class _DabScene(Scene):
    """DAB-DETR's model and names."""

    config = PROJECTS / "dab_detr/configs/models/dab_detr_r50.py"

    def build(self, backbone: StoredMaps) -> Detector:
        hyper, node = self.hyper, LazyConfig.load(self.config).model
        set_common_hyper_parameters(node, hyper)
        node.neck.in_channels = hyper["feature_channels"][-1]
        node.queries.source.num_patterns = hyper.get("num_patterns", 0)
        self.set_denoising(node)
        return instantiate({**node, "backbone": backbone})

    def set_denoising(self, node: DictConfig) -> None:
        """DAB-DETR has none."""

    def names(self) -> NameTable:
        return detrex_dab_detr_names()


class _DnScene(_DabScene):
    """DN-DETR's model, names and noise."""

    config = PROJECTS / "dn_detr/configs/models/dn_detr_r50.py"

    def set_denoising(self, node: DictConfig) -> None:
        hyper = self.hyper
        node.queries.extra[0].update(
            num_groups=hyper["denoising_groups"],
            label_noise=hyper["label_noise_prob"],
            box_noise=hyper["box_noise_scale"],
        )

    def names(self) -> NameTable:
        return detrex_dn_detr_names()

    def noise(self, targets: PaddedTargets) -> DenoisingNoise | None:
        """The recorded draws (p, labels, u): a row is an object of a repetition, u is -1 to 1 in [0, 1)."""
        draws = [self.inputs[key] for key in sorted(self.inputs) if key.startswith("dn_draw_")]
        if not draws or not targets.num_objects:
            return None
        rows, remaining = len(draws[0]), iter(draws)
        flip, labels = torch.ones(rows), torch.zeros(rows, dtype=torch.int64)
        if self.hyper["label_noise_prob"] > 0:
            flip, replacements = next(remaining), next(remaining)
            labels[flip < self.hyper["label_noise_prob"]] = replacements
        shares = next(remaining) * 2 - 1 if self.hyper["box_noise_scale"] > 0 else torch.zeros(rows, 4)
        signs = torch.ones(rows, 4)
        return DenoisingNoise(*(self.slots(part, targets) for part in (flip, labels, signs, shares)))
