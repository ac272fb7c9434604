"""The deformable decoder: stages that refine queries and their boxes, and the heads that read every stage."""

import torch
from torch import Tensor, nn

from detrkit.config import instantiate
from detrkit.layers.boxes import inverse_sigmoid
from detrkit.layers.mlp import MLP, xavier_uniform_matrices_
from detrkit.layers.position import box_sine_embedding
from detrkit.structures import Memory, Queries, StageOutputs


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


class DeformableDecoder(nn.Module):
    """S stages with iterative box refinement and look-forward-twice (Deformable-DETR, A.4; DINO, section 3.5).

    layer, class_head, box_head: config nodes, built once a stage (give this class's node `_recursive_=False`).
    query_positions: node or module from boxes [B, N, 4] to positions [B, N, C]; without it the queries bring their
    own. norm: node or module that the heads read through; the stages hand on the un-normed state.
    look_forward_twice: a stage's boxes also send gradient to the stage before.
    """

    def __init__(
        self,
        layer,
        *,
        num_layers: int,
        class_head,
        box_head,
        query_positions=None,
        norm=None,
        look_forward_twice: bool = True,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(instantiate(layer) for _ in range(num_layers))
        self.class_heads = nn.ModuleList(instantiate(class_head) for _ in range(num_layers))
        self.box_heads = nn.ModuleList(instantiate(box_head) for _ in range(num_layers))
        self.query_positions = instantiate(query_positions)
        self.norm = nn.Identity() if norm is None else instantiate(norm)
        self.look_forward_twice = look_forward_twice

    def forward(self, queries: Queries, memory: Memory) -> StageOutputs:
        """Queries [B, N, C] with references [B, N, 4] -> the predictions of S stages."""
        content, references = queries.content, queries.references
        starts, states, refined = [references], [], []
        for layer, box_head in zip(self.layers, self.box_heads, strict=True):
            content = self._attend(layer, content, references, queries, memory)
            box = (box_head(content).to(references.dtype) + inverse_sigmoid(references)).sigmoid()
            references = box.detach()
            starts.append(box if self.look_forward_twice else references)
            refined.append(starts[-1])
            states.append(self.norm(content))
        return self.predict(torch.stack(states), torch.stack(starts[:-1]), torch.stack(refined))

    def _attend(
        self, layer: nn.Module, content: Tensor, references: Tensor, queries: Queries, memory: Memory
    ) -> Tensor:
        """One stage: [B, N, C] -> [B, N, C]. References become coordinates of each padded level, [B, N, L, 4]."""
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
        logits = torch.stack([head(state) for head, state in zip(self.class_heads, states, strict=True)])
        offsets = torch.stack([head(state) for head, state in zip(self.box_heads, states, strict=True)])
        boxes = (offsets.to(dtype) + inverse_sigmoid(starts)).sigmoid()
        return StageOutputs(logits.to(dtype), boxes, states=states, references=refined)
