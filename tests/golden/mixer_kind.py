"""Folders `adamixer*` and `stageinteractor*`: a whole detector after the neck, in training and evaluation.

Boxes of the reference are absolute and in pixels of the network input: (x, y, z, r), or corners.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from crossstage.projects.adamixer.checkpoint import mmdet_adamixer_names
from crossstage.projects.stage_interactor.checkpoint import mmdet_stage_interactor_names
from crossstage.projects.stage_interactor.modeling.filters import ChannelMixing
from crossstage.projects.stage_interactor.modeling.grouped_sampler import ungrouped_sampler
from omegaconf import DictConfig
from torch import Tensor, nn

from crossstage.checkpoints.names import NameTable
from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, instantiate
from crossstage.config.nodes import set_target
from crossstage.layers.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from crossstage.layers.position_vector import to_position_vectors
from crossstage.modeling.detector import Detector
from crossstage.modeling.neck import pyramid
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.structures import FeaturePyramid, GroupOutputs, ImageBatch, PaddedTargets, Queries, StageOutputs, Target
from csla import ANY_OVERLAP, with_csla
from tests.golden.csla_kind import SCOPES
from tests.golden.folder import ROUNDING, Comparison, GoldenFolder, Row
from tests.golden.scene import StoredMaps

PROJECTS = Path(__file__).resolve().parents[2] / "projects"
UNREAD = ("subbox_score_list", "iou_snyc_statistics")
"""Parts of the reference that have parameters or buffers and no effect."""


def compare_adamixer(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of an AdaMixer."""
    return [row for case in folder.cases for row in AdaMixerScene(folder, case).rows()]


