"""One case of a folder that holds a whole detector after the backbone: training and evaluation, with gradients.

Shared by the kinds of detectors: a kind says how its detector is built, how its parameters are called, and what the
recorded draws mean. A tensor that a folder does not have is not compared.
"""

from __future__ import annotations

from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from crossstage.checkpoints.names import NameTable
from crossstage.config import LazyCall as L
from crossstage.modeling.detector import Detector, group_named, split_groups
from crossstage.modeling.postprocess import best_pairs
from crossstage.modeling.queries.denoising import DenoisingNoise
from crossstage.modeling.supervision.losses import FocalClassLoss
from crossstage.modeling.supervision.matching import FocalClassCost
from crossstage.structures import GroupOutputs, ImageBatch, PaddedTargets, Queries, Target
from tests.golden.folder import ROUNDING, Comparison, GoldenFolder, Row


class StoredMaps(nn.Module):
    """Stands in for the backbone: the stored feature maps."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, pixels: Tensor, mask: Tensor) -> list[Tensor]:
        return self.maps


class Scene:
    """One case: model, batch, and the recorded noise. A kind's subclass gives `build`, `names` and `noise`."""

    def __init__(self, folder: GoldenFolder, case: str) -> None:
        meta, self.inputs = folder.meta, folder.inputs(case)
        self.hyper = {"deformable_attention_points": meta.get("deformable_attention_points", 4)}
        self.hyper |= meta["hyper_parameters"]
        feature_names = self.hyper["feature_names"]
        self.features = {name: self.inputs[f"feat.{name}"].requires_grad_() for name in feature_names}
        self.model = self.build(StoredMaps(list(self.features.values()))).double()
        self.table = self.names()
        self.model.load_state_dict(self.table.to_native(folder.weights))
        self.loss_weights = {name: float(weight) for name, weight in meta["loss_weight_dict"].items()}
        for supervision in self.model.criterion.groups.values():
            for kind in supervision.weights:
                name = supervision.loss_name(kind)
                share = self.hyper.get("lambda_one2many", 1.0) if name.endswith("_one2many") else 1.0
                supervision.weights[kind] = self.loss_weights.get(name, share * self.loss_weights[f"loss_{kind}"])
        self.batch = self._batch()

    def build(self, backbone: StoredMaps) -> Detector:
        """Our detector with the folder's hyper-parameters."""
        raise NotImplementedError

    def names(self) -> NameTable:
        """The reference's names of its parameters."""
        raise NotImplementedError

    def noise(self, targets: PaddedTargets) -> DenoisingNoise | None:
        """The recorded draws; None where there are none."""
        return None

    def compare(self, comparison: Comparison, case_meta: dict) -> list[Row]:
        """All keys: eval, eval_masked and train outputs, matches, losses, gradients and their norms."""
        if any(name.startswith("eval") for name in comparison.expected):
            self.check_evaluation(comparison, "eval", ignores_padding=True)
            self.check_evaluation(comparison, "eval_masked", ignores_padding=False)
        self.check_training(comparison, case_meta)
        return comparison.finish()

    def _batch(self) -> ImageBatch:
        sizes = [tuple(size) for size in self.inputs["image_sizes"].tolist()]
        height, width = self.inputs["padded_size"].tolist()
        mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
        for image, (h, w) in enumerate(sizes):
            mask[image, :h, :w] = False
        targets = [Target(self.inputs[f"labels_{i}"], self.inputs[f"boxes_{i}"]) for i in range(len(sizes))]
        return ImageBatch(
            pixels=torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8),
            mask=mask,
            sizes=tuple(sizes),
            original_sizes=tuple(tuple(size) for size in self.inputs["output_sizes"].tolist()),
            image_ids=tuple(range(len(sizes))),
            targets=tuple(targets),
        )

    def slots(self, rows: Tensor, targets: PaddedTargets) -> Tensor:
        """From rows of concatenated objects, repeated, to slots: [R * objects, ...] -> [B, R, M, ...]."""
        batch, objects = targets.labels.shape
        repetitions = len(rows) // targets.num_objects
        slots = rows.new_zeros(batch, repetitions, objects, *rows.shape[1:])
        for repetition, chunk in enumerate(rows.view(repetitions, targets.num_objects, *rows.shape[1:])):
            for image, part in enumerate(chunk.split(targets.counts)):
                slots[image, repetition, : len(part)] = part
        return slots

    def check_evaluation(self, comparison: Comparison, key: str, *, ignores_padding: bool) -> None:
        """Keys `eval.*` (padding ignored, as detrex does) and `eval_masked.*`."""
        model = self.model.eval()
        model.eval_ignores_padding = ignores_padding
        pyramid_mask = torch.zeros_like(self.batch.mask) if ignores_padding else self.batch.mask
        with torch.no_grad():
            memory = model.encoder(model.neck(list(self.features.values()), pyramid_mask))
            queries, groups = model.predict(self.batch)
            detections = model(self.batch)
        outputs = group_named("matching", groups).outputs
        comparison.check(f"{key}.encoder_memory", memory.tokens)
        if queries.proposals is not None and queries.proposals.outputs.states is not None:
            comparison.check(f"{key}.encoder_selected_states", queries.proposals.outputs.states[0])
            comparison.check(f"{key}.encoder_selected_boxes", queries.proposals.outputs.boxes[0])
        if f"{key}.encoder_boxes_all_tokens" in comparison.expected:
            comparison.check(f"{key}.encoder_logits_all_tokens", queries.proposals.outputs.logits[0])
            comparison.check(f"{key}.encoder_boxes_all_tokens", queries.proposals.outputs.boxes[0])
        comparison.check(f"{key}.initial_reference", queries.references)
        if f"{key}.reference_boxes" in comparison.expected:
            starts = torch.cat([queries.references[None, :, -outputs.boxes.shape[2] :], outputs.references[:-1]])
            comparison.check(f"{key}.reference_boxes", starts)
        comparison.check(f"{key}.inter_references", outputs.references)
        comparison.check(f"{key}.decoder_states", outputs.states)
        comparison.check(f"{key}.pred_logits", outputs.logits)
        comparison.check(f"{key}.pred_boxes", outputs.boxes)
        pairs = best_pairs(outputs.logits[-1], outputs.boxes[-1], self.hyper["select_box_nums_for_evaluation"])
        for image, ((height, width), found) in enumerate(zip(self.batch.original_sizes, detections, strict=True)):
            scores, labels, boxes = (part[image] for part in pairs)
            comparison.check(f"{key}.raw_det_scores_{image}", scores)
            comparison.check(f"{key}.raw_det_classes_{image}", labels)
            comparison.check(f"{key}.raw_det_boxes_{image}", boxes * torch.tensor([width, height, width, height]))
            comparison.check(f"{key}.det_scores_{image}", found.scores)
            comparison.check(f"{key}.det_classes_{image}", found.labels)
            comparison.check(f"{key}.det_boxes_{image}", found.boxes_xyxy)

    def check_training(self, comparison: Comparison, case_meta: dict) -> None:
        """Keys `train.*`, `match.*`, `loss_*`, `total_loss`, `grad*`, and the gradient norms of meta.json."""
        model = self.model.train()
        targets = PaddedTargets.of(self.batch.targets)
        queries, groups = self._predict_with_recorded_noise(targets)
        if queries.proposals is not None:
            groups = [*groups, queries.proposals]
        by_name = {predicted.group.name: predicted for predicted in groups}
        self._check_denoising_inputs(comparison, queries, by_name.get("denoising"))
        for name, prefix in (("matching", "pred"), ("denoising", "dn_pred"), ("one_to_many", "one2many_pred")):
            if f"train.{prefix}_logits" in comparison.expected:
                comparison.check(f"train.{prefix}_logits", by_name[name].outputs.logits)
                comparison.check(f"train.{prefix}_boxes", by_name[name].outputs.boxes)
        if queries.proposals is not None:
            comparison.check("train.enc_logits", queries.proposals.outputs.logits[0])
            comparison.check("train.enc_boxes", queries.proposals.outputs.boxes[0])
        self._check_matches(comparison, targets, by_name)
        losses = model.criterion(groups, targets)
        for name, loss in losses.terms.items():
            comparison.check(f"loss_weighted.{name}", loss)
            plain = name.removesuffix("_one2many")  # detrex's unweighted losses of that branch hold its lambda
            comparison.check(f"loss_unweighted.{name}", loss / self.loss_weights[plain])
        comparison.check("total_loss", losses.total)
        losses.total.backward()
        for name, feature in self.features.items():
            comparison.check(f"grad_input.{name}", feature.grad, relative=True)
        self._check_gradients(comparison, case_meta.get("grad_norms", {}))

    def _predict_with_recorded_noise(self, targets: PaddedTargets) -> tuple[Queries, list[GroupOutputs]]:
        model, noise = self.model, self.noise(targets)
        memory = model.encoder(model.neck(list(self.features.values()), self.batch.mask))
        if noise is None:
            queries = model.queries(memory, targets)
        else:
            denoising = model.queries.extra["denoising"]
            original, denoising.forward = denoising.forward, partial(denoising.forward, noise=noise)
            queries = model.queries(memory, targets)
            denoising.forward = original
        return queries, split_groups(queries, model.decoder(queries, memory))

    def _check_denoising_inputs(self, comparison: Comparison, queries: Queries, denoised: GroupOutputs | None) -> None:
        """The placed denoising queries are inputs of the folder; they must be ours too."""
        inputs = Comparison(
            {key: value for key, value in self.inputs.items() if key.startswith(("dn_query", "dn_attn"))},
            prefix=comparison.prefix + "inputs.",
        )
        if denoised is None or not inputs.expected or denoised.group.size == 0:
            return
        size = denoised.group.size
        inputs.check("dn_query_label", queries.content[:, :size])
        inputs.check("dn_query_box_logit", torch.logit(queries.references[:, :size]))
        inputs.check("dn_attn_mask", queries.attention_mask)
        comparison.rows += inputs.finish()

    def _check_matches(self, comparison: Comparison, targets: PaddedTargets, by_name: dict) -> None:
        labels = {"matching": "layer_{}", "one_to_many": "one2many_layer_{}", "proposals": "enc"}
        supervised = [by_name[name] for name in labels if name in by_name]
        for predicted, stages in zip(supervised, self.model.criterion.match(supervised, targets), strict=True):
            for stage, matches in enumerate(stages):
                label = f"match.{labels[predicted.group.name].format(stage)}"
                for image, matched in enumerate(matches):
                    chosen = (matched >= 0).nonzero().flatten()
                    comparison.check(f"{label}.src_{image}", chosen)
                    theirs = comparison.expected.get(f"{label}.tgt_{image}")
                    ours = self._as_copies(matched[chosen], theirs, targets.counts[image])
                    comparison.check(f"{label}.tgt_{image}", ours)

    @staticmethod
    def _as_copies(ours: Tensor, theirs: Tensor | None, count: int) -> Tensor:
        """The copies of our objects, of `count`, that the reference took: rounding decides, their costs being equal."""
        if theirs is None or theirs.shape != ours.shape:
            return ours
        return torch.where(theirs % max(count, 1) == ours, theirs, ours)

    def _check_gradients(self, comparison: Comparison, norms: dict) -> None:
        # a bias of keys moves no softmax: the reference's gradient of it is rounding, and so is ours
        against = {"relative": True, "floor": max(1e-6 * max(filter(None, norms.values()), default=0.0), ROUNDING)}
        for ours, parameter in self.model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for theirs in self.table.foreign_names(ours):
                if f"grad.{theirs}" in comparison.expected:
                    comparison.check(f"grad.{theirs}", gradient, **against)
                if theirs in norms:
                    comparison.check_value(
                        f"grad_norm.{theirs}", float(gradient.norm()), norms[theirs] or 0.0, **against
                    )


