"""The conditional decoder: anchor boxes as queries, dense attention steered by their place and size (DAB-DETR)."""

import torch
from torch import Tensor, nn

from crossstage.config.stages import StageNode, stage_factories
from crossstage.layers.boxes import refine_boxes
from crossstage.layers.mlp import MLP, xavier_uniform_matrices_
from crossstage.layers.position import box_sine_embedding
from crossstage.modeling.decoders.deformable import BoxQueryPositions
from crossstage.modeling.layer_seams import AttentionLayer, Head
from crossstage.structures import Memory, Queries, StageOutputs


class ModulatedSinePositions(nn.Module):
    """Sine embedding of the boxes' centres, stretched by their sizes (DAB-DETR, section 4.4, eq. 6).

    [B, N, C] content, [B, N, 4] boxes -> [B, N, C]: C / 2 features of y, then C / 2 of x. After the first stage the
    content also scales every feature.
    """

    def __init__(self, embed_dim: int = 256) -> None:
        super().__init__()
        self.num_features = embed_dim // 2
        self.scale = MLP(embed_dim, embed_dim, embed_dim, 2)
        self.size = MLP(embed_dim, embed_dim, 2, 2)
        xavier_uniform_matrices_(self)

    def forward(self, content: Tensor, references: Tensor, *, first_stage: bool) -> Tensor:
        sine = box_sine_embedding(references[..., :2], self.num_features)
        if not first_stage:
            sine = sine * self.scale(content)
        stretch = self.size(content).to(references.dtype).sigmoid() / references[..., 2:]  # (width, height)
        return (sine.unflatten(-1, (2, -1)) * stretch.flip(-1)[..., None]).flatten(-2)


class ConditionalDecoder(nn.Module):
    """S stages over dense memory; each refines the boxes from which the next makes its query positions (DAB-DETR).

    layer: config node, built once per stage; parts of it that take a `stage` receive the stage's index.
    class_head, box_head: one module each, shared by the stages; the heads read normed states, the stages hand on
    un-normed ones.  attends_to_padding: cross-attention sees the tokens of padding, as in detrex, whose weights were
    trained so; a prediction then depends on the padding of its image.
    """

    per_stage = ("layer",)

    def __init__(
        self,
        layer: StageNode,
        *,
        num_layers: int,
        class_head: Head,
        box_head: Head,
        embed_dim: int = 256,
        attends_to_padding: bool = False,
    ) -> None:
        super().__init__()
        (layer,) = stage_factories(self, layer=layer)
        self.layers = nn.ModuleList(layer(stage) for stage in range(num_layers))
        xavier_uniform_matrices_(self)
        self.query_positions = BoxQueryPositions(embed_dim)
        self.sine_positions = ModulatedSinePositions(embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.class_head, self.box_head = class_head, box_head
        self.attends_to_padding = attends_to_padding

    def forward(self, queries: Queries, memory: Memory) -> StageOutputs:
        """Queries [B, N, C] with references [B, N, 4] -> the predictions of S stages.

        Boxes look forward twice: each stage's prediction also sends gradient to the stage before, and the first
        stage's to learned references.
        """
        content, references = queries.content, queries.references
        boxes, states = [references], []
        for stage, layer in enumerate(self.layers):
            content = self._attend(layer, content, references, queries, memory, first_stage=stage == 0)
            boxes.append(refine_boxes(references, self.box_head(content)))
            references = boxes[-1].detach()
            states.append(self.norm(content))
        stacked = torch.stack(states)
        predicted = refine_boxes(torch.stack(boxes[:-1]), self.box_head(stacked))
        logits = self.class_head(stacked).to(predicted.dtype)
        return StageOutputs(logits, predicted, states=stacked, references=torch.stack(boxes[1:]))

    def _attend(
        self,
        layer: AttentionLayer,
        content: Tensor,
        references: Tensor,
        queries: Queries,
        memory: Memory,
        *,
        first_stage: bool,
    ) -> Tensor:
        """One stage: [B, N, C] -> [B, N, C]."""
        position = self.query_positions(references)
        return layer(
            content,
            self_attn={"position": position, "attention_mask": queries.attention_mask},
            cross_attn={
                "key": memory.tokens,
                "key_position": memory.positions,
                "position": position,
                "sine_position": self.sine_positions(content, references, first_stage=first_stage),
                "padding_mask": None if self.attends_to_padding else memory.mask,
            },
        )
