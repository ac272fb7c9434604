"""Parts of AdaMixer and StageInteractor with random weights: sampling, mixing, first queries, necks.

Each folder gives inputs and the gradient of the outputs; outputs and the gradients of inputs and weights are compared.
A folder without a hyper-parameter that tells its variant shows it by the names of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import torch
from crossstage.projects.adamixer.checkpoint import mmdet_adamixer_names
from crossstage.projects.stage_interactor.checkpoint import mmdet_stage_interactor_names
from crossstage.projects.stage_interactor.modeling.filters import AdaptedFilters, ChannelSpatialMixing, FilterReuse
from crossstage.projects.stage_interactor.modeling.grouped_sampler import GroupedSampler
from crossstage.projects.stage_interactor.modeling.mixing import CascadeMixing
from torch import Tensor, nn

from crossstage.checkpoints.names import NameTable
from crossstage.layers.boxes import cxcywh_to_xyxy
from crossstage.layers.position_vector import (
    IsotropicMoves,
    SideMoves,
    position_vector_embedding,
    to_normalised_boxes,
    to_position_vectors,
)
from crossstage.layers.sampling import level_weights, sample_pyramid
from crossstage.modeling.decoders.adaptive_mixing import AdaptiveMixing
from crossstage.modeling.decoders.point_sampler import PointSampler, offset_points, scale_centres
from crossstage.modeling.encoders.none import NoEncoder
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.neck import SharedNormMapper, pyramid
from crossstage.modeling.queries.boxes import BoxQueries
from crossstage.structures import Levels, Memory
from tests.golden.folder import Comparison, GoldenFolder, Row
from tests.golden.mixer_kind import gradient_floor

STAGE, OUR_STAGE = "roi_head.bbox_head.", "decoder.layers."
UNREAD = "subbox_score_list"
"""A part of the reference that has parameters and no effect; their gradients are zero."""


def compare(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of a folder whose name begins with one of `CHECKS`."""
    check = next(check for kind, check in CHECKS.items() if folder.path.name.startswith(kind))
    rows = []
    for case in folder.cases:
        part = _Part(folder, case)
        check(part)
        rows += part.comparison.finish()
    return rows


class _Part:
    """One case: hyper-parameters, weights, inputs, which take gradients, and the comparison."""

    def __init__(self, folder: GoldenFolder, case: str) -> None:
        self.hyper, self.weights, self.inputs = folder.meta["hyper_parameters"], folder.weights, folder.inputs(case)
        self.comparison = Comparison(folder.expected(case), prefix=f"{case.lstrip('_')}." if case else "")
        self.check = self.comparison.check
        for name, tensor in self.inputs.items():
            if tensor.is_floating_point() and "cotangent" not in name:
                tensor.requires_grad_()

    def load(self, module: nn.Module, table: NameTable, spelled: Callable[[str], str], ours: str) -> dict[str, str]:
        """Give a module the folder's weights. Returns their names by ours.

        spelled: a weight's name -> as the table knows it.  ours: where the module lies in the detector.
        """
        read = {name: weight for name, weight in self.weights.items() if UNREAD not in name}
        names = {name: (table.native_name(spelled(name)) or name).removeprefix(ours) for name in read}
        module.double().load_state_dict({names[name]: weight for name, weight in read.items()})
        return {native: name for name, native in names.items()}

    def backward(
        self, outputs: dict[str, Tensor], module: nn.Module | None = None, names: dict[str, str] | None = None
    ) -> None:
        """Compare outputs, take the gradient from the inputs' cotangents, and compare that of inputs and weights.

        outputs: by key, with the key of its cotangent.
        """
        sum((value * self.inputs[_cotangent(key)]).sum() for key, value in outputs.items()).backward()
        for key, value in outputs.items():
            self.check(key, value)
        floor = gradient_floor(self.comparison.expected)
        leaves = {name: tensor for name, tensor in self.inputs.items() if tensor.requires_grad}
        leaves |= {} if module is None else {names[ours]: leaf for ours, leaf in module.named_parameters()}
        for name, weight in (self.weights | leaves).items():
            gradient = leaves[name].grad if name in leaves else None
            ours = torch.zeros_like(weight) if gradient is None else gradient
            self.check(f"grad.{name}", ours, relative=True, floor=floor)

    def memory(self) -> Memory:
        """The stored feature maps."""
        maps = [self.inputs[f"feat{level}"] for level in range(len(self.hyper["strides"]))]
        height, width = (size * self.hyper["strides"][0] for size in maps[0].shape[-2:])
        return NoEncoder()(pyramid(maps, torch.zeros(len(maps[0]), height, width, dtype=torch.bool)))


