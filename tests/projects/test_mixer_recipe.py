"""The training recipe that AdaMixer and StageInteractor share: learning rates, decays, images."""

import pytest
import torch
from omegaconf import DictConfig

from crossstage.config import get_config, instantiate
from crossstage.data.batch import Sample, bounding_boxes


@pytest.fixture
def recipe() -> DictConfig:
    return get_config("common/recipes/mixer.py")


@pytest.mark.parametrize(
    ("name", "epochs", "steps", "warmup"),
    [
        ("lr_multiplier_12ep", 12, (8, 11), 500),
        ("lr_multiplier_24ep", 24, (16, 22), 500),
        ("lr_multiplier_36ep", 36, (24, 33), 500),
        ("lr_multiplier_36ep_swin", 36, (24, 33), 1000),
    ],
)
def test_the_learning_rate_warms_up_and_steps_down_twice(recipe, name: str, epochs: int, steps: tuple, warmup: int):
    multiplier = instantiate(recipe[name])
    last, first_step, second_step = (7500 * epoch for epoch in (epochs, *steps))
    expected = {0: 0.001, warmup // 2: 0.5005, warmup: 1.0, first_step - 1: 1.0, first_step: 0.1}
    expected |= {second_step - 1: 0.1, second_step: 0.01, last - 1: 0.01}
    assert {at: multiplier(at / last) for at in expected} == pytest.approx(expected, rel=1e-9)


def test_every_parameter_has_the_same_learning_rate_and_decay_but_for_those_of_a_swin(recipe):
    model = torch.nn.ModuleDict({"backbone": torch.nn.BatchNorm2d(4), "head": torch.nn.Linear(4, 4)})
    model["relative_position_bias_table"] = torch.nn.Linear(2, 2)
    recipe.optimizer.params.model = model
    groups = instantiate(recipe.optimizer).param_groups
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [(2.5e-5, 1e-4, 6)]
    recipe.optimizer.params.update(recipe.swin_decay)
    decays = {group["weight_decay"]: len(group["params"]) for group in instantiate(recipe.optimizer).param_groups}
    assert decays == {0.0: 4, 1e-4: 2}


def test_flipping_only_keeps_the_whole_image_at_800_pixels(recipe):
    sample = Sample(
        pixels=torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8),
        boxes=bounding_boxes(torch.tensor([[40.0, 30.0, 80.0, 90.0]]), (300, 400)),
        labels=torch.tensor([1]),
        image_id=7,
        original_size=(300, 400),
    )
    transform = instantiate(recipe.flip_only)
    found = [transform(sample) for _ in range(30)]
    assert {one.size for one in found} == {(800, 1067)}
    left = sorted({round(float(one.boxes[0, 0])) for one in found})
    assert left == [107, 854]  # 40, or 400 - 80, pixels of 400, on 1067


def test_images_are_padded_to_32_in_training_and_evaluation(recipe):
    assert (recipe.dataloader.train.size_divisor, recipe.dataloader.test.size_divisor) == (32, 32)
    assert recipe.dataloader.train.total_batch_size == 16


@pytest.mark.parametrize("backbone", ["resnet", "resnext_dcn", "swin"])
def test_a_backbone_of_the_recipe_builds(recipe, backbone: str):
    node = get_config("common/models/adamixer.py").model.backbone
    node.update({**recipe.get(backbone, {}), "pretrained": False})
    with torch.device("meta"):
        built = instantiate(node)
    trained = {name for name, parameter in built.body.named_parameters() if parameter.requires_grad}
    if backbone == "swin":
        assert len(trained) == len(list(built.body.parameters()))
        return
    assert not [name for name in trained if name.startswith(("conv1", "bn1", "layer1"))]
    assert "layer2.0.bn1.weight" in trained
    assert ("layer2.0.conv2.conv_offset.weight" in trained) == (backbone == "resnext_dcn")
