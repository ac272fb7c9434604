"""Folders `adamixer*` and `stageinteractor*`: a whole decoder behind the neck, in training and evaluation."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from csla import with_csla
from detrkit.config import LazyCall as L
from detrkit.config import LazyConfig, instantiate
from detrkit.layers.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detrkit.layers.position_vector import to_position_vectors
from detrkit.modeling.detector import Detector
from detrkit.modeling.labels import OwnStageLabels
from detrkit.modeling.neck import pyramid
from detrkit.modeling.point_sampler import PointSampler
from detrkit.modeling.postprocess import best_pairs
from detrkit.modeling.pretrained import NameTable
from detrkit.structures import FeaturePyramid, Memory, PaddedTargets, Queries, StageOutputs, Target
from projects.adamixer.checkpoint import mmdet_adamixer_names
from projects.stage_interactor.checkpoint import mmdet_stage_interactor_names
from projects.stage_interactor.modeling.filters import ChannelMixing, SpatialMixing
from tests.golden.folder import ROUNDING, Comparison, GoldenFolder, Row

PROJECTS = Path(__file__).resolve().parents[2] / "projects"
UNUSED = ("subbox_score_list", "iou_snyc_statistics")
"""Parameters of the reference that nothing reads."""


def compare_adamixer(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of an AdaMixer."""
    return [row for case in folder.cases for row in _AdaMixer(folder, case).rows()]


