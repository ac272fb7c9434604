"""Folder `layers`: building blocks with random weights, one check a block."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossstage.checkpoints.names import NameTable, detrex_layer_rules
from crossstage.layers.attention import ConditionalCrossAttention, ConditionalSelfAttention, DenseAttention
from crossstage.layers.boxes import (
    box_iou,
    cxcywh_to_xyxy,
    generalized_box_iou,
    intersection_and_union,
    inverse_sigmoid,
    xyxy_to_cxcywh,
)
from crossstage.layers.deformable import MultiScaleDeformableAttention, deformable_sampling
from crossstage.layers.mlp import FFN, MLP
from crossstage.layers.position import LearnedPositions, SinePositions, box_sine_embedding
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.neck import ChannelMapper
from crossstage.modeling.supervision.losses import FocalClassLoss, SoftmaxClassLoss, sigmoid_focal_loss
from crossstage.modeling.supervision.matching import FocalClassCost, HungarianMatcher, Pairs, SoftmaxClassCost
from crossstage.modeling.transformer import TransformerLayer
from crossstage.structures import GroupOutputs, Levels, PaddedTargets, QueryGroup, StageOutputs, Target
from tests.golden.folder import Comparison, GoldenFolder, Row
from tests.supervisions import WEIGHTS, criterion


def compare(folder: GoldenFolder) -> list[Row]:
    """Every block whose keys the folder has; each case is a set of inputs for the same weights."""
    rows = []
    for case in folder.cases:
        comparison = Comparison(folder.expected(case), prefix=f"{case.lstrip('_')}." if case else "")
        blocks = _Blocks(folder.meta, folder.weights, folder.inputs(case), comparison)
        for section in _SECTIONS:
            if any(name.startswith(section) for name in comparison.expected):
                _SECTIONS[section](blocks)
        rows += comparison.finish()
    return rows


class _Blocks:
    """What every check needs: hyper-parameters, weights by block, inputs by block, the comparison."""

    def __init__(self, meta: dict, weights: dict[str, Tensor], inputs: dict[str, Tensor], comparison: Comparison):
        self.meta, self.weights, self.inputs, self.comparison = meta, weights, inputs, comparison

    def weights_of(self, block: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{block}."): v for key, v in self.weights.items() if key.startswith(f"{block}.")}

    def leaves(self, *names: str) -> list[Tensor]:
        """Inputs that gradients are asked of."""
        return [self.inputs[name].clone().requires_grad_() for name in names]

    def cases(self, prefix: str, suffix: str = "") -> list[str]:
        """Middle parts of the expected keys `<prefix>.<case>[.<suffix>]`."""
        found = (key.removeprefix(prefix + ".") for key in self.comparison.expected if key.startswith(prefix + "."))
        return sorted({name.removesuffix(suffix) for name in found if name.endswith(suffix)})


def _number(pattern: str, text: str, *, default: float) -> float:
    """A hyper-parameter that meta.json only tells in words."""
    found = re.search(pattern, text)
    return float(found[1]) if found else default


def _check_block(b: _Blocks) -> None:
    meta = b.meta["block"]
    for name, order in meta["orders"].items():
        if f"block.{name}.output" not in b.comparison.expected:
            continue
        query, key, value = b.leaves("block.query", "block.key", "block.value")
        parts = [step for step in order if step.endswith("attn")]
        weights = b.weights_of(f"block.{name}")
        activation = nn.PReLU() if "ffns.0.activation.weight" in weights else nn.ReLU()
        attention = {part: DenseAttention(meta["embed_dim"], num_heads=meta["heads"]) for part in parts}
        ffn = FFN(meta["embed_dim"], meta["feedforward_dim"], activation=activation)
        layer = TransformerLayer(meta["embed_dim"], ffn=ffn, order=order, **attention)
        table = NameTable(detrex_layer_rules("", "", attentions=parts))
        layer.load_state_dict(table.to_native(weights))
        output = layer(
            query,
            self_attn={
                "position": b.inputs["block.query_pos"],
                "attention_mask": b.inputs["block.self_attn_mask"],
                "padding_mask": b.inputs["block.query_key_padding_mask"],
            },
            cross_attn={
                "key": key,
                "value": value,
                "position": b.inputs["block.query_pos"],
                "key_position": b.inputs["block.key_pos"],
                "padding_mask": b.inputs["block.key_padding_mask"],
            },
        )
        output.backward(b.inputs["block.grad_output"])
        b.comparison.check(f"block.{name}.output", output)
        for leaf, label in ((query, "query"), (key, "key"), (value, "value")):
            if f"block.{name}.grad_{label}" in b.comparison.expected:
                b.comparison.check(f"block.{name}.grad_{label}", leaf.grad, relative=True)
        for ours, parameter in layer.named_parameters():
            theirs = table.foreign_names(ours)[0]
            b.comparison.check(f"block.{name}.grad_norm_param.{theirs}", parameter.grad.norm(), relative=True)


def _check_box(b: _Blocks) -> None:
    check = b.comparison.check
    a_xyxy = cxcywh_to_xyxy(b.inputs["box.a_cxcywh"]).requires_grad_()
    b_xyxy = cxcywh_to_xyxy(b.inputs["box.b_cxcywh"])
    giou = generalized_box_iou(a_xyxy[:, None], b_xyxy)
    giou.backward(b.inputs["box.grad_output_giou"])
    check("box.a_xyxy", a_xyxy)
    check("box.b_xyxy", b_xyxy)
    check("box.a_back_to_cxcywh", xyxy_to_cxcywh(a_xyxy))
    check("box.iou", box_iou(a_xyxy[:, None], b_xyxy))
    check("box.union", intersection_and_union(a_xyxy[:, None], b_xyxy)[1])
    check("box.giou", giou)
    check("box.giou_grad_a_xyxy", a_xyxy.grad, relative=True)


def _check_conditional_self(b: _Blocks) -> None:
    block = ConditionalSelfAttention(b.meta["block"]["embed_dim"], num_heads=b.meta["block"]["heads"])
    block.load_state_dict(b.weights_of("cond_self"))
    (query,) = b.leaves("block.query")
    output = block(
        query,
        position=b.inputs["block.query_pos"],
        attention_mask=b.inputs["block.self_attn_mask"],
        padding_mask=b.inputs["block.query_key_padding_mask"],
    )
    output.backward(b.inputs["block.grad_output"])
    b.comparison.check("cond_self.output", output.transpose(0, 1))
    b.comparison.check("cond_self.grad_query", query.grad.transpose(0, 1), relative=True)


def _check_conditional_cross(b: _Blocks) -> None:
    for stage in ("first", "later"):
        block = ConditionalCrossAttention(
            b.meta["block"]["embed_dim"], num_heads=b.meta["block"]["heads"], stage=0 if stage == "first" else 1
        )
        weights = b.weights_of("cond_cross")
        block.load_state_dict({name: weights[name] for name in block.state_dict()})
        query, key, value = b.leaves("block.query", "block.key", "block.value")
        output = block(
            query,
            key,
            value,
            position=b.inputs["block.query_pos"],
            key_position=b.inputs["block.key_pos"],
            sine_position=b.inputs["cond.query_sine_embed_seq_first"].transpose(0, 1),
            padding_mask=b.inputs["block.key_padding_mask"],
        )
        output.backward(b.inputs["block.grad_output"])
        b.comparison.check(f"cond_cross_{stage}.output", output.transpose(0, 1))
        for leaf, label in ((query, "query"), (key, "key"), (value, "value")):
            b.comparison.check(f"cond_cross_{stage}.grad_{label}", leaf.grad.transpose(0, 1), relative=True)


def _match_targets(b: _Blocks) -> PaddedTargets:
    images = range(len(b.meta["match"]["counts"]))
    return PaddedTargets.of([Target(b.inputs[f"match.labels_{i}"], b.inputs[f"match.tgt_boxes_{i}"]) for i in images])


def _class_cost(b: _Blocks, kind: str) -> Callable:
    if kind == "ce_cost":
        return SoftmaxClassCost()
    return FocalClassCost(alpha=b.meta["match"]["alpha"], gamma=b.meta["match"]["gamma"])


def _check_pairs(comparison: Comparison, prefix: str, matches: Tensor) -> None:
    """matches: [B, N], against lists of matched (query, object) pairs in the order of the queries."""
    for image, matched in enumerate(matches):
        queries = (matched >= 0).nonzero().flatten()
        comparison.check(f"{prefix}.src_{image}", queries)
        comparison.check(f"{prefix}.tgt_{image}", matched[queries])


def _check_match(b: _Blocks) -> None:
    targets = _match_targets(b)
    for kind in ("focal_loss_cost", "ce_cost"):
        classes = b.meta["match"]["num_classes"] + (kind == "ce_cost")
        outputs = StageOutputs(b.inputs["match.logits"][None, ..., :classes], b.inputs["match.boxes"][None])
        for name, (cost_class, cost_bbox, cost_giou) in b.meta["match"]["weights_class_l1_giou"].items():
            matcher = HungarianMatcher(
                class_cost=_class_cost(b, kind), cost_class=cost_class, cost_bbox=cost_bbox, cost_giou=cost_giou
            )
            cost = matcher.cost(Pairs(outputs, targets))[0]
            for image, count in enumerate(targets.counts):
                b.comparison.check(f"match.{kind}.{name}.cost_{image}", cost[image, :count].transpose(0, 1))
            _check_pairs(b.comparison, f"match.{kind}.{name}", matcher(outputs, targets)[0])


def _check_criterion(b: _Blocks) -> None:
    targets = _match_targets(b)
    background_weight = _number(r"eos_coef ([\d.]+)", b.meta["criterion"], default=0.1)
    losses = {
        "focal_loss": (FocalClassLoss(), FocalClassCost()),
        "ce_loss": (SoftmaxClassLoss(background_weight=background_weight), SoftmaxClassCost()),
    }
    for name, (class_loss, class_cost) in losses.items():
        logits, boxes = b.leaves(f"criterion.{name}.logits", f"criterion.{name}.boxes")
        predicted = GroupOutputs(QueryGroup("matching", logits.shape[2]), StageOutputs(logits, boxes))
        matcher = HungarianMatcher(class_cost=class_cost)
        for stage, matches in enumerate(matcher(predicted.outputs, targets)):
            _check_pairs(b.comparison, f"criterion.{name}.layer_{stage}", matches)
        weighted = criterion(matcher=matcher, class_loss=class_loss)([predicted], targets)
        for key, loss in weighted.terms.items():
            b.comparison.check(f"criterion.{name}.{key}", loss / WEIGHTS[key.split("_")[1]])
        weighted.total.backward()
        b.comparison.check(f"criterion.{name}.weighted_sum", weighted.total)
        b.comparison.check(f"criterion.{name}.grad_logits", logits.grad, relative=True)
        b.comparison.check(f"criterion.{name}.grad_boxes", boxes.grad, relative=True)


def _check_focal(b: _Blocks) -> None:
    num_boxes = _number(r"num_boxes=(\d+)", b.meta["focal"], default=3)
    for case in {key.split(".")[1] for key in b.comparison.expected if key.startswith("focal.")}:
        options = {"alpha": -1.0} if case == "no_alpha" else {}
        if found := re.fullmatch(r"a(\d+)_g(\d+)", case):
            options = {"alpha": int(found[1]) / 100, "gamma": int(found[2]) / 10}
        (logits,) = b.leaves("focal.logits")
        loss = sigmoid_focal_loss(logits, b.inputs["focal.targets"] > 0, **options).sum() / num_boxes / logits.shape[1]
        loss.backward()
        b.comparison.check(f"focal.{case}", loss)
        b.comparison.check(f"focal.{case}.grad", logits.grad, relative=True)


def _check_mlp(b: _Blocks) -> None:
    weights = b.weights_of("mlp")
    matrices = [value for name, value in sorted(weights.items()) if name.endswith("weight")]
    hidden, width = matrices[0].shape
    module = MLP(width, hidden, matrices[-1].shape[0], len(matrices))
    module.load_state_dict(weights)
    b.comparison.check("mlp.output", module(b.inputs["block.query"]))


def _check_ffn(b: _Blocks) -> None:
    weights = NameTable(_FFN_NAMES).to_native(b.weights_of("ffn"))
    hidden, width = weights["layers.0.weight"].shape
    depth = sum(name.startswith("layers.") and name.endswith("weight") for name in weights)
    module = FFN(width, hidden, num_layers=depth, activation=_activation(b.meta["ffn"]))
    module.load_state_dict(weights)
    query = b.inputs["block.query"]
    b.comparison.check("ffn.output", module(query))
    b.comparison.check("ffn.output_with_identity", module(query, identity=b.inputs["block.query_pos"]))


_FFN_NAMES = [
    ("layers.{i}.0.{p}", "layers.{i}.{p}"),
    ("layers.{i}.1.{p}", "activation.{p}"),
    ("layers.{i}.{p}", "layers.{i}.{p}"),
]
_ACTIVATIONS = {name.lower(): getattr(nn, name) for name in nn.modules.activation.__all__}


def _activation(text: str) -> nn.Module:
    """The activation that a text of meta.json names, as in "3 linear layers, activation GELU"; ReLU if it names none.

    Raises ValueError for an activation that torch.nn does not have.
    """
    named = [word for word in re.findall(r"\w+", text) if word.lower() in _ACTIVATIONS]
    if not named and "activation" in text:
        raise ValueError(f"meta.json, ffn: {text!r}: expected the name of an activation of torch.nn, such as ReLU")
    return _ACTIVATIONS[named[0].lower()]() if named else nn.ReLU()


def _levels(b: _Blocks, block: str, like: Tensor) -> Levels:
    return Levels.of([tuple(shape) for shape in b.inputs[f"{block}.spatial_shapes"].tolist()], like)


def _check_msda_core(b: _Blocks) -> None:
    names = ("value", "sampling_locations", "attention_weights")
    value, locations, weights = b.leaves(*(f"msda_core.{name}" for name in names))
    # the reference keeps heads before levels, as we do: [B, N, H, L, P]
    output = deformable_sampling(value, _levels(b, "msda_core", value), locations=locations, weights=weights)
    output.backward(b.inputs["msda_core.grad_output"])
    b.comparison.check("msda_core.output", output)
    for leaf, name in zip((value, locations, weights), names, strict=True):
        b.comparison.check(f"msda_core.grad_{name}", leaf.grad, relative=True)


def _check_msda(b: _Blocks) -> None:
    meta = b.meta["msda"]
    for case in b.cases("msda", ".output"):
        block = MultiScaleDeformableAttention(
            meta["embed_dim"],
            num_heads=meta["num_heads"],
            num_levels=meta["num_levels"],
            num_points=meta["num_points"],
        )
        block.load_state_dict(b.weights_of("msda"))
        bare = case.endswith("no_identity_no_mask")
        query, position, value, identity, references = b.leaves(
            "msda.query", "msda.query_pos", "msda.value", "msda.identity", f"msda.reference_points_{case[:2]}"
        )
        memory = unpadded_memory(value, _levels(b, "msda", value))
        output = block(
            query,
            memory=memory if bare else replace(memory, mask=b.inputs["msda.key_padding_mask"]),
            references=references,
            position=None if bare else position,
            identity=None if bare else identity,
        )
        b.comparison.check(f"msda.{case}.output", output)
        if bare:
            continue
        output.backward(b.inputs["msda.grad_output"])
        leaves = {"query": query, "query_pos": position, "value": value, "identity": identity}
        for name, leaf in {**leaves, "reference_points": references}.items():
            b.comparison.check(f"msda.{case}.grad_{name}", leaf.grad, relative=True)
        for name, parameter in block.named_parameters():
            b.comparison.check(f"msda.{case}.grad_param.{name}", parameter.grad, relative=True)


def _check_neck(b: _Blocks) -> None:
    maps = [b.inputs[key] for key in sorted(key for key in b.inputs if key.startswith("neck.f"))]
    for case, described in b.meta["neck"]["cases"].items():
        weights = b.weights_of(f"neck.{case}")
        outputs = sorted(key for key in b.comparison.expected if key.startswith(f"neck.{case}.out_"))
        neck = ChannelMapper(
            b.meta["neck"]["channels"],
            b.meta["neck"]["out_channels"],
            num_levels=len(outputs),
            kernel_size=weights["convs.0.conv.weight"].shape[-1],
            groups=int(_number(r"GroupNorm (\d+)", described, default=4)) if "convs.0.norm.weight" in weights else None,
            activation=nn.ReLU() if "relu" in described.lower() else None,
        )
        neck.load_state_dict(weights)
        pyramid = neck(maps, torch.zeros(len(maps[0]), 64, 96, dtype=torch.bool))
        for key, level in zip(outputs, pyramid.maps, strict=True):
            b.comparison.check(key, level)


def _check_positions(b: _Blocks) -> None:
    for case, options in b.meta["sine2d"]["cases"].items():
        module = SinePositions(options["num_pos_feats"], **{k: v for k, v in options.items() if k != "num_pos_feats"})
        b.comparison.check(f"sine2d.{case}", module(b.inputs["sine2d.mask"]))


def _check_learned_positions(b: _Blocks) -> None:
    weights = b.weights_of("learned2d")
    rows, features = weights["row_embed.weight"].shape
    module = LearnedPositions(features, rows=rows, columns=weights["col_embed.weight"].shape[0])
    module.load_state_dict(weights)
    b.comparison.check("learned2d.output", module(b.inputs["sine2d.mask"]))


def _check_box_sine(b: _Blocks) -> None:
    for case, options in b.meta["sine_anchor"]["cases"].items():
        (boxes,) = b.leaves("sine_anchor.points" if case == "points" else "sine_anchor.boxes")
        output = box_sine_embedding(
            boxes,
            options.get("num_pos_feats", 128),
            temperature=options.get("temperature", 10000),
            vertical_first=options.get("exchange_xy", True),
        )
        b.comparison.check(f"sine_anchor.{case}", output)
        if f"sine_anchor.{case}.grad_boxes" in b.comparison.expected:
            output.backward(b.inputs[f"sine_anchor.grad_output_{case}"])
            b.comparison.check(f"sine_anchor.{case}.grad_boxes", boxes.grad, relative=True)


def _check_inverse_sigmoid(b: _Blocks) -> None:
    (values,) = b.leaves("inverse_sigmoid.x")
    output = inverse_sigmoid(values)
    output.sum().backward()
    for case in b.cases("inverse_sigmoid"):
        if case.startswith("eps_"):
            eps = float(case.removeprefix("eps_"))
            b.comparison.check(f"inverse_sigmoid.{case}", inverse_sigmoid(values, eps=eps))
    b.comparison.check("inverse_sigmoid.grad", values.grad, relative=True)


_SECTIONS: dict[str, Callable[[_Blocks], None]] = {
    "block.": _check_block,
    "box.": _check_box,
    "cond_self.": _check_conditional_self,
    "cond_cross_": _check_conditional_cross,
    "match.": _check_match,
    "criterion.": _check_criterion,
    "focal.": _check_focal,
    "mlp.": _check_mlp,
    "ffn.": _check_ffn,
    "msda_core.": _check_msda_core,
    "msda.": _check_msda,
    "neck.": _check_neck,
    "sine2d.": _check_positions,
    "learned2d.": _check_learned_positions,
    "sine_anchor.": _check_box_sine,
    "inverse_sigmoid.": _check_inverse_sigmoid,
}
