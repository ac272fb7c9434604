"""Folders `dino*`: the whole detector after the backbone, in training and evaluation, gradients included."""

from __future__ import annotations

from pathlib import Path

import torch
from crossstage.projects.dino.checkpoint import detrex_dino_names

from crossstage.checkpoints.names import NameTable
from crossstage.config import LazyConfig, instantiate
from crossstage.modeling.detector import Detector
from crossstage.modeling.queries.denoising import DenoisingNoise
from crossstage.structures import PaddedTargets
from tests.golden.folder import GoldenFolder, Row
from tests.golden.scene import Scene, StoredMaps, compare_cases, set_deformable_hyper_parameters

CONFIG = Path(__file__).resolve().parents[2] / "projects" / "dino" / "configs" / "models" / "dino_r50.py"


def compare(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases: eval, eval_masked and train outputs, matches, losses, gradients and their norms."""
    return compare_cases(folder, _DinoScene)


def build(hyper: dict, backbone: StoredMaps) -> Detector:
    """Our DINO with the folder's hyper-parameters."""
    node = LazyConfig.load(CONFIG).model
    set_deformable_hyper_parameters(node, hyper)
    node.queries.extra[0].update(
        num_queries=hyper["dn_number"], label_noise=hyper["label_noise_ratio"], box_noise=hyper["box_noise_scale"]
    )
    return instantiate({**node, "backbone": backbone})


class _DinoScene(Scene):
    """DINO's model, names and noise."""

    def build(self, backbone: StoredMaps) -> Detector:
        return build(self.hyper, backbone)

    def names(self) -> NameTable:
        return detrex_dino_names(self.hyper["decoder_layers"])

    def noise(self, targets: PaddedTargets) -> DenoisingNoise | None:
        """The recorded draws (p, labels, signs, u), moved from rows of concatenated objects to slots [B, R, M]."""
        keys = sorted(key for key in self.inputs if key.startswith("dn_draw_"))
        if not keys or not targets.num_objects:
            return None
        draws = iter([self.inputs[key] for key in keys])
        rows = len(self.inputs[keys[0]])
        flip, labels = torch.ones(rows), torch.zeros(rows, dtype=torch.int64)
        if self.hyper["label_noise_ratio"] > 0:
            flip, replacements = next(draws), next(draws)
            labels[flip < self.hyper["label_noise_ratio"] / 2] = replacements
        signs, shares = torch.ones(rows, 4), torch.zeros(rows, 4)
        if self.hyper["box_noise_scale"] > 0:
            signs, shares = next(draws).double() * 2 - 1, next(draws)
        flip, labels, signs, shares = (self.slots(part, targets) for part in (flip, labels, signs, shares))
        return DenoisingNoise(flip, labels, signs, shares)
