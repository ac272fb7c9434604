import torch
from torch import nn
from torch.nn import functional as F

from crossstage.evaluation.cost import cost_table, model_cost
from crossstage.layers.deformable import MultiScaleDeformableAttention
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.structures import Detections, ImageBatch, Levels


def batch(height=16, width=24):
    return ImageBatch(
        pixels=torch.zeros(2, 3, height, width, dtype=torch.uint8),
        mask=torch.zeros(2, height, width, dtype=torch.bool),
        sizes=((height, width),) * 2,
        original_sizes=((height, width),) * 2,
        image_ids=(1, 2),
    )


class Small(nn.Module):
    """Parts whose cost is known by hand, one parameter that two parts share, and a part that costs nothing."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, kernel_size=4, stride=4, bias=False).requires_grad_(False)
        self.attention = MultiScaleDeformableAttention(8, num_heads=2, num_levels=1, num_points=3)
        self.head = nn.Linear(8, 4)
        self.tied = nn.Linear(8, 4)
        self.tied.weight = self.head.weight
        self.nothing = nn.Identity()

    def forward(self, images):
        features = self.backbone(images.pixels.float())
        height, width = features.shape[-2:]
        memory = unpadded_memory(features.flatten(2).mT, Levels.of([(height, width)], features))
        query = memory.tokens[:, :5]
        query = self.attention(query, memory=memory, references=query.new_full((2, 5, 1, 2), 0.5))
        query = F.scaled_dot_product_attention(query, memory.tokens, memory.tokens)
        boxes = self.tied(self.nothing(query)) + self.head(query)
        return [Detections(b, b[:, 0], b[:, 0].long()) for b in boxes]


def test_parameters_and_multiply_adds_of_each_part_by_hand():
    model = Small().train()
    costs = {cost.name: cost for cost in model_cost(model, batch())}
    assert list(costs) == ["backbone", "attention", "head", "tied", "total"]
    tokens, queries = 2 * 4 * 6, 2 * 5
    backbone = tokens * 3 * 4 * 4 * 8
    sampled = queries * 2 * 3 * 4 * 4  # heads, points, corners, channels of a head
    attention = tokens * 8 * 8 + queries * 8 * (12 + 6 + 8) + sampled
    dense = queries * (tokens // 2) * (8 + 8)
    assert costs["backbone"].multiply_adds == backbone and costs["attention"].multiply_adds == attention
    assert costs["head"].multiply_adds == costs["tied"].multiply_adds == queries * 8 * 4
    assert costs["total"].multiply_adds == backbone + attention + dense + 2 * queries * 8 * 4
    assert costs["head"].parameters == costs["tied"].parameters == 36
    assert costs["total"].parameters == costs["backbone"].parameters + costs["attention"].parameters + 36 + 4
    assert (costs["backbone"].trainable, costs["backbone"].parameters) == (0, 384)
    assert costs["total"].trainable == costs["total"].parameters - 384


def test_the_model_is_left_as_it_was():
    model = Small().train()
    model.head.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model_cost(model, batch())
    assert model.training and not model.head.training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_table_has_a_line_for_each_part(capfd):
    costs = model_cost(Small(), batch())
    lines = cost_table(costs).splitlines()
    assert lines[0].split() == ["part", "parameters", "trainable", "GFLOPs"]
    assert [line.split()[0] for line in lines[1:]] == [cost.name for cost in costs]
    assert len({len(line) for line in lines}) == 1, "columns are not aligned"
    assert f"{costs[-1].parameters / 1e6:.3f} M" in lines[-1]
    assert capfd.readouterr().err == ""
