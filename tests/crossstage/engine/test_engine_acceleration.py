"""What a GPU is given that a CPU is not, and layers that are compiled in place."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from crossstage.config import LazyConfig, find_config, get_config, instantiate
from crossstage.engine import acceleration
from crossstage.engine.acceleration import Acceleration, choose
from crossstage.errors import InputError
from tests.random_scenes import image_batch
from tests.tiny_models import tiny


def config(*, divisor: int | None = 1, **train: object) -> OmegaConf:
    loader = {} if divisor is None else {"size_divisor": divisor}
    return OmegaConf.create(
        {"train": {**get_config("common/train.py").train, **train}, "dataloader": {"train": loader}}
    )


COMPILED = {"enabled": True, "backend": "inductor"}
TABLE = [  # device, config, choices
    ("cpu", config(), Acceleration()),
    ("cpu", config(divisor=1024, cudnn_benchmark=True, float32_matmul_precision="medium"), Acceleration()),
    ("cpu", config(channels_last=True, compile=COMPILED), Acceleration(channels_last=True, compiled="inductor")),
    ("cuda", config(), Acceleration("high", channels_last=True)),
    ("cuda", config(divisor=None), Acceleration("high", channels_last=True)),  # a loader of the user's own
    ("cuda", config(divisor=128), Acceleration("high", channels_last=True)),
    ("cuda", config(divisor=256), Acceleration("high", channels_last=True, cudnn_benchmark=True)),
    ("cuda", config(divisor=256, cudnn_benchmark=False), Acceleration("high", channels_last=True)),
    ("cuda", config(cudnn_benchmark=True), Acceleration("high", channels_last=True, cudnn_benchmark=True)),
    ("cuda", config(cudnn_benchmark=True, deterministic=True), Acceleration("high", channels_last=True)),
    ("cuda", config(channels_last=False, float32_matmul_precision="highest"), Acceleration("highest")),
    ("cuda", config(strategy="fsdp"), Acceleration("high")),
]


@pytest.mark.parametrize(("device", "cfg", "expected"), TABLE)
def test_the_choices(device, cfg, expected):
    assert choose(cfg, device) == expected


def test_the_line_of_the_log_names_every_choice_and_its_key():
    assert Acceleration().line() == ""
    assert Acceleration(channels_last=True).line() == "backbone channels last"
    line = choose(config(compile=COMPILED), "cuda").line()
    assert line == (
        "float32 products TF32 (train.float32_matmul_precision=high), backbone channels last (train.channels_last), "
        "cuDNN chooses without measurement (train.cudnn_benchmark), layers compiled by inductor (train.compile)"
    )


@pytest.mark.parametrize("option", [{"channels_last": True}, {"compile": COMPILED}])
def test_what_shards_do_not_go_with_is_refused(option):
    with pytest.raises(InputError, match=rf"train\.{next(iter(option))}.*=True with train\.strategy=fsdp"):
        choose(config(strategy="fsdp", **option), "cuda")


def test_the_switches_of_torch_are_set_for_a_gpu_alone(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    acceleration.apply(Acceleration())
    assert chosen == []
    acceleration.apply(Acceleration("highest", cudnn_benchmark=True))
    assert chosen == ["highest"] and not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.benchmark


def test_a_gpu_gets_fused_steps_unless_the_config_says_otherwise():
    train, optimizer = get_config("common/train.py").train, get_config("common/optim.py").AdamW
    assert acceleration.with_fused_steps(optimizer.copy(), train, "cpu").fused is None
    assert acceleration.with_fused_steps(optimizer.copy(), train, "cuda").fused is True
    optimizer.fused = False
    assert acceleration.with_fused_steps(optimizer.copy(), train, "cuda").fused is False
    optimizer.fused, train.amp = None, {"enabled": True, "dtype": "fp16"}  # would unscale gradients after clipping
    assert acceleration.with_fused_steps(optimizer.copy(), train, "cuda").fused is None


def small(name: str) -> nn.Module:
    node = tiny(LazyConfig.load(find_config(name)).model)
    node.encoder.num_layers = node.decoder.num_layers = 2
    torch.manual_seed(0)
    return instantiate(node).train()


def total(model: nn.Module, sizes: tuple[int, int], objects: tuple[int, int]) -> torch.Tensor:
    torch.manual_seed(1)
    batch = image_batch(*objects, sizes=(sizes,) * 2)
    torch.manual_seed(2)  # of the denoising queries
    return model(batch).total


def test_the_channels_of_convolutions_come_last_and_nothing_else_changes():
    plain, placed = small("dino_toy"), small("dino_toy")
    acceleration.place(placed, config(channels_last=True), torch.device("cpu"))
    convolutions = [module for module in placed.backbone.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.weight.is_contiguous(memory_format=torch.channels_last) for module in convolutions)
    assert any(not module.weight.is_contiguous() for module in convolutions)
    one, other = (total(model, (64, 96), (2, 1)) for model in (plain, placed))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_compiled_layers_keep_names_and_losses_and_a_third_size_compiles_nothing():
    plain, compiled = small("dino_toy"), small("dino_toy")
    counter = CompileCounterWithBackend("eager")
    modules = acceleration.compile_layers(compiled, counter)
    assert len(modules) == 1 + len(compiled.encoder.layers) + len(compiled.decoder.layers)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    counts = []
    for sizes, objects in [((64, 64), (2, 1)), ((96, 96), (4, 3)), ((128, 64), (1, 1))]:
        one, other = total(plain, sizes, objects), total(compiled, sizes, objects)
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
        counts.append(counter.frame_count)
    assert counts[0] == 3 and counts[1] <= 2 * 3 and counts[2] == counts[1], "once for the first size, once for others"
    one.backward()
    other.backward()
    for (name, ours), theirs in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        assert ours.grad is None or torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6), name
