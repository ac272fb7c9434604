"""The cost of a model: parameters and multiply-adds of each part.

fvcore counts them in a traced forward pass. One multiply-add counts as one, as in the "FLOPs" of the papers.
Element-wise operations, softmax and top-k are not counted, neither here nor in the papers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from crossstage.evaluation.loop import evaluation_mode
from crossstage.structures import ImageBatch


@dataclass(frozen=True)
class Cost:
    """The cost of a part of a model.

    Attributes:
        name: name of the part; "total" is the whole model.
        parameters: number of parameters.
        trainable: number of parameters that are trained.
        multiply_adds: number of multiply-adds for the batch.
    """

    name: str
    parameters: int
    trainable: int
    multiply_adds: int


def model_cost(model: nn.Module, batch: ImageBatch) -> list[Cost]:
    """The cost of each direct child of a model that has any, and of the whole model, which comes last.

    A parameter that several parts share counts in each of them, and once in the total.

    Args:
        model: traced in evaluation mode; its mode is restored afterwards.
        batch: images on the device of the model.

    Returns:
        The costs.
    """
    with evaluation_mode(model), torch.no_grad():
        analysis = FlopCountAnalysis(_Traceable(model, batch), (batch.pixels, batch.mask))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.set_op_handle(**HANDLES)
        counts = analysis.by_module()
    costs = [_cost(name, part, counts[f"model.{name}"]) for name, part in model.named_children()]
    costs = [cost for cost in costs if cost.parameters or cost.multiply_adds]
    return [*costs, _cost("total", model, counts[""])]


def cost_table(costs: Iterable[Cost]) -> str:
    """Plain text with one line per part: parameters in millions, multiply-adds in thousands of millions."""
    rows: list[tuple[str, ...]] = [("part", "parameters", "trainable", "GFLOPs")]
    for cost in costs:
        millions = (f"{count / 1e6:.3f} M" for count in (cost.parameters, cost.trainable))
        rows.append((cost.name, *millions, f"{cost.multiply_adds / 1e9:.3f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, *numbers in rows:
        cells = [f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([f"{name:<{widths[0]}}", *cells]))
    return "\n".join(lines)


class _Traceable(nn.Module):
    """The model in the form that the tracer needs: tensors in, one tensor out."""

    def __init__(self, model: nn.Module, batch: ImageBatch) -> None:
        super().__init__()
        self.model = model
        self._sizes = (batch.sizes, batch.original_sizes, batch.image_ids)

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        sizes, original_sizes, image_ids = self._sizes
        detections = self.model(ImageBatch(pixels, mask, sizes, original_sizes, image_ids))
        return torch.cat([torch.cat([found.boxes_xyxy, found.scores[:, None]], dim=1) for found in detections])


def _cost(name: str, part: nn.Module, multiply_adds: float) -> Cost:
    parameters = list(part.parameters())  # shared ones once
    return Cost(
        name=name,
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        multiply_adds=int(multiply_adds),
    )


def _shape(value: Any) -> list[int]:
    return value.type().sizes()


def _embedding_bag(inputs: Sequence[Any], _outputs: Sequence[Any]) -> int:
    """Deformable attention: each sampled row of C channels is weighted and summed."""
    table, rows = inputs[:2]
    return math.prod(_shape(rows)) * _shape(table)[-1]


def _dot_product_attention(inputs: Sequence[Any], _outputs: Sequence[Any]) -> int:
    """Queries [..., N, C] with keys [..., M, C], then with values [..., M, V]."""
    query, key, value = (_shape(tensor) for tensor in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _batched_sum_of_products(inputs: Sequence[Any], _outputs: Sequence[Any]) -> int:
    """baddbmm(bias, [B, N, C], [B, C, M])."""
    _, left, right = (_shape(tensor) for tensor in inputs[:3])
    return math.prod(left) * right[-1]


# Operators that fvcore cannot count.
HANDLES = {
    "aten::embedding_bag": _embedding_bag,
    "aten::scaled_dot_product_attention": _dot_product_attention,
    "aten::baddbmm": _batched_sum_of_products,
}