def compare_cases(folder: GoldenFolder, kind: type[Scene]) -> list[Row]:
    """Every case of a folder."""
    rows = []
    for case in folder.cases:
        comparison = Comparison(folder.expected(case), prefix=f"{case.lstrip('_')}." if case else "")
        case_meta = folder.meta["cases"].get(case.lstrip("_") or "main", {})
        rows += kind(folder, case).compare(comparison, case_meta)
    return rows


def set_common_hyper_parameters(node: DictConfig, hyper: dict) -> None:
    """What every detector of detrex has: widths, depths, positions, costs; the backbone is left out."""
    node.num_classes, node.embed_dim = hyper["num_classes"], hyper["embed_dim"]
    node.pop("backbone")
    node.encoder.num_layers, node.decoder.num_layers = hyper["encoder_layers"], hyper["decoder_layers"]
    node.encoder.position.update(
        num_features=hyper["embed_dim"] // 2,
        temperature=hyper["pos_temperature"],
        normalize=hyper["pos_normalize"],
        offset=hyper["pos_offset"],
    )
    for layer in (node.encoder.layer, node.decoder.layer):
        layer.ffn.feedforward_dim = hyper["feedforward_dim"]
        layer.self_attn.num_heads = hyper["num_heads"]
    node.decoder.layer.cross_attn.num_heads = hyper["num_heads"]
    node.queries.source.num_queries = hyper.get("num_queries") or hyper["num_queries_one2one"]
    focal = {"alpha": hyper.get("focal_alpha", 0.25), "gamma": hyper.get("focal_gamma", 2.0)}
    for supervision in node.criterion.groups.values():
        supervision.class_loss = L(FocalClassLoss)(**focal)
        supervision.matcher.update({name: hyper[name] for name in ("cost_class", "cost_bbox", "cost_giou")})
        supervision.matcher.class_cost = L(FocalClassCost)(**focal)
    node.postprocess.num_select = hyper["select_box_nums_for_evaluation"]


def set_deformable_hyper_parameters(node: DictConfig, hyper: dict) -> None:
    """What the multi-scale deformable detectors have besides: necks and sampling points."""
    set_common_hyper_parameters(node, hyper)
    node.neck.update(
        in_channels=hyper["feature_channels"],
        num_levels=hyper["num_feature_levels"],
        groups=hyper["neck_group_norm_groups"],
        kernel_size=hyper.get("neck_kernel_size", 1),
    )
    for attention in (node.encoder.layer.self_attn, node.decoder.layer.cross_attn):
        attention.num_points = hyper.get("deformable_attention_points", 4)
    node.decoder.look_forward_twice = hyper.get("look_forward_twice", False)