def compare_stage_interactor(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of a StageInteractor."""
    return [row for case in folder.cases for row in _StageInteractor(folder, case).rows()]


class _Backbone(nn.Module):
    """Nothing: the folder begins behind the neck."""

    def forward(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return ()


class _StoredPyramid(nn.Module):
    """Stands in for the neck: the stored feature maps."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, maps: tuple[Tensor, ...], mask: Tensor) -> FeaturePyramid:
        return pyramid(self.maps, mask)


class _AdaMixer:
    """One case: model, images and objects."""

    config = PROJECTS / "adamixer/configs/models/adamixer_r50.py"

    def __init__(self, folder: GoldenFolder, case: str) -> None:
        self.meta, self.inputs = folder.meta, folder.inputs(case)
        self.hyper = self.meta["hyper_parameters"]
        self.comparison = Comparison(folder.expected(case), prefix=f"{case.lstrip('_')}." if case else "")
        self.features = [self.inputs[f"feat{level}"].requires_grad_() for level in range(len(self.hyper["strides"]))]
        self.table = self.names()
        self.model = self.build()
        weights = {name: value for name, value in folder.weights.items() if not any(part in name for part in UNUSED)}
        self.model.load_state_dict(self.table.to_native(weights), strict=False)
        named = {name for name, _ in self.model.state_dict().items()}
        assert named == set(self.table.to_native(weights)), named ^ set(self.table.to_native(weights))
        self._read_images()

    def names(self) -> NameTable:
        """The reference's names of the parameters."""
        return mmdet_adamixer_names()

    def build(self) -> Detector:
        """Our detector with the folder's hyper-parameters."""
        hyper, node = self.hyper, LazyConfig.load(self.config).model
        node.num_classes, node.embed_dim = hyper["num_classes"], hyper["dim"]
        node.backbone = L(_Backbone)(strides=hyper["strides"])
        node.queries.num_queries = hyper["num_query"]
        node.decoder.num_layers = hyper["num_stages"]
        node.decoder.layer.attention.num_heads = hyper["num_heads"]
        node.decoder.layer.ffn.feedforward_dim = hyper["ffn"]
        node.decoder.layer.sampler.num_groups = hyper["G"]
        node.decoder.layer.mixing.num_outputs = hyper["P_out"]
        node.postprocess.num_select = hyper["max_per_img"]
        self.set_points(node)
        node.backbone = {"strides": hyper["strides"]}
        parts = {name: instantiate(node[name]) for name in ("encoder", "queries", "decoder", "criterion", "postprocess")}
        model = Detector(
            backbone=_Backbone(),
            neck=_StoredPyramid(self.features),
            num_classes=hyper["num_classes"],
            embed_dim=hyper["dim"],
            **parts,
        )
        return model.double()

    def set_points(self, node: DictConfig) -> None:
        """What the sampler reads."""
        node.decoder.layer.sampler.num_points = self.hyper["P_in"]

    def _read_images(self) -> None:
        sizes = self.inputs["image_sizes_hw"].double().flip(-1)
        height, width = self.meta["canvas_hw"]
        self.mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
        for image, (w, h) in enumerate(sizes.long().tolist()):
            self.mask[image, :h, :w] = False
        self.sizes, self.extent = sizes, sizes.repeat(1, 2)
        self.targets = PaddedTargets.of(
            [
                Target(self.inputs[f"gt_labels{i}"], xyxy_to_cxcywh(self.inputs[f"gt_boxes{i}"] / self.extent[i]))
                for i in range(len(sizes))
            ]
        )

    def rows(self) -> list[Row]:
        """Queries, stages, matches, losses, gradients and detections."""
        comparison, model = self.comparison, self.model.train()
        memory = model.encoder(model.neck((), self.mask))
        queries = model.queries(memory, self.targets)
        self._check_queries(queries, memory)
        outputs = model.decoder(queries, memory)
        self._check_stages(outputs)
        self._check_losses(queries, outputs)
        for level, feature in enumerate(self.features):
            comparison.check(f"grad.feat{level}", feature.grad, relative=True)
        self._check_gradients()
        self._check_detections()
        comparison.skip("acc.")  # a figure for the log
        return comparison.finish()

    def _check_queries(self, queries: Queries, memory: Memory) -> None:
        self.comparison.check("init_xyzr", to_position_vectors(queries.references, memory.image_sizes))
        self.comparison.check("init_content", queries.content)
        self.comparison.check("imgs_whwh", memory.image_sizes.repeat(1, 2)[:, None])

    def _check_stages(self, outputs: StageOutputs) -> None:
        vectors = [to_position_vectors(boxes, self.sizes) for boxes in outputs.boxes]
        for stage in range(outputs.num_stages):
            self.comparison.check(f"stage{stage}.cls_logits", outputs.logits[stage])
            self.comparison.check(f"stage{stage}.content", outputs.states[stage])
            self.comparison.check(f"stage{stage}.xyzr", vectors[stage])
            boxes = cxcywh_to_xyxy(outputs.boxes[stage]) * self.extent[:, None]
            self.comparison.check(f"stage{stage}.boxes", boxes)

    def _check_losses(self, queries: Queries, outputs: StageOutputs) -> None:
        criterion, targets = self.model.criterion, self.targets
        (matches,) = criterion.matcher([outputs], targets)
        self.comparison.check("match_gt_inds", matches + 1)
        labels = criterion.labels(outputs, targets, matches)
        self.comparison.check("csla_targets", labels.double())
        class_count, box_count = criterion.normalizer(targets, labels=labels, matches=matches, box_matches=matches)
        self.comparison.check("avg_factor_cls", class_count)
        self.comparison.check("avg_factor_reg", box_count)
        losses = criterion([_group(queries, outputs)], targets)
        for kind, theirs in (("class", "cls"), ("bbox", "bbox"), ("giou", "iou")):
            for stage in range(outputs.num_stages):
                suffix = "" if stage == outputs.num_stages - 1 else f"_{stage}"
                self.comparison.check(f"loss.stage{stage}_loss_{theirs}", losses[f"loss_{kind}{suffix}"])
        total = sum(losses.values())
        self.comparison.check("loss_total", total)
        total.backward()

    def _check_gradients(self) -> None:
        norms = {name: norm or 0.0 for name, norm in self.meta.get("grad_norms", {}).items()}
        against = {"relative": True, "floor": max(1e-6 * max(norms.values(), default=0.0), ROUNDING)}
        for ours, parameter in self.model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for theirs in self.table.foreign_names(ours):
                self.comparison.check(f"grad.{theirs}", gradient, **against)
                if theirs in norms:
                    self.comparison.check_value(f"grad_norm.{theirs}", float(gradient.norm()), norms[theirs], **against)

    def _check_detections(self) -> None:
        model = self.model.eval()
        with torch.no_grad():
            memory = model.encoder(model.neck((), self.mask))
            outputs = model.decoder(model.queries(memory), memory)
        self.comparison.check("eval.cls_logits_last", outputs.logits[-1])
        scores, labels, boxes = best_pairs(outputs.logits[-1], outputs.boxes[-1], self.hyper["max_per_img"])
        factors = torch.tensor(self.hyper["scale_factors"], dtype=boxes.dtype)
        factors = self.inputs.get("scale_factors", factors)
        for image in range(len(boxes)):
            absolute = boxes[image] * self.extent[image] / factors[image]
            self.comparison.check(f"det{image}.boxes", absolute)
            self.comparison.check(f"det{image}.scores", scores[image])
            self.comparison.check(f"det{image}.labels", labels[image])


def _group(queries: Queries, outputs: StageOutputs):
    from detrkit.structures import GroupOutputs

    return GroupOutputs(queries.groups[0], outputs)


class _StageInteractor(_AdaMixer):
    """Reused filters, grouped points and cross-stage labels, and the ablations of them."""

    config = PROJECTS / "stage_interactor/configs/models/stage_interactor_r50.py"

    def names(self) -> NameTable:
        return mmdet_stage_interactor_names(free_sampler=self.hyper.get("use_holistic_sampling_points", False))

    def set_points(self, node: DictConfig) -> None:
        hyper, layer = self.hyper, node.decoder.layer
        layer.sampler.num_anchors, layer.sampler.num_details = hyper["in_points"], hyper["subbox"]
        layer.mixing.reuse.update(
            first_stage=hyper["reuse_st_id"],
            channel_filters=hyper["prefix_M_len"],
            spatial_filters=hyper["lim_outpoints_times"],
        )
        if hyper.get("no_previous_filters"):
            layer.mixing.blend = None
        if hyper.get("abla_use_static_channel_mix"):
            layer.mixing.static = L(ChannelMixing)()
        if hyper.get("abla_use_static_spatial_mix"):
            layer.mixing.static = L(SpatialMixing)()
        if hyper.get("use_holistic_sampling_points"):
            points = [a * k for a, k in zip(hyper["in_points"], hyper["subbox"], strict=True)]
            layer.mixing.update(num_anchors=hyper["in_points"], num_details=hyper["subbox"], num_groups=hyper["G"])
            layer.sampler = L(PointSampler)(
                embed_dim="${..embed_dim}", num_groups=hyper["G"], num_points=points, finest_scale=3.0, stage=0,
                strides=hyper["strides"],
            )
        if hyper["csla"]:
            model = with_csla(node, iou_threshold=hyper["iou_eval_eta"])
            node.criterion.labels = model.criterion.labels
        else:
            node.criterion.labels = L(OwnStageLabels)()