def _cotangent(key: str) -> str:
    """`out` -> `cotangent`, `out2` -> `cotangent2`, `stage1.out` -> `stage1.cotangent`."""
    return key.replace("out", "cotangent")


def _check_sampling(part: _Part) -> None:
    hyper, vectors = part.hyper, part.inputs["xyzr"]
    offsets = part.inputs["offset"].unflatten(-1, (hyper["G"], hyper["P_in"], 3))
    points = offset_points(vectors, offsets)
    centres, temperature = scale_centres(hyper["strides"], None), hyper.get("tau", 2.0)
    weights = level_weights(points[..., 2], centres.to(points), temperature=temperature)
    part.check("sample_points", points.flatten(2, 3)[:, :, None])
    part.check("level_weights", weights.flatten(2, 3)[:, :, None])
    options = {"strides": hyper["strides"], "centres": centres, "temperature": temperature}
    part.backward({"out": sample_pyramid(part.memory(), points, **options)})


def _check_sampler(part: _Part) -> None:
    hyper, query, vectors = part.hyper, part.inputs["query"], part.inputs["xyzr"]
    grouped = "gen_one_d.0.weight" in part.weights
    shared = {"num_groups": hyper["G"], "strides": hyper["strides"], "finest_scale": 3.0}
    if grouped:
        points = {"num_anchors": hyper["in_points"], "num_details": hyper["subbox"]}
        sampler = GroupedSampler(query.shape[-1], **points, **shared)
    else:
        sampler = PointSampler(query.shape[-1], num_points=hyper["in_points"] * hyper["subbox"], **shared)
    table = mmdet_stage_interactor_names(free_sampler=not grouped)
    names = part.load(sampler, table, (STAGE + "0.feat_extractor.{}").format, f"{OUR_STAGE}0.sampler.")
    offsets = sampler.offsets(query).reshape(*query.shape[:2], hyper["G"], -1, 3)
    places = offset_points(vectors, offsets)
    part.check("points_xy", places[..., :2])
    part.check("points_z", places[..., 2])
    part.check("level_weights", level_weights(places[..., 2], sampler.centres))
    part.backward({"out": sampler(query, vectors, part.memory())}, sampler, names)


def _check_mixing(part: _Part) -> None:
    if "num_stages" in part.hyper:
        _check_cascade(part)
        return
    hyper, query = part.hyper, part.inputs["query"]
    mixing = AdaptiveMixing(
        query.shape[-1], num_groups=hyper["G"], num_points=hyper["P_in"], num_outputs=hyper["P_out"]
    )
    spelled = (STAGE + "0.sampling_n_mixing.adaptive_mixing.{}").format
    names = part.load(mixing, mmdet_adamixer_names(), spelled, f"{OUR_STAGE}0.mixing.")
    content, _ = mixing(query, part.inputs["x"])
    part.backward({"out": content}, mixing, names)


class _NormedCascade(nn.Module):
    """A stage's mixing with the norm after it, which the reference counts as part of it."""

    def __init__(self, mixing: CascadeMixing, width: int) -> None:
        super().__init__()
        self.mixing, self.mixing_norm = mixing, nn.LayerNorm(width)


