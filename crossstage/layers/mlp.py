"""Stacks of linear layers: class head, box head, the transformer's feed-forward network, and their initialisation."""

import math
from itertools import pairwise

from torch import Tensor, nn


def xavier_uniform_matrices_(module: nn.Module) -> None:
    """Initialise all parameters of two or more dimensions, nested ones too, xavier-uniform (as in DETR)."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


class MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them: [..., input_dim] -> [..., output_dim]."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(width, following) for width, following in pairwise(widths))

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            features = layer(features).relu()
        return self.layers[-1](features)


class BoxHead(MLP):
    """Three-layer MLP that predicts box offsets (logits): [..., embed_dim] -> [..., 4].

    It is initialised to predict (0, 0, initial_size, initial_size); with 0, no box moves at first.

    Args:
        embed_dim: number of input and hidden channels.
        initial_size: initial logits of width and height (one-stage Deformable-DETR: -2).
    """

    def __init__(self, embed_dim: int, *, initial_size: float = 0.0) -> None:
        super().__init__(embed_dim, embed_dim, 4, 3)
        weight, bias = self.layers[-1].parameters()
        nn.init.zeros_(weight)
        nn.init.zeros_(bias)
        nn.init.constant_(bias[2:], initial_size)


class ClassHead(nn.Linear):
    """Linear classifier [..., embed_dim] -> [..., num_classes] whose initial scores are about `prior` (RetinaNet)."""

    def __init__(self, embed_dim: int, num_classes: int, *, prior: float = 0.01) -> None:
        super().__init__(embed_dim, num_classes)
        nn.init.constant_(self.bias, -math.log((1 - prior) / prior))


class FFN(nn.Module):
    """Feed-forward block of a transformer layer, x + W_n drop(act(... W_1 x)): [..., embed_dim] -> [..., embed_dim].

    Args:
        embed_dim: number of input and output channels.
        feedforward_dim: number of hidden channels.
        num_layers: number of linear layers.
        dropout: probability with which a channel is set to 0 in training.
        activation: the module that all hidden layers share (DAB-DETR: one PReLU); None means ReLU.
    """

    def __init__(
        self,
        embed_dim: int,
        feedforward_dim: int,
        *,
        num_layers: int = 2,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        widths = [embed_dim] + [feedforward_dim] * (num_layers - 1) + [embed_dim]
        self.layers = nn.ModuleList(nn.Linear(width, following) for width, following in pairwise(widths))
        self.activation = nn.ReLU() if activation is None else activation
        self.dropout = nn.Dropout(dropout)
        xavier_uniform_matrices_(self.layers)

    def forward(self, features: Tensor, *, identity: Tensor | None = None) -> Tensor:
        """Return `features` after the block. The residual is `identity` if given (pre-norm), otherwise `features`."""
        hidden = features
        for layer in self.layers[:-1]:
            hidden = self.dropout(self.activation(layer(hidden)))
        return (features if identity is None else identity) + self.dropout(self.layers[-1](hidden))
