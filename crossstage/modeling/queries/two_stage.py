"""Queries from the best tokens of the encoder (Deformable-DETR, DINO)."""

import torch
from torch import Tensor, nn

from crossstage.layers.mlp import xavier_uniform_matrices_
from crossstage.layers.position import box_sine_embedding
from crossstage.modeling.encoders.deformable import token_places
from crossstage.modeling.queries.denoising import group_attention_mask
from crossstage.modeling.queries.one_to_many import OneToMany, matching_groups
from crossstage.structures import GroupOutputs, Memory, PaddedTargets, Queries, QueryGroup, StageOutputs


def encoder_proposals(memory: Memory, *, base_size: float = 0.05) -> tuple[Tensor, Tensor]:
    """One box a token: its cell's centre, `base_size` * 2^level wide and high (Deformable-DETR, section A.4).

    Returns boxes [B, M, 4] and usable, bool [B, M]: not padding, and inside (0.01, 0.99) in all four coordinates.
    """
    places = token_places(memory.valid_ratios, memory.levels)
    sizes = [places.new_full((tokens,), base_size * 2.0**level) for level, tokens in enumerate(memory.levels.tokens)]
    size = torch.cat(sizes)[:, None].expand(places.shape[0], -1, 2)
    boxes = torch.cat([places, size], dim=-1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1)
    return boxes, usable if memory.mask is None else usable & ~memory.mask


def best_tokens(scores: Tensor, usable: Tensor, count: int) -> Tensor:
    """Indices of the `count` best usable tokens of each image, best first: [B, M], bool [B, M] -> int64 [B, count].

    Where an image has fewer, its list starts again from the best: padding never becomes a query, and the number of
    queries depends neither on the image's size nor on its neighbours in the batch.
    """
    ranked = scores.masked_fill(~usable, -torch.inf).topk(min(count, scores.shape[1]), dim=1).indices
    available = usable.sum(dim=1, keepdim=True).clamp(min=1, max=ranked.shape[1])
    return ranked.gather(1, torch.arange(count, device=scores.device) % available)


class TwoStageQueries(nn.Module):
    """DINO's mixed query selection: boxes from the best encoder tokens, learned content (DINO, section 3.4).

    class_head, box_head: of the encoder's proposals.  denoising: makes the extra group in training, or None.
    The boxes enter the decoder without gradient; the proposals are supervised as a group of their own.
    """

    def __init__(
        self,
        *,
        num_queries: int,
        class_head: nn.Module,
        box_head: nn.Module,
        embed_dim: int = 256,
        denoising: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.project = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.content = nn.Embedding(num_queries, embed_dim)
        xavier_uniform_matrices_(self)
        self.class_head, self.box_head, self.denoising = class_head, box_head, denoising

    def forward(self, memory: Memory, targets: PaddedTargets | None = None) -> Queries:
        """targets: in training; they ask for denoising queries, which come first on the query axis."""
        proposals = self.propose(memory)
        matching = QueryGroup("matching", self.num_queries)
        groups: tuple[QueryGroup, ...] = (matching,)
        content = self.content.weight.expand(memory.tokens.shape[0], -1, -1)
        references = proposals.outputs.boxes[0].detach()
        if targets is not None and self.denoising is not None:
            noised, noised_content, noised_references = self.denoising(targets)
            groups = (noised, matching)
            content = torch.cat([noised_content.to(content.dtype), content], dim=1)
            references = torch.cat([noised_references, references], dim=1)
        return Queries(
            content=content,
            references=references,
            groups=groups,
            attention_mask=group_attention_mask(groups, content.device),
            proposals=proposals,
        )

    def propose(self, memory: Memory) -> GroupOutputs:
        """The `num_queries` best proposals by their best class, with gradient: one stage of outputs."""
        boxes, usable = encoder_proposals(memory)
        states = self.norm(self.project(memory.tokens * usable[..., None]))
        logits = self.class_head(states).to(boxes.dtype)
        chosen = best_tokens(logits.amax(dim=-1), usable, self.num_queries)
        states, logits, boxes = (_take(x, chosen) for x in (states, logits, boxes))
        boxes = (self.box_head(states).to(boxes.dtype) + torch.logit(boxes.clamp(0.01, 0.99))).sigmoid()
        outputs = StageOutputs(logits[None], boxes[None], states=states[None])
        return GroupOutputs(QueryGroup("proposals", self.num_queries, "{loss}_enc"), outputs)


class ProposalQueries(nn.Module):
    """Two-stage Deformable-DETR (section A.4): the best encoder tokens give boxes, positions and content.

    class_head, box_head: of the encoder's proposals, which are supervised at every token, as objects or not; a token's
    score is therefore the logit of class 0.  mixed_selection: learned content instead (H-DETR).
    one_to_many: H-DETR's hybrid branch, whose queries follow the matching ones in the order of scores, or None.
    """

    def __init__(
        self,
        *,
        num_queries: int,
        class_head: nn.Module,
        box_head: nn.Module,
        embed_dim: int = 256,
        mixed_selection: bool = False,
        one_to_many: OneToMany | None = None,
    ) -> None:
        super().__init__()
        self.num_queries, self.one_to_many = num_queries, one_to_many
        self.project = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.embed_boxes = nn.Linear(2 * embed_dim, 2 * embed_dim)
        self.embed_norm = nn.LayerNorm(2 * embed_dim)
        xavier_uniform_matrices_(self)
        total = num_queries + (one_to_many.num_queries if one_to_many else 0)
        self.content = nn.Embedding(total, embed_dim) if mixed_selection else None
        self.class_head, self.box_head = class_head, box_head

    def forward(self, memory: Memory, targets: PaddedTargets | None = None) -> Queries:
        """targets: in training; they ask for the one-to-many queries too. References carry no gradient."""
        groups = matching_groups(self.num_queries, self.one_to_many if targets is not None else None)
        count = sum(group.size for group in groups)
        proposals, usable = self.propose(memory)
        chosen = best_tokens(proposals.outputs.logits[0, ..., 0], usable, count)
        references = _take(proposals.outputs.boxes[0], chosen).detach()
        features = self.embed_boxes.out_features // 4
        embedded = self.embed_norm(self.embed_boxes(box_sine_embedding(references, features, vertical_first=False)))
        positions, content = embedded.chunk(2, dim=-1)
        if self.content is not None:
            content = self.content.weight[:count].expand_as(content)
        return Queries(
            content=content,
            references=references,
            groups=groups,
            attention_mask=group_attention_mask(groups, content.device),
            positions=positions,
            proposals=proposals,
        )

    def propose(self, memory: Memory) -> tuple[GroupOutputs, Tensor]:
        """Predictions of all M tokens as one stage, and which may become queries: bool [B, M].

        The others, padding and borders, still take part in the losses as the box (1, 1, 1, 1), as in detrex.
        """
        boxes, usable = encoder_proposals(memory)
        states = self.norm(self.project(memory.tokens * usable[..., None]))
        starts = torch.logit(boxes.clamp(0.01, 0.99)).masked_fill(~usable[..., None], torch.inf)
        boxes = (self.box_head(states).to(boxes.dtype) + starts).sigmoid()
        outputs = StageOutputs(self.class_head(states).to(boxes.dtype)[None], boxes[None])
        group = QueryGroup("proposals", boxes.shape[1], "{loss}_enc", class_agnostic=True)
        return GroupOutputs(group, outputs), usable


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of an axis 1, image by image: [B, M, X], int64 [B, N] -> [B, N, X]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