def _check_cascade(part: _Part) -> None:
    """Stages with inputs of their own, which share the bank."""
    hyper, width = part.hyper, part.hyper["G"] * part.hyper["Dc"]
    reuse = FilterReuse(
        first_stage=hyper.get("reuse_st_id", 2),
        channel_filters=hyper.get("prefix_M_len"),
        spatial_filters=hyper.get("lim_outpoints_times", 1),
    )
    options = {"num_groups": hyper["G"], "num_anchors": hyper["in_points"], "num_details": hyper["subbox"]}
    options |= {"num_outputs": hyper["P_out"], "static": ChannelSpatialMixing(), "blend": AdaptedFilters()}
    stages = range(hyper["num_stages"])
    chain = nn.ModuleList(
        _NormedCascade(CascadeMixing(width, reuse=reuse, stage=stage, **options), width) for stage in stages
    )
    names = part.load(
        chain,
        mmdet_stage_interactor_names(),
        lambda name: STAGE + name.replace(".", ".dynamic_conv.", 1),
        OUR_STAGE,
    )
    outputs, bank = {}, ()
    for stage, layer in enumerate(chain):
        content, features = part.inputs[f"stage{stage}.query"], part.inputs[f"stage{stage}.x"]
        own = layer.mixing.generate(content)
        part.check(f"stage{stage}.bank_S_newest", layer.mixing.spatial_filters(content, own, bank).flatten(0, 2))
        mixed, bank = layer.mixing(content, features, bank)
        outputs[f"stage{stage}.out"] = layer.mixing_norm(mixed)
        part.check(f"stage{stage}.bank_M_newest", bank[-1].over_channels.flatten(0, 2))
        part.check(f"stage{stage}.bank_len", torch.tensor(len(bank)))
    part.backward(outputs, chain, names)


def _check_queries(part: _Part) -> None:
    """AdaMixer's first boxes are an embedding, StageInteractor's a buffer; they also differ in the first refinement."""
    is_adamixer = "init_proposal_bboxes.weight" in part.weights
    queries = BoxQueries(num_queries=part.hyper["num_query"], embed_dim=part.hyper["dim"]).double()
    part.check("init_boxes_default", queries.boxes)
    table = mmdet_adamixer_names() if is_adamixer else mmdet_stage_interactor_names()
    part.load(queries, table, "rpn_head.{}".format, "queries.source.")
    sizes = part.inputs["image_sizes_hw"].double().flip(-1)
    nothing = Levels.of([(1, 1)], like=sizes)
    memory = unpadded_memory(torch.zeros(len(sizes), 1, part.hyper["dim"]), nothing)
    memory = replace(memory, image_sizes=sizes)
    first = queries(memory, part.hyper["num_query"])
    part.check("xyzr", to_position_vectors(first.references, sizes))
    part.check("content", first.content)
    part.check("imgs_whwh", sizes.repeat(1, 2)[:, None])
    if "pe_xyzr" in part.inputs:
        vectors = part.inputs["pe_xyzr"]
        part.check("position_embedding", position_vector_embedding(vectors, 4 * part.hyper["pe_num_feats"]))
        part.check("decoded_boxes", _absolute_corners(vectors))
    if "refine_xyzr" in part.inputs:
        moves = IsotropicMoves() if is_adamixer else SideMoves()
        vectors = moves(part.inputs["refine_xyzr"], part.inputs["refine_delta"])
        part.check("refined_xyzr", vectors)
        part.check("refined_boxes", _absolute_corners(vectors))


def _absolute_corners(vectors: Tensor) -> Tensor:
    """(x, y, z, r) [B, N, 4] -> corners in pixels, [B, N, 4]."""
    return cxcywh_to_xyxy(to_normalised_boxes(vectors, vectors.new_ones(len(vectors), 2)))


def _check_neck(part: _Part) -> None:
    """AdaMixer's, and DEQDet's, whose convolutions are 3x3, followed by a ReLU, and called `convs`."""
    is_adamixer = any(name.startswith("lateral_convs.") for name in part.weights)
    first = next(weight for name, weight in part.weights.items() if name.endswith("convs.0.conv.weight"))
    neck = SharedNormMapper(
        part.hyper["in_channels"],
        part.hyper["out_channels"],
        kernel_size=first.shape[-1],
        groups=part.hyper["gn_groups"],
        activation=None if is_adamixer else nn.ReLU(),
    )
    names = part.load(
        neck, mmdet_adamixer_names(), lambda name: "neck." + re.sub("^convs", "lateral_convs", name), "neck."
    )
    maps = [part.inputs[f"in{level}"] for level in range(len(part.hyper["in_channels"]))]
    found = neck(maps, torch.zeros(len(maps[0]), 32, 32, dtype=torch.bool))
    part.backward({f"out{level}": value for level, value in enumerate(found.maps)}, neck, names)


CHECKS = {
    "sampling_3d": _check_sampling,
    "grouped_sampler": _check_sampler,
    "adaptive_mixing": _check_mixing,
    "query_init": _check_queries,
    "neck_channel_mapping": _check_neck,
    "neck_channel_mapper_gn": _check_neck,
}
"""The kinds of folders, and what compares one."""