def compare_stage_interactor(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of a StageInteractor."""
    return [row for case in folder.cases for row in _StageInteractorScene(folder, case).rows()]


def gradient_floor(expected: Mapping[str, Tensor]) -> float:
    """A millionth of the largest gradient: what is smaller by as much again is zero but for rounding.

    A bias of keys moves no softmax, for one: the reference's gradient of it is rounding, and so is ours.
    """
    gradients = (value.abs().nan_to_num(posinf=0.0) for name, value in expected.items() if name.startswith("grad."))
    return max(1e-6 * max((float(value.max()) for value in gradients if value.numel()), default=0.0), ROUNDING)


class UnmappedLevels(nn.Module):
    """Stands in for the neck: the folder's maps are its outputs."""

    def forward(self, maps: list[Tensor], mask: Tensor) -> FeaturePyramid:
        return pyramid(maps, mask)


class AdaMixerScene:
    """One case: model, images and objects."""

    config = PROJECTS / "adamixer/configs/models/adamixer_r50.py"

    def __init__(self, folder: GoldenFolder, case: str) -> None:
        meta, self.inputs, self.weights = folder.meta, folder.inputs(case), folder.weights
        own_meta = meta.get("cases", {}).get(case.lstrip("_") or "main", {} if case else meta)
        self.hyper = {**meta["hyper_parameters"], **own_meta.get("hyper_parameters", {})}
        self.norms = {name: norm or 0.0 for name, norm in own_meta.get("grad_norms", {}).items()}
        self.comparison = Comparison(folder.expected(case), prefix=f"{case.lstrip('_')}." if case else "")
        self.features = [self.inputs[f"feat{level}"].requires_grad_() for level in range(len(self.hyper["strides"]))]
        self.table = self.names()
        self.model = self.build().double()
        self._load_weights()
        self.batch = self._batch()
        self.targets = PaddedTargets.of(self.batch.targets)

    def names(self) -> NameTable:
        """The reference's names of the parameters."""
        return mmdet_adamixer_names()

    def build(self) -> Detector:
        """Our detector with the folder's hyper-parameters."""
        hyper, node = self.hyper, LazyConfig.load(self.config).model
        node.num_classes, node.embed_dim = hyper["num_classes"], hyper["dim"]
        node.queries.source.num_queries = hyper["num_query"]
        self.set_decoder(node.decoder)
        node.postprocess.update(
            num_select=hyper.get("max_per_img", hyper["num_query"]), nms_threshold=hyper.get("nms_thres") or None
        )
        self.set_interaction(node)
        return instantiate({**node, "backbone": StoredMaps(self.features), "neck": UnmappedLevels()})

    def set_decoder(self, decoder: DictConfig) -> None:
        """The sizes of the decoder."""
        decoder.num_layers = self.hyper["num_stages"]
        self.set_layer(decoder.layer)

    def set_layer(self, layer: DictConfig) -> None:
        """The sizes of a stage."""
        layer.attention.num_heads, layer.ffn.feedforward_dim = self.hyper["num_heads"], self.hyper["ffn"]
        layer.sampler.update(num_groups=self.hyper["G"], strides=self.hyper["strides"])
        layer.mixing.num_outputs = self.hyper["P_out"]

    def set_interaction(self, node: DictConfig) -> None:
        """What the two detectors differ in."""
        node.decoder.layer.sampler.num_points = self.hyper["P_in"]

    def _load_weights(self) -> None:
        read = {name: value for name, value in self.weights.items() if not any(part in name for part in UNREAD)}
        found = self.model.load_state_dict(self.table.to_native(read), strict=False)
        for name in (*found.missing_keys, *found.unexpected_keys):
            self.comparison.rows.append(Row(f"weights.{name} (on one side alone)", float("inf"), 0.0))

    def _batch(self) -> ImageBatch:
        sizes = self.inputs["image_sizes_hw"].double()
        factors = torch.tensor(self.hyper.get("scale_factors", [[1.0] * 4] * len(sizes)))
        factors = self.inputs.get("scale_factors", factors).to(sizes.dtype)[:, :2].flip(-1)
        height, width = sizes.long().amax(0).tolist()  # nothing reads the padding
        mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
        targets = []
        for image, (h, w) in enumerate(sizes.long().tolist()):
            mask[image, :h, :w] = False
            boxes = self.inputs[f"gt_boxes{image}"].view(-1, 4) / torch.tensor([w, h, w, h])
            targets.append(Target(self.inputs[f"gt_labels{image}"].long(), xyxy_to_cxcywh(boxes)))
        self.sizes, self.extent = sizes.flip(-1), sizes.flip(-1).repeat(1, 2)
        return ImageBatch(
            pixels=torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8),
            mask=mask,
            sizes=tuple(tuple(size) for size in sizes.long().tolist()),
            original_sizes=tuple(tuple(size) for size in (sizes / factors).tolist()),
            targets=tuple(targets),
        )

    def rows(self) -> list[Row]:
        """Queries, stages, matches, losses, gradients and detections."""
        queries, groups = self.model.train().predict(self.batch, self.targets)
        self._check_queries(queries)
        self._check_stages(groups[0].outputs)
        self._check_supervision(groups)
        self._check_gradients()
        self._check_detections()
        self.comparison.skip("acc.")  # figures for the reference's log
        return self.comparison.finish()

    def check(self, name: str, ours: Tensor, **against: float) -> None:
        """Compare, unless the reference divided a batch without objects by 0; ours must then still be a number."""
        theirs = self.comparison.expected.get(name)
        divides_by_zero = name.startswith("avg_factor") and theirs is not None and not theirs.all()
        if self.targets.num_objects or theirs is None or (theirs.isfinite().all() and not divides_by_zero):
            self.comparison.check(name, ours, **against)
            return
        self.comparison.skip(name)
        error = 0.0 if ours.isfinite().all() else float("inf")
        self.comparison.rows.append(Row(f"{self.comparison.prefix}{name} (not comparable: over 0)", error, 0.0))

    def _check_queries(self, queries: Queries) -> None:
        self.check("init_xyzr", to_position_vectors(queries.references, self.sizes))
        self.check("init_content", queries.content)
        self.check("imgs_whwh", self.extent[:, None])

    def _check_stages(self, outputs: StageOutputs) -> None:
        for stage in range(outputs.num_stages):
            self.check(f"stage{stage}.cls_logits", outputs.logits[stage])
            self.check(f"stage{stage}.content", outputs.states[stage])
            self.check(f"stage{stage}.xyzr", to_position_vectors(outputs.boxes[stage], self.sizes))
            self.check(f"stage{stage}.boxes", cxcywh_to_xyxy(outputs.boxes[stage]) * self.extent[:, None])

    def _check_supervision(self, groups: list[GroupOutputs]) -> None:
        criterion, outputs = self.model.criterion, groups[0].outputs
        (matches,) = criterion.match(groups, self.targets)
        supervision = criterion.supervision("matching")
        assignment = supervision.assign(groups[0], self.targets, matches)
        counts = supervision.normalizer(self.targets, assignment)
        self.check("match_gt_inds", matches + 1)
        self.check("csla_targets", assignment.labels.double())
        self.check("avg_factor_cls", counts[0])
        self.check("avg_factor_reg", counts[1])
        losses = criterion(groups, self.targets)
        for kind, theirs in (("class", "cls"), ("bbox", "bbox"), ("giou", "iou")):
            for stage in range(outputs.num_stages):
                suffix = "" if stage == outputs.num_stages - 1 else f"_{stage}"
                self.check(f"loss.stage{stage}_loss_{theirs}", losses.terms[f"loss_{kind}{suffix}"])
        self.check("loss_total", losses.total)
        losses.total.backward()

    def _check_gradients(self) -> None:
        against = {"relative": True, "floor": gradient_floor(self.comparison.expected)}
        for level, feature in enumerate(self.features):
            self.check(f"grad.feat{level}", feature.grad, **against)
        parameters = dict(self.model.named_parameters())
        for theirs, weight in self.weights.items():
            ours = parameters.get(self.table.native_name(theirs))
            gradient = torch.zeros_like(weight) if ours is None or ours.grad is None else ours.grad
            self.check(f"grad.{theirs}", gradient, **against)
            norm = self.norms.get(theirs, float("nan"))
            if norm < float("inf"):
                self.comparison.check_value(f"grad_norm.{theirs}", float(gradient.norm()), norm, **against)

    def _check_detections(self) -> None:
        model = self.model.eval()
        with torch.no_grad():
            _, groups = model.predict(self.batch)
            detections = model(self.batch)
        self.check("eval.cls_logits_last", groups[-1].outputs.logits[-1])
        for image, found in enumerate(detections):
            self.check(f"det{image}.boxes", found.boxes_xyxy)
            self.check(f"det{image}.scores", found.scores)
            self.check(f"det{image}.labels", found.labels)


