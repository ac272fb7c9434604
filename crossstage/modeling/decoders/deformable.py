"""The deformable decoder: stages that refine queries and their boxes, and the heads that read every stage."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossstage.config.stages import StageNode, stage_factories
from crossstage.layers.boxes import refine_boxes
from crossstage.layers.mlp import MLP, xavier_uniform_matrices_
from crossstage.layers.position import box_sine_embedding
from crossstage.modeling.layer_seams import AttentionLayer, BoxPositions, Head
from crossstage.structures import Memory, Queries, StageOutputs


class BoxQueryPositions(nn.Module):
    """Query positions from the queries' boxes, computed at each stage (DAB-DETR, eq. 5): MLP of a sine embedding.

    [B, N, 4] boxes -> [B, N, C]. Raises ValueError for reference points [B, N, 2].
    """

    def __init__(self, embed_dim: int = 256) -> None:
        super().__init__()
        self.num_features = embed_dim // 2
        self.mlp = MLP(4 * self.num_features, embed_dim, embed_dim, 2)
        xavier_uniform_matrices_(self)

    def forward(self, references: Tensor) -> Tensor:
        if references.shape[-1] != 4:
            raise ValueError(
                "BoxQueryPositions makes query positions from boxes, but the query source gives reference points "
                f"{list(references.shape)}. Set model.decoder.query_positions=null (a source of points, such as "
                "LearnedQueries, brings its own positions), or use a source with boxes, such as TwoStageQueries"
            )
        return self.mlp(box_sine_embedding(references, self.num_features))


def as_boxes(references: Tensor) -> Tensor:
    """Points [B, N, 2] become boxes [B, N, 4] whose size is still open: its logits are 0. Boxes stay as they are."""
    return references if references.shape[-1] == 4 else F.pad(references, (0, 2), value=0.5)


def attend(
    layer: AttentionLayer,
    content: Tensor,
    references: Tensor,
    *,
    memory: Memory,
    query_positions: BoxPositions | None = None,
    positions: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """One stage of attention: queries read each other, then the memory around their references.

    The refined boxes are then `refine_boxes(as_boxes(references), box_head(content))`. Nothing is detached here: the
    caller decides which gradients go from stage to stage.

    Args:
        layer: TransformerLayer with deformable cross-attention.
        content: [B, N, C].
        references: boxes [B, N, 4] or points [B, N, 2] of the unpadded image.
        memory: the tokens to read, with their valid ratios.
        query_positions: makes positions [B, N, C] from boxes [B, N, 4]; None uses `positions`.
        positions: [B, N, C], the same at every stage.
        attention_mask: bool [N, N], True = the row's query may not attend to the column's.

    Returns:
        The updated content, [B, N, C].

    Raises:
        ValueError: if there are neither query_positions nor positions.
    """
    ratios = torch.cat([memory.valid_ratios] * (references.shape[-1] // 2), dim=-1)
    per_level = references[:, :, None] * ratios[:, None]  # [B, N, L, 2 or 4], in coordinates of each padded level
    if query_positions is not None:
        positions = query_positions(per_level[:, :, 0])
    if positions is None:
        raise ValueError(
            "decoder.query_positions=None and Queries.positions=None, but attention needs query positions. Give the "
            "decoder query_positions=BoxQueryPositions(embed_dim), or use a query source that sets Queries.positions"
        )
    return layer(
        content,
        self_attn={"position": positions, "attention_mask": attention_mask},
        cross_attn={"position": positions, "memory": memory, "references": per_level},
    )


class DeformableDecoder(nn.Module):
    """S stages with iterative box refinement and look-forward-twice (Deformable-DETR, A.4; DINO, section 3.5).

    layer, class_head, box_head: config nodes, each built once per stage.
    query_positions: module from boxes [B, N, 4] to positions [B, N, C]; without it the queries bring their own.
    norm: module that the heads read through; the stages hand on the un-normed state.
    look_forward_twice: a stage's boxes also send gradient to the stage before.
    first_box_head: the first stage's box head, where it differs (it also chooses the sizes, where queries start from
    points).
    refine: False for Deformable-DETR without refinement, where all stages start from the queries' own references and
    share one pair of heads.
    """

    per_stage = ("layer", "class_head", "box_head")

    def __init__(
        self,
        layer: StageNode,
        *,
        class_head: StageNode,
        box_head: StageNode,
        num_layers: int,
        query_positions: BoxPositions | None = None,
        norm: Head | None = None,
        look_forward_twice: bool = True,
        first_box_head: nn.Module | None = None,
        refine: bool = True,
    ) -> None:
        super().__init__()
        layer, class_head, box_head = stage_factories(self, layer=layer, class_head=class_head, box_head=box_head)
        self.layers = nn.ModuleList(layer(stage) for stage in range(num_layers))
        heads = num_layers if refine else 1
        first = box_head(0) if first_box_head is None else first_box_head
        self.class_heads = nn.ModuleList(class_head(stage) for stage in range(heads))
        self.box_heads = nn.ModuleList([first, *(box_head(stage) for stage in range(1, heads))])
        self.query_positions = query_positions
        self.norm = nn.Identity() if norm is None else norm
        self.look_forward_twice, self.refine = look_forward_twice, refine

    def forward(self, queries: Queries, memory: Memory) -> StageOutputs:
        """Queries [B, N, C] with references [B, N, 4] or points [B, N, 2] -> the predictions of S stages."""
        content, references = queries.content, queries.references
        starts, states, refined = [as_boxes(references)], [], []
        for stage, layer in enumerate(self.layers):
            content = attend(
                layer,
                content,
                references,
                memory=memory,
                query_positions=self.query_positions,
                positions=queries.positions,
                attention_mask=queries.attention_mask,
            )
            states.append(self.norm(content))
            if self.refine:
                boxes = refine_boxes(as_boxes(references), self.box_heads[stage](content))
                references = boxes.detach()
                starts.append(boxes if self.look_forward_twice else references)
            else:
                starts.append(starts[0])
            refined.append(starts[-1] if self.refine else references)
        return self.predict(torch.stack(states), torch.stack(starts[:-1]), torch.stack(refined))

    def predict(self, states: Tensor, starts: Tensor, refined: Tensor) -> StageOutputs:
        """Heads over all stages. states: [S, B, N, C]; starts: [S, B, N, 4], the boxes that each stage began from."""
        logits = self._read(self.class_heads, states).to(starts.dtype)
        boxes = refine_boxes(starts, self._read(self.box_heads, states))
        return StageOutputs(logits, boxes, states=states, references=refined)

    @staticmethod
    def _read(heads: nn.ModuleList, states: Tensor) -> Tensor:
        """Each stage through its own head, or all at once through a shared one: [S, B, N, C] -> [S, B, N, X]."""
        if len(heads) != len(states):
            return heads[0](states)
        return torch.stack([head(state) for head, state in zip(heads, states, strict=True)])
