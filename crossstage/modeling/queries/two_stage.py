"""Queries from the best tokens of the encoder (Deformable-DETR, DINO)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossstage.layers.boxes import refine_boxes
from crossstage.layers.mlp import xavier_uniform_matrices_
from crossstage.layers.position import box_sine_embedding
from crossstage.modeling.encoders.tokens import token_places
from crossstage.modeling.layer_seams import Head
from crossstage.modeling.queries.content import Content, LearnedContent
from crossstage.modeling.seams import ContentSource
from crossstage.structures import GroupOutputs, Memory, Queries, QueryGroup, StageOutputs


def encoder_proposals(memory: Memory, *, base_size: float = 0.05) -> tuple[Tensor, Tensor]:
    """One box a token: its cell's centre, `base_size` * 2^level wide and high (Deformable-DETR, section A.4).

    Returns boxes [B, M, 4] and usable, bool [B, M]: not padding, and inside (0.01, 0.99) in all four coordinates.
    """
    places = token_places(memory.valid_ratios, memory.levels)
    sizes = [places.new_full((tokens,), base_size * 2.0**level) for level, tokens in enumerate(memory.levels.tokens)]
    size = torch.cat(sizes)[:, None].expand(places.shape[0], -1, 2)
    boxes = torch.cat([places, size], dim=-1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1)
    return boxes, usable & ~memory.mask


def best_tokens(scores: Tensor, usable: Tensor, count: int) -> Tensor:
    """Indices of the `count` best usable tokens of each image, best first: [B, M], bool [B, M] -> int64 [B, count].

    Where an image has fewer, its list starts again from the best: padding never becomes a query, and the number of
    queries depends neither on the image's size nor on its neighbours in the batch.
    """
    # Filled up to at least `count`, so that an exported graph need not compare it with a number of tokens. What is
    # filled up ranks below all tokens, also those that are not usable or have a score of -inf, and is never chosen.
    least = torch.finfo(scores.dtype).min
    ranking = scores.clamp(min=least).masked_fill(~usable, least)
    ranked = F.pad(ranking, (0, count), value=-torch.inf).topk(count, dim=1).indices
    available = usable.sum(dim=1, keepdim=True).clamp(min=1, max=count)
    return ranked.gather(1, torch.arange(count, device=scores.device) % available)


class TwoStageQueries(nn.Module):
    """DINO's mixed query selection: boxes from the best encoder tokens, learned content (DINO, section 3.4).

    The boxes enter the decoder without gradient; the proposals are supervised as a group of their own.

    Args:
        class_head, box_head: of the encoder's proposals.
        content: makes the contents; None: one learned vector per query.
        extra_queries: further queries for extra groups, from the next best tokens.
    """

    group_names = ("matching", "proposals")

    def __init__(
        self,
        *,
        num_queries: int,
        class_head: Head,
        box_head: Head,
        embed_dim: int = 256,
        content: ContentSource | None = None,
        extra_queries: int = 0,
    ) -> None:
        super().__init__()
        self.num_queries, self.extra_queries = num_queries, extra_queries
        self.project = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        if content is None:
            content = LearnedContent(num_queries, embed_dim, extra_queries=extra_queries)
            xavier_uniform_matrices_(content)
        xavier_uniform_matrices_(self)
        self.content, self.class_head, self.box_head = content, class_head, box_head

    def forward(self, memory: Memory, count: int) -> Queries:
        """Content [B, count, C], boxes [B, count, 4] and the proposals that they are from."""
        proposals = self.propose(memory, count)
        content = self.content(memory, count)
        return Queries(
            content=content.values.expand(memory.tokens.shape[0], -1, -1),
            references=proposals.outputs.boxes[0].detach(),
            groups=(QueryGroup("matching", count),),
            proposals=proposals,
            losses=content.losses,
        )

    def propose(self, memory: Memory, count: int) -> GroupOutputs:
        """The `count` best proposals by their best class, with gradient: one stage of outputs."""
        boxes, usable = encoder_proposals(memory)
        states = self.norm(self.project(memory.tokens * usable[..., None]))
        logits = self.class_head(states).to(boxes.dtype)
        chosen = best_tokens(logits.amax(dim=-1), usable, count)
        states, logits, boxes = (_take(x, chosen) for x in (states, logits, boxes))
        boxes = refine_boxes(boxes.clamp(0.01, 0.99), self.box_head(states))
        outputs = StageOutputs(logits[None], boxes[None], states=states[None])
        return GroupOutputs(QueryGroup("proposals", count), outputs)


class ProposalQueries(nn.Module):
    """Two-stage Deformable-DETR (section A.4): the best encoder tokens give boxes, positions and content.

    Args:
        class_head, box_head: of the encoder's proposals, which are supervised at every token, as objects or not; a
            token's score is therefore the logit of class 0, and their supervision is class-agnostic.
        content: makes the contents (mixed selection: LearnedContent); None: they come from the boxes.
        extra_queries: further queries for extra groups, from the next best tokens.
    """

    group_names = ("matching", "proposals")

    def __init__(
        self,
        *,
        num_queries: int,
        class_head: Head,
        box_head: Head,
        embed_dim: int = 256,
        content: ContentSource | None = None,
        extra_queries: int = 0,
    ) -> None:
        super().__init__()
        self.num_queries, self.extra_queries = num_queries, extra_queries
        self.project = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.embed_boxes = nn.Linear(2 * embed_dim, 2 * embed_dim)
        self.embed_norm = nn.LayerNorm(2 * embed_dim)
        xavier_uniform_matrices_(self)
        self.content, self.class_head, self.box_head = content, class_head, box_head

    def forward(self, memory: Memory, count: int) -> Queries:
        """Content and positions [B, count, C], boxes [B, count, 4] without gradient; proposals of all tokens."""
        proposals, usable = self.propose(memory)
        chosen = best_tokens(proposals.outputs.logits[0, ..., 0], usable, count)
        references = _take(proposals.outputs.boxes[0], chosen).detach()
        positions, from_boxes = self._embedded(references)
        content = Content(from_boxes) if self.content is None else self.content(memory, count)
        return Queries(
            content=content.values.expand_as(positions),
            references=references,
            groups=(QueryGroup("matching", count),),
            positions=positions,
            proposals=proposals,
            losses=content.losses,
        )

    def positions(self, references: Tensor) -> Tensor:
        """Query positions of any boxes, those of extra groups: [B, N, 4] -> [B, N, C]."""
        return self._embedded(references)[0]

    def _embedded(self, references: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and contents from boxes: [B, N, 4] -> two [B, N, C]."""
        features = self.embed_boxes.out_features // 4
        sine = box_sine_embedding(references, features, vertical_first=False)
        return self.embed_norm(self.embed_boxes(sine)).chunk(2, dim=-1)

    def propose(self, memory: Memory) -> tuple[GroupOutputs, Tensor]:
        """Predictions of all M tokens as one stage, and which may become queries: bool [B, M].

        The others, padding and borders, still take part in the losses as the box (1, 1, 1, 1), as in detrex.
        """
        boxes, usable = encoder_proposals(memory)
        states = self.norm(self.project(memory.tokens * usable[..., None]))
        boxes = refine_boxes(boxes.clamp(0.01, 0.99), self.box_head(states)).masked_fill(~usable[..., None], 1.0)
        outputs = StageOutputs(self.class_head(states).to(boxes.dtype)[None], boxes[None])
        return GroupOutputs(QueryGroup("proposals", boxes.shape[1]), outputs), usable


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of an axis 1, image by image: [B, M, X], int64 [B, N] -> [B, N, X]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