class _StageInteractorScene(AdaMixerScene):
    """Reused filters, grouped points and cross-stage labels, and the ablations of them."""

    config = PROJECTS / "stage_interactor/configs/models/stage_interactor_r50.py"

    def names(self) -> NameTable:
        return mmdet_stage_interactor_names(free_sampler=self.hyper.get("use_holistic_sampling_points", False))

    def set_interaction(self, node: DictConfig) -> None:
        hyper, layer = self.hyper, node.decoder.layer
        layer.sampler.update(num_anchors=hyper["in_points"], num_details=hyper["subbox"])
        layer.mixing.reuse.update(
            first_stage=hyper.get("reuse_st_id", 2),
            channel_filters=hyper.get("prefix_M_len"),
            spatial_filters=hyper.get("lim_outpoints_times", 1),
        )
        if hyper.get("no_previous_filters"):
            layer.mixing.blend = None
        if hyper.get("abla_use_static_channel_mix"):
            layer.mixing.static = L(ChannelMixing)()
        if hyper.get("use_holistic_sampling_points"):
            set_target(layer.sampler, ungrouped_sampler)
        if not hyper.get("csla", True):
            node.criterion.groups.matching.labels = L(OwnStageLabels)()
            return
        threshold = hyper.get("iou_eval_eta", 0.5) if hyper.get("use_thres_filter", True) else ANY_OVERLAP
        options = window_of(hyper.get("targets_candi_ids"), hyper["num_stages"])
        localised = hyper.get("use_last_box_target", False)
        node.criterion.update(with_csla(node, iou_threshold=threshold, localisation=localised, **options).criterion)


def window_of(offsets: list[list[int] | None] | None, stages: int) -> dict[str, int | None]:
    """Our options for the reference's offsets of the stages that each stage listens to; without them, the paper's.

    An offset that leads beyond the decoder is skipped, a stage always hears itself, None is plain matching.
    Raises ValueError for offsets that are no window.
    """
    if offsets is None:
        return SCOPES["im1_L"]
    heard = [
        None if steps is None else {i, *(i + step for step in steps if 0 <= i + step < stages)}
        for i, steps in enumerate(offsets)
    ]
    for options in SCOPES.values():
        back, ahead = (stages if reach is None else reach for reach in (options["look_back"], options["look_ahead"]))
        first_plain = stages - options.get("plain_last_stages", 0)
        window = [set(range(max(0, i - back), min(stages, i + ahead + 1))) for i in range(first_plain)]
        if window + [None] * (stages - first_plain) == heard:
            return options
    raise ValueError(f"targets_candi_ids={offsets}: expected one of the scopes of Table 13")
