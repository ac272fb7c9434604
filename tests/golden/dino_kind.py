"""Folders `dino*`: the whole detector behind the backbone, in training and evaluation, gradients included."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from detrkit.config import LazyCall as L
from detrkit.config import LazyConfig, instantiate
from detrkit.modeling.denoising import DenoisingNoise
from detrkit.modeling.detector import Detector, split_groups
from detrkit.modeling.losses import FocalClassLoss
from detrkit.modeling.matching import FocalClassCost
from detrkit.modeling.postprocess import best_pairs
from detrkit.structures import GroupOutputs, ImageBatch, PaddedTargets, Queries, Target
from projects.dino.checkpoint import detrex_dino_names
from tests.golden.folder import Comparison, GoldenFolder, Row

CONFIG = Path(__file__).resolve().parents[2] / "projects" / "dino" / "configs" / "models" / "dino_r50.py"


def compare(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases: eval, eval_masked and train outputs, matches, losses, gradients and their norms."""
    rows = []
    for case in folder.cases:
        comparison = Comparison(folder.expected(case), prefix=f"{case.lstrip('_')}." if case else "")
        scene = _Scene(folder, case)
        if any(name.startswith("eval") for name in comparison.expected):
            scene.check_evaluation(comparison, "eval", ignores_padding=True)
            scene.check_evaluation(comparison, "eval_masked", ignores_padding=False)
        scene.check_training(comparison, folder.meta["cases"].get(case.lstrip("_") or "main", {}))
        rows += comparison.finish()
    return rows


class _Maps(nn.Module):
    """Stands in for the backbone: the stored feature maps."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, pixels: Tensor, mask: Tensor) -> list[Tensor]:
        return self.maps


def build(hyper: dict, maps: list[Tensor]) -> Detector:
    """Our DINO with the folder's hyper-parameters."""
    node = LazyConfig.load(CONFIG).model
    node.num_classes, node.embed_dim = hyper["num_classes"], hyper["embed_dim"]
    node.pop("backbone")
    node.neck.update(
        in_channels=hyper["feature_channels"],
        num_levels=hyper["num_feature_levels"],
        groups=hyper["neck_group_norm_groups"],
        kernel_size=hyper.get("neck_kernel_size", 1),
    )
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
    for attention in (node.encoder.layer.self_attn, node.decoder.layer.cross_attn):
        attention.num_points = hyper.get("deformable_attention_points", 4)
    node.decoder.look_forward_twice = hyper["look_forward_twice"]
    node.queries.num_queries = hyper["num_queries"]
    node.queries.denoising.update(
        num_queries=hyper["dn_number"], label_noise=hyper["label_noise_ratio"], box_noise=hyper["box_noise_scale"]
    )
    focal = {"alpha": hyper.get("focal_alpha", 0.25), "gamma": hyper.get("focal_gamma", 2.0)}
    node.criterion.class_loss = L(FocalClassLoss)(**focal)
    node.criterion.matcher.update({name: hyper[name] for name in ("cost_class", "cost_bbox", "cost_giou")})
    node.criterion.matcher.class_cost = L(FocalClassCost)(**focal)
    node.postprocess.num_select = hyper["select_box_nums_for_evaluation"]
    return instantiate({**node, "backbone": _Maps(maps)})


class _Scene:
    """One case: model, batch, and the recorded noise."""

    def __init__(self, folder: GoldenFolder, case: str) -> None:
        meta, self.inputs = folder.meta, folder.inputs(case)
        self.hyper = {"deformable_attention_points": meta.get("deformable_attention_points", 4)}
        self.hyper |= meta["hyper_parameters"]
        names = self.hyper["feature_names"]
        self.features = {name: self.inputs[f"feat.{name}"].requires_grad_() for name in names}
        self.model = build(self.hyper, list(self.features.values())).double()
        self.table = detrex_dino_names(self.hyper["decoder_layers"])
        self.model.load_state_dict(self.table.to_native(folder.weights))
        self.model.criterion.weights = {k: float(v) for k, v in meta["loss_weight_dict"].items()}
        self.loss_weights = meta["loss_weight_dict"]
        self.batch = self._batch()

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
        flip, labels, signs, shares = (self._slots(part, targets) for part in (flip, labels, signs, shares))
        return DenoisingNoise(flip, labels, signs, shares)

    def _slots(self, rows: Tensor, targets: PaddedTargets) -> Tensor:
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
        outputs, proposals = groups[-1].outputs, queries.proposals.outputs
        comparison.check(f"{key}.encoder_memory", memory.tokens)
        comparison.check(f"{key}.encoder_selected_states", proposals.states[0])
        comparison.check(f"{key}.encoder_selected_boxes", proposals.boxes[0])
        comparison.check(f"{key}.initial_reference", queries.references)
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
        by_name = {predicted.group.name: predicted for predicted in [*groups, queries.proposals]}
        self._check_denoising_inputs(comparison, queries, by_name.get("denoising"))
        for name, prefix in (("matching", "pred"), ("denoising", "dn_pred")):
            if f"train.{prefix}_logits" in comparison.expected:
                comparison.check(f"train.{prefix}_logits", by_name[name].outputs.logits)
                comparison.check(f"train.{prefix}_boxes", by_name[name].outputs.boxes)
        comparison.check("train.enc_logits", by_name["proposals"].outputs.logits[0])
        comparison.check("train.enc_boxes", by_name["proposals"].outputs.boxes[0])
        self._check_matches(comparison, targets, by_name)
        losses = model.criterion([*groups, queries.proposals], targets)
        for name, loss in losses.items():
            comparison.check(f"loss_weighted.{name}", loss)
            comparison.check(f"loss_unweighted.{name}", loss / self.loss_weights[name])
        total = sum(losses.values())
        comparison.check("total_loss", total)
        total.backward()
        for name, feature in self.features.items():
            comparison.check(f"grad_input.{name}", feature.grad, relative=True)
        self._check_gradients(comparison, case_meta.get("grad_norms", {}))

    def _predict_with_recorded_noise(self, targets: PaddedTargets) -> tuple[Queries, list[GroupOutputs]]:
        model, noise = self.model, self.noise(targets)
        denoising = model.queries.denoising
        recorded = nn.Module()
        recorded.forward = lambda seen: denoising(seen, noise=noise)
        memory = model.encoder(model.neck(list(self.features.values()), self.batch.mask))
        model.queries.denoising = recorded
        queries = model.queries(memory, targets)
        model.queries.denoising = denoising
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
        matching, proposals = by_name["matching"], by_name["proposals"]
        stages, encoder = self.model.criterion.match([matching, proposals], targets)
        for label, matches in [*((f"layer_{i}", stage) for i, stage in enumerate(stages)), ("enc", encoder[0])]:
            for image, matched in enumerate(matches):
                chosen = (matched >= 0).nonzero().flatten()
                comparison.check(f"match.{label}.src_{image}", chosen)
                comparison.check(f"match.{label}.tgt_{image}", matched[chosen])

    def _check_gradients(self, comparison: Comparison, norms: dict) -> None:
        for ours, parameter in self.model.named_parameters():
            for theirs in self.table.foreign_names(ours):
                if f"grad.{theirs}" in comparison.expected:
                    comparison.check(f"grad.{theirs}", parameter.grad, relative=True)
                if theirs in norms:
                    ours_norm = 0.0 if parameter.grad is None else float(parameter.grad.norm())
                    comparison.check_value(f"grad_norm.{theirs}", ours_norm, norms[theirs] or 0.0, relative=True)
