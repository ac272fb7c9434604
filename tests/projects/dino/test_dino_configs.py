"""DINO's configs: detrex's recipe to the last number, and CSLA as their only difference."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, instantiate
from crossstage.modeling.supervision.labels import OwnStageLabels
from csla import CrossStageLabels

CONFIGS = Path(__file__).resolve().parents[3] / "projects/dino/configs"
BASES = sorted(path.stem.removesuffix("_csla") for path in CONFIGS.glob("*_csla.py"))


def load(name: str) -> DictConfig:
    return LazyConfig.load(str(CONFIGS / f"{name}.py"))


def plain(node) -> dict:
    return OmegaConf.to_container(node, resolve=False)


@pytest.mark.parametrize("base", BASES)
def test_csla_is_the_only_difference_of_its_config(base):
    ours, theirs = plain(load(f"{base}_csla")), plain(load(base))
    assert ours["model"]["criterion"].pop("labels") == plain(L(CrossStageLabels)())
    assert theirs["model"]["criterion"].pop("labels") == {"_target_": OwnStageLabels}
    assert theirs["model"]["criterion"].pop("box_matches") is None
    folders = [config["train"].pop("output_dir") for config in (ours, theirs)]
    assert folders == [f"./output/{base}_csla", f"./output/{base}"]
    assert ours == theirs


def test_the_model_is_detrexs():
    model = load("dino_r50_4scale_12ep").model
    sizes = (model.num_classes, model.embed_dim, model.queries.num_queries, model.postprocess.num_select)
    assert sizes == (80, 256, 900, 300)
    assert (model.encoder.num_layers, model.decoder.num_layers, model.neck.num_levels) == (6, 6, 4)
    assert (model.backbone.frozen_norm, model.backbone.frozen_stages) == (True, 1)
    denoising = model.queries.denoising
    assert (denoising.num_queries, denoising.label_noise, denoising.box_noise) == (100, 0.5, 1.0)
    assert model.criterion.weights == {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    matcher = model.criterion.matcher
    assert (matcher.cost_class, matcher.cost_bbox, matcher.cost_giou) == (2.0, 5.0, 2.0)


@pytest.mark.parametrize(
    ("name", "max_iter", "drop", "temperature", "offset", "keep_empty"),
    [
        ("dino_r50_4scale_12ep", 90000, 82500, 10000, -0.5, False),
        ("dino_r50_4scale_24ep", 180000, 150000, 20, 0.0, True),
        ("dino_r50_4scale_36ep", 270000, 225000, 10000, -0.5, False),
        ("dino_r50_5scale_12ep", 90000, 82500, 10000, -0.5, False),
        ("dino_swin_base_384_4scale_12ep", 90000, 82500, 10000, -0.5, False),
    ],
)
def test_the_recipe_is_detrexs(name, max_iter, drop, temperature, offset, keep_empty):
    config = load(name)
    assert config.train.max_iter == max_iter
    schedule = instantiate(config.lr_multiplier)
    assert schedule((drop - 1) / max_iter) == 1.0
    assert schedule((drop + 1) / max_iter) == 0.1
    position = config.model.encoder.position
    assert (position.temperature, position.offset) == (temperature, offset)
    assert config.dataloader.train.dataset.keep_empty == keep_empty
    assert config.dataloader.train.total_batch_size == 16
    assert config.train.clip_grad.params == {"max_norm": 0.1, "norm_type": 2}


def built(config: DictConfig) -> torch.nn.Module:
    config.model.backbone.pretrained = False
    with torch.device("meta"):
        return instantiate(config.model)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dino_r50_4scale_12ep", 47_650_316),
        ("dino_r50_5scale_12ep", 48_012_940),
        ("dino_swin_tiny_224_4scale_12ep", 48_193_350),
    ],
)
def test_the_model_has_as_many_parameters_as_detrexs(name, count):
    assert sum(parameter.numel() for parameter in built(load(name)).parameters()) == count


def test_a_swins_norms_and_position_biases_do_not_decay():
    config = load("dino_swin_base_384_4scale_12ep")
    config.optimizer.params.model = model = built(config)
    groups = instantiate(config.optimizer).param_groups
    decaying = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.backbone.named_parameters():
        constant = "norm" in name or "relative_position" in name
        assert (id(parameter) in decaying) != constant, name
        assert rates[id(parameter)] == pytest.approx(1e-5)  # nothing is frozen


def test_the_optimizer_has_detrexs_groups():
    """52 tensors of the backbone at a tenth of the rate, 72 of norm layers without decay (detrex, checked there)."""
    config = load("dino_r50_4scale_12ep")
    config.optimizer.params.model = built(config)
    tensors: dict[tuple[float, float], int] = {}
    for group in instantiate(config.optimizer).param_groups:
        key = (round(group["lr"], 9), group["weight_decay"])
        tensors[key] = tensors.get(key, 0) + len(group["params"])
    assert tensors == {(1e-5, 1e-4): 52, (1e-4, 1e-4): 241, (1e-4, 0.0): 72}
