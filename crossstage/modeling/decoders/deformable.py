"""The deformable decoder: stages that refine queries and their boxes, and the heads that read every stage."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossstage.config.stages import stage_factories
from crossstage.layers.boxes import inverse_sigmoid
from crossstage.layers.mlp import MLP, xavier_uniform_matrices_
from crossstage.layers.position import box_sine_embedding
from crossstage.structures import Memory, Queries, StageOutputs


class BoxQueryPositions(nn.Module):
    """Query positions from the queries' boxes, made anew at each stage (DAB-DETR, eq. 5): MLP of a sine embedding.

    [B, N, 4] boxes -> [B, N, C].
    """

    def __init__(self, embed_dim: int = 256) -> None:
        super().__init__()
        self.num_features = embed_dim // 2
        self.mlp = MLP(4 * self.num_features, embed_dim, embed_dim, 2)
        xavier_uniform_matrices_(self)

    def forward(self, references: Tensor) -> Tensor:
        return self.mlp(box_sine_embedding(references, self.num_features))


def as_boxes(references: Tensor) -> Tensor:
    """Points [B, N, 2] become boxes [B, N, 4] whose size is still open: its logits are 0. Boxes stay as they are."""
    return references if references.shape[-1] == 4 else F.pad(references, (0, 2), value=0.5)


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
        layer,
        *,
        class_head,
        box_head,
        num_layers: int,
        query_positions=None,
        norm=None,
        look_forward_twice: bool = True,
        first_box_head=None,
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
            content = self._attend(layer, content, references, queries, memory)
            states.append(self.norm(content))
            if self.refine:
                offsets = self.box_heads[stage](content).to(references.dtype)
                box = (offsets + inverse_sigmoid(as_boxes(references))).sigmoid()
                references = box.detach()
                starts.append(box if self.look_forward_twice else references)
            else:
                starts.append(starts[0])
            refined.append(starts[-1] if self.refine else references)
        return self.predict(torch.stack(states), torch.stack(starts[:-1]), torch.stack(refined))

    def _attend(
        self, layer: nn.Module, content: Tensor, references: Tensor, queries: Queries, memory: Memory
    ) -> Tensor:
        """One stage: [B, N, C] -> [B, N, C]. References turn into coordinates of each padded level."""
        scale = torch.cat([memory.valid_ratios] * (references.shape[-1] // 2), dim=-1)
        per_level = references[:, :, None] * scale[:, None]
        position = queries.positions if self.query_positions is None else self.query_positions(per_level[:, :, 0])
        return layer(
            content,
            self_attn={"position": position, "attention_mask": queries.attention_mask},
            cross_attn={"position": position, "memory": memory, "references": per_level},
        )

    def predict(self, states: Tensor, starts: Tensor, refined: Tensor) -> StageOutputs:
        """Heads over all stages. states: [S, B, N, C]; starts: [S, B, N, 4], the boxes that each stage began from."""
        dtype = starts.dtype
        logits = self._read(self.class_heads, states)
        offsets = self._read(self.box_heads, states)
        boxes = (offsets.to(dtype) + inverse_sigmoid(starts)).sigmoid()
        return StageOutputs(logits.to(dtype), boxes, states=states, references=refined)

    @staticmethod
    def _read(heads: nn.ModuleList, states: Tensor) -> Tensor:
        """Each stage through its own head, or all at once through a shared one: [S, B, N, C] -> [S, B, N, X]."""
        if len(heads) != len(states):
            return heads[0](states)
        return torch.stack([head(state) for head, state in zip(heads, states, strict=True)])
