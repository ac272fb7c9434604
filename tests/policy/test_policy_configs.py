"""Every config file loads, builds the pinned tensors without memory or network, and comes back from disk as it was."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyConfig
from crossstage.config.source import files_run_once
from tests.pinned_names import changes, found, pinned

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("projects/*/configs/**/*.py"))
EXPERIMENTS = [name for name in FILES if "/models/" not in name]


@pytest.fixture(scope="module", autouse=True)
def _files_that_many_configs_import_run_once():
    with files_run_once():
        yield


@pytest.mark.parametrize("name", FILES)
def test_a_config_builds_and_survives_the_disk(name: str, tmp_path: Path):
    config = LazyConfig.load(str(ROOT / name))
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    assert not list(tmp_path.glob("*.pkl")), "a config of ours is data: YAML can hold it"
    assert LazyConfig.to_py(LazyConfig.load(str(tmp_path / "config.yaml"))) == LazyConfig.to_py(config)
    parts = found(config.model)
    assert parts
    # `${up:key}` holds wherever its node is moved; `${..key}` and `${...key}` do not.
    assert {path: value for path, value in written_values(config) if re.search(r"\$\{[^}]*(?<!\w)\.", value)} == {}
    if name in EXPERIMENTS:
        assert changes(pinned().get(Path(name).stem, {}), parts) == [], "run python -m tests.pinned_names"
        check_experiment(name, config)


def written_values(config: DictConfig) -> Iterator[tuple[str, str]]:
    """The strings of a config with their paths, interpolations as they are written."""
    pending = [("", OmegaConf.to_container(config, resolve=False))]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            pending += [(f"{path}.{key}".lstrip("."), item) for key, item in items]
        elif isinstance(value, str):
            yield path, value


def test_no_pinned_config_is_gone():
    assert [name for name in pinned() if name not in {Path(path).stem for path in EXPERIMENTS}] == []


def test_a_change_of_names_is_told_by_its_part():
    before, after = {"neck": "4:a", "decoder": "9:b"}, {"decoder": "8:c", "queries": "1:d", "neck": "4:a"}
    assert changes(before, after) == ["decoder: 9:b -> 8:c", "queries: None -> 1:d"]


def check_experiment(name: str, config: DictConfig) -> None:
    """An experiment defines what the trainer needs, its interpolations resolve, and one value moves its data."""
    for root in ("model", "optimizer", "lr_multiplier", "train"):
        assert root in config, root
    for part in ("root", "train", "test", "evaluator"):
        assert part in config.dataloader, part
    assert config.train.output_dir == f"./output/{Path(name).stem}"
    OmegaConf.to_container(config, resolve=True)
    config.dataloader.root, config.dataloader.image_size = "/elsewhere", 320
    resolved = OmegaConf.to_container(config.dataloader, resolve=True)
    for part in ("train", "test"):
        assert resolved[part]["dataset"]["json_file"].startswith("/elsewhere/annotations/")
        assert resolved[part]["dataset"]["image_root"].startswith("/elsewhere/")
        transform = resolved[part]["transform"]
        assert 320 in [node.get("image_size") for node in transform.get("transforms", [transform])]
    assert resolved["evaluator"]["json_file"] == resolved["test"]["dataset"]["json_file"]
