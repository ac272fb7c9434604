"""`with_dca`: a copy with the attention doubled, whose references hold wherever the config goes afterwards."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, instantiate
from csla import with_csla
from dca import DualCrossAttention, with_dca
from tests.random_scenes import MODELS, image_batch, tiny_dino_node

CONFIGS = MODELS.parent


def plain(node) -> dict:
    return OmegaConf.to_container(node, resolve=False)


def cross_attn(model: DictConfig) -> DictConfig:
    return model.decoder.layer.cross_attn


def as_config(model: DictConfig) -> DictConfig:
    return OmegaConf.create({"model": model}, flags={"allow_objects": True})


def test_the_node_that_went_in_stays_as_it_was():
    node = tiny_dino_node()
    before = plain(node)
    with_dca(node)
    assert plain(node) == before


def test_only_the_attention_changes_and_both_are_as_it_was():
    node = tiny_dino_node()
    ours, theirs = plain(with_dca(node)), plain(node)
    block, single = ours["decoder"]["layer"].pop("cross_attn"), theirs["decoder"]["layer"].pop("cross_attn")
    assert ours == theirs
    assert block["first"] == block["second"] == single
    assert (block["_target_"], block["chained"]) == (DualCrossAttention, True)


def test_csla_and_dca_commute():
    node = tiny_dino_node()
    one, other = with_dca(with_csla(node, look_back=2)), with_csla(with_dca(node), look_back=2)
    assert plain(one) == plain(other)
    with torch.device("meta"):
        assert list(instantiate(one).state_dict()) == list(instantiate(other).state_dict())


def test_values_reach_the_block():
    block = instantiate(with_dca(tiny_dino_node())).decoder.layers[0].cross_attn
    assert isinstance(block.norm, nn.LayerNorm)
    assert (block.norm.normalized_shape, block.chained) == ((32,), True)
    rms = L(nn.RMSNorm)(normalized_shape="${up:embed_dim}")
    block = instantiate(with_dca(tiny_dino_node(), norm=rms, chained=False)).decoder.layers[0].cross_attn
    assert (type(block.norm), block.norm.normalized_shape, block.chained) == (nn.RMSNorm, (32,), False)
    block = instantiate(with_dca(tiny_dino_node(), norm=None)).decoder.layers[0].cross_attn
    assert not list(block.norm.parameters())


def test_every_attention_of_every_stage_draws_its_own_weights():
    layers = instantiate(with_dca(tiny_dino_node())).decoder.layers
    drawn = [part.value_proj.weight for layer in layers for part in (layer.cross_attn.first, layer.cross_attn.second)]
    assert len(drawn) == 4
    assert len({weight.data_ptr() for weight in drawn}) == 4
    assert len({weight.sum().item() for weight in drawn}) == 4
    norms = [layer.cross_attn.norm.weight for layer in layers]
    assert norms[0] is not norms[1]


def test_first_and_second_are_nodes_of_their_own():
    model = with_dca(tiny_dino_node())
    cross_attn(model).second.num_points = 3
    block = instantiate(model).decoder.layers[0].cross_attn
    assert (block.first.num_points, block.second.num_points) == (2, 3)


def assert_follows_the_model(config: DictConfig) -> None:
    """Widths and levels given after `with_dca`, on the command line say, reach both attentions."""
    LazyConfig.apply_overrides(
        config, ["model.embed_dim=64", "model.neck.num_levels=5", "model.encoder.position.num_features=32"]
    )
    with torch.device("meta"):
        block = instantiate(config.model).decoder.layers[0].cross_attn
    for attention in (block.first, block.second):
        assert attention.value_proj.weight.shape == (64, 64)
        assert attention.num_levels == 5
    assert block.norm.normalized_shape == (64,)


def test_later_overrides_reach_both():
    assert_follows_the_model(as_config(with_dca(tiny_dino_node())))


def test_it_survives_saving_and_loading(tmp_path: Path):
    LazyConfig.save(as_config(with_dca(tiny_dino_node())), str(tmp_path / "config.yaml"))
    assert not list(tmp_path.glob("*.pkl"))
    loaded = LazyConfig.load(str(tmp_path / "config.yaml"))
    with pytest.raises(ValueError, match="doubled already"):
        with_dca(loaded.model)
    assert_follows_the_model(loaded)


def test_a_config_that_came_from_disk_is_doubled(tmp_path: Path):
    LazyConfig.save(as_config(tiny_dino_node()), str(tmp_path / "config.yaml"))
    assert_follows_the_model(as_config(with_dca(LazyConfig.load(str(tmp_path / "config.yaml")).model)))


def test_a_config_imported_as_a_module():
    from crossstage.projects.dino.configs.models.dino_r50 import model

    assert cross_attn(with_dca(model)).second.embed_dim == 256
    assert "DualCrossAttention" not in str(cross_attn(model))


def model_with(attention: object) -> DictConfig:
    """A model node around an attention node that refers to values at each distance."""
    layer = {"embed_dim": 8, "cross_attn": attention, "heads": {"few": 2}}
    model = {"width": 3, "decoder": {"depth": 4, "layer": layer}, "shared": {"_target_": "dict", "it": "${up:width}"}}
    return OmegaConf.create({"model": model, "root": 5}).model


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${.own}", 1),
        ("${up:embed_dim}", 8),
        ("${up:heads.few}", 2),
        ("${up:depth}", 4),
        ("${up:width}", 3),
        ("${root}", 5),
        ("${model.width}", 3),
        ("a ${up:embed_dim} b ${.own}", "a 8 b 1"),
        ("${up:heads.${.name}}", 2),
        ("..embed_dim", "..embed_dim"),
        ("???", "???"),
        (None, None),
    ],
)
@pytest.mark.parametrize("inside", [lambda probe: probe, lambda probe: [probe], lambda probe: [{"deep": [probe]}]])
def test_every_interpolation_finds_the_same_value_one_level_deeper(written, value, inside):
    if "${." in str(written) and inside(0) != 0:
        pytest.skip("a sibling, which is another one in a list")
    model = model_with({"_target_": "dict", "own": 1, "name": "few", "probe": inside(written)})
    before = OmegaConf.to_container(model.decoder.layer, resolve=True)["cross_attn"]
    assert before["probe"] == inside(value)
    block = OmegaConf.to_container(with_dca(model).decoder.layer, resolve=True)["cross_attn"]
    assert block["first"] == block["second"] == before


@pytest.mark.parametrize("written", ["${up:shared}", "${model.shared}"])
def test_a_node_that_is_itself_an_interpolation(written):
    model = model_with(written)
    before = OmegaConf.to_container(cross_attn(model), resolve=True)
    block = cross_attn(with_dca(model))
    assert plain(block)["first"] == written
    for part in (block.first, block.second):
        assert OmegaConf.to_container(part, resolve=True) == before


@pytest.mark.parametrize("written", ["${..embed_dim}", "x ${ ..heads.few }", "${oc.select:...width}"])
def test_an_interpolation_that_counts_levels_is_refused(written):
    for probe, path in ((written, "probe"), ([1, {"deep": written}], r"probe\.1\.deep")):
        with pytest.raises(ValueError, match=rf"^decoder\.layer\.cross_attn\.{path}=.*write \$\{{up:key\}}"):
            with_dca(model_with({"_target_": "dict", "probe": probe}))
    with pytest.raises(ValueError, match=r"cross_attn=\$\{\.\.\.shared\}: with_dca moves"):
        with_dca(model_with("${...shared}"))


@pytest.mark.parametrize("gone", ["decoder.layer.cross_attn", "decoder.layer", "decoder"])
def test_a_model_without_the_attention_is_refused(gone):
    node = tiny_dino_node()
    OmegaConf.update(node, gone, None, force_add=True)
    with pytest.raises(ValueError, match=r"needs a model node that has a `decoder\.layer\.cross_attn`"):
        with_dca(node)
    parent, _, name = gone.rpartition(".")
    del (OmegaConf.select(node, parent) if parent else node)[name]
    with pytest.raises(ValueError, match=r"needs a model node that has a `decoder\.layer\.cross_attn`"):
        with_dca(node)


def test_doubling_twice_is_refused():
    with pytest.raises(ValueError, match=r"decoder\.layer\.cross_attn is doubled already"):
        with_dca(with_csla(with_dca(tiny_dino_node())))


@pytest.mark.parametrize("norm", [nn.LayerNorm(32), nn.LayerNorm, "torch.nn.LayerNorm", {"normalized_shape": 32}])
def test_a_norm_that_stages_would_share_is_refused(norm):
    with pytest.raises(TypeError, match="expected a node that each layer builds"):
        with_dca(tiny_dino_node(), norm=norm)


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="chaind"):
        with_dca(tiny_dino_node(), chaind=False)


def test_a_layer_without_a_width_takes_the_models():
    node = tiny_dino_node()
    with_dca(node)
    del node.decoder.layer.embed_dim
    assert cross_attn(with_dca(node)).norm.normalized_shape == node.embed_dim


@pytest.mark.parametrize("chained", [True, False])
def test_a_detector_trains_and_predicts_with_it(chained):
    model = instantiate(with_dca(with_csla(tiny_dino_node()), chained=chained))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    losses = model(image_batch(3, 0)).terms
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses[name] for name in losses if name.startswith("loss_")).backward()
    for layer in model.decoder.layers:
        parameters = dict(layer.cross_attn.named_parameters())
        assert [name for name, value in parameters.items() if not value.grad.abs().sum() > 0] == []
    with torch.no_grad():
        found = model.eval()(image_batch(2, 1))
    assert [len(detections.scores) for detections in found] == [12, 12]
    assert all(detections.boxes_xyxy.isfinite().all() for detections in found)


def test_without_norm_a_silent_second_attention_leaves_the_detector_as_it_was():
    plain_model = instantiate(tiny_dino_node()).eval()
    model = instantiate(with_dca(tiny_dino_node(), norm=None)).eval()
    state = {name: value for name, value in model.state_dict().items() if ".cross_attn.second." in name}
    for name, value in plain_model.state_dict().items():
        moved = name.replace(".cross_attn.", ".cross_attn.first.") if name.startswith("decoder.") else name
        state[moved] = value
    model.load_state_dict(state)
    for layer in model.decoder.layers:
        nn.init.zeros_(layer.cross_attn.second.output_proj.weight)
    batch = image_batch(1, 2)
    with torch.no_grad():
        for one, other in zip(plain_model(batch), model(batch), strict=True):
            assert torch.equal(one.boxes_xyxy, other.boxes_xyxy)
            assert torch.equal(one.scores, other.scores)


@pytest.mark.parametrize("base", ["dino_r50_4scale_12ep", "dino_r50_4scale_24ep", "dino_toy"])
def test_dca_is_the_only_difference_of_its_config(base):
    theirs, ours = (LazyConfig.load(str(CONFIGS / f"{base}_csla{suffix}.py")) for suffix in ("", "_dca"))
    assert plain(ours.model) == plain(with_dca(theirs.model))
    theirs.train.output_dir = f"./output/{base}_csla_dca"
    assert {**plain(ours), "model": None} == {**plain(theirs), "model": None}
